from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.initialisation import tie_phases_


class Transposed(Upsampler):
    """Transposed convolution with stride s.

    Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038, section 3.3; arithmetic in Dumoulin and
    Visin, https://arxiv.org/abs/1603.07285, chapter 4. Only kernels that are centred and cover
    every output pixel evenly are offered: a 3x3 kernel with stride 2 shifts the content by half a
    pixel and feeds a quarter of the pixels from one tap and another quarter from four.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        kernel_size: Side of the kernel at s = 2. At any s, 2 means side s (no overlap: an output
            pixel reads one input pixel) and 4 means side 2s - (s mod 2) (overlap: at most 2x2).
        init: ``tied``: the phases start with equal gain, without checkerboard: nearest (2) or
            bilinear (4) interpolation of a random 1x1 convolution, bias zero. ``default``:
            PyTorch's own initialisation, which starts with a strong checkerboard.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``kernel_size`` is neither 2 nor 4.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        kernel_size: Literal[2, 4] = 4,
        init: Literal["tied", "default"] = "tied",
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        if kernel_size not in (2, 4):
            raise ValueError(
                f"Transposed: kernel_size must be 2 (no overlap) or 4 (overlap), got {kernel_size}."
                " Other sides shift the content or cover the output unevenly."
            )
        side = scale_factor if kernel_size == 2 else 2 * scale_factor - scale_factor % 2
        self.conv = nn.ConvTranspose2d(
            channels,
            self.out_channels,
            side,
            stride=scale_factor,
            padding=(side - scale_factor) // 2,
        )
        if init == "tied":
            tie_phases_(self.conv)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y: Tensor = self.conv(x)
        return y
