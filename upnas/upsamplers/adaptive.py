from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.interpolation import Bilinear
from upnas.upsamplers.resize_conv import BilinearConv1x1
from upnas.upsamplers.switched import Switched
from upnas.upsamplers.transposed import Transposed


class Adaptive(Switched):
    """The resolution rule: transposed convolution on small maps, bilinear interpolation on large.

    A widespread rule of thumb, without a paper; a baseline of every study. A map is small when its
    longer side is below the threshold, so the costlier arm never sees more than threshold^2 pixels.
    Both arms are trained only on the resolutions that they serve. The branch depends on the shape:
    an exported network has the arm of its example input.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        threshold: Side in input pixels from which on the map counts as large.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.

    Attributes:
        small: :class:`Transposed`.
        large: :class:`Bilinear`, or :class:`BilinearConv1x1` where C_out differs from C.
    """

    formula = "transposed(x) if max(H, W) < threshold else bilinear(x)"
    pitfalls = (
        "Trained on crops and run on whole images it may use the arm that was not trained: "
        "pin() it at the final resolution, as upnas does.",
        "The choice depends on the shape: torch.compile guards on it, an export holds one arm.",
    )
    params_formula = "C*C_out*(2*s - s % 2)**2 + C_out + (0 if C_out == C else C*C_out + C_out)"
    macs_formula = "C*C_out*(2*s - s % 2)**2"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        threshold: Annotated[int, Field(ge=1)] = 128,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.threshold = threshold
        large = Bilinear if self.out_channels == channels else BilinearConv1x1
        self.small = Transposed(channels, out_channels, scale_factor=scale_factor)
        self.large = large(channels, out_channels, scale_factor=scale_factor)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y: Tensor = self.collapse(self.deciding_resolution(x))(x)
        return y

    @override
    def alternatives(self) -> tuple[Upsampler, ...]:
        return self.small, self.large

    @override
    def collapse(self, resolution: tuple[int, int]) -> Upsampler:
        return self.small if max(resolution) < self.threshold else self.large

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, threshold={self.threshold}"
