from __future__ import annotations

from upnas.upsamplers.interpolation import Bilinear


class Deferred(Bilinear):
    """Stay at low resolution; the decoder interpolates its output bilinearly, once.

    The choice of mobile decoders such as LR-ASPP (Howard et al., ICCV 2019,
    https://arxiv.org/abs/1905.02244, section 6.4). The decoder leaves the operator out: its stage,
    and all that follow, work on maps that are s times smaller, with skips averaged down to them,
    and the output of the head is enlarged by the product of the deferred factors. On its own the
    operator is :class:`Bilinear`.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``.
    """

    dims = frozenset({2})
    per_axis = False
    fractional = False
    deferred = True
    paper = "Howard et al., ICCV 2019, https://arxiv.org/abs/1905.02244, section 6.4"
    formula = "no operation in its stage; bilinear interpolation of the decoder's output"
    pitfalls = (
        "Detail that the skips of its stage and of later ones hold is averaged away.",
        "Saves the most at the last stages, where the maps are largest.",
    )

    def __init__(self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
