from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import ScaleFactor, Upsampler
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.initialisation import bilinear_, tie_phases_

Init = Literal["tied", "bilinear", "default"]

_CONVOLUTION: dict[int, Callable[..., nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Transposed(Upsampler):
    """Transposed convolution with stride s.

    Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038, section 3.3; arithmetic in Dumoulin and
    Visin, https://arxiv.org/abs/1603.07285, chapter 4. Every input pixel adds its kernel, weighted,
    to the output::

        y[Y] = sum of x[i] W[Y - s*i + p]  over the i with 0 <= Y - s*i + p < k,   p = (k - s) / 2

    Only kernels that are centred and cover every output pixel evenly are offered: a 3x3 kernel with
    stride 2 shifts the content by half a pixel and feeds a quarter of the pixels from one tap and
    another quarter from four. As in the paper there is nothing beyond the border: where kernels
    overlap, the outermost pixels lack a neighbour's share and are darker.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s, or one per axis.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        kernel_size: Side of the kernel at s = 2. At any s, 2 means side s (no overlap: an output
            pixel reads one input pixel) and 4 means side 2s - (s mod 2) (overlap: at most 2x2).
        init: ``tied``: all phases start with the same random sub-kernel, as nearest-neighbour
            resizing of a 1x1 (2) or 2x2 (4) convolution. ``bilinear``: as nearest (2) or bilinear
            (4) interpolation, of a random 1x1 convolution where C_out differs from C. Both without
            checkerboard, bias zero. ``default``: PyTorch's own initialisation, which starts with a
            strong checkerboard.
        norm_act: Follow with batch norm and ReLU; the convolution then has no bias.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``kernel_size`` is neither 2 nor 4, or ``init`` is not offered.
    """

    dims = frozenset({2, 3})
    per_axis = True

    paper = "Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038"
    formula = "y[Y] = sum_i x[i] W[Y - s i + p], 0 <= Y - s i + p < k\nk = s or 2s - (s mod 2)"
    pitfalls = (
        "The phases of the output have weights of their own: training may bring a checkerboard, "
        "init='default' starts with one.",
        "kernel_size 4 darkens the border, which lacks the share of a neighbour.",
    )
    params_formula = (
        "C * C_out * (s if kernel_size == 2 else 2*s - s % 2)**2 + (2 if norm_act else 1) * C_out"
    )
    macs_formula = "C * C_out * (s if kernel_size == 2 else 2*s - s % 2)**2"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
        kernel_size: Literal[2, 4] = 4,
        init: Init = "tied",
        norm_act: bool = False,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, spatial_dims=spatial_dims
        )
        if kernel_size not in (2, 4):
            raise ValueError(
                f"Transposed: kernel_size must be 2 (no overlap) or 4 (overlap), got {kernel_size}."
                " Other sides shift the content or cover the output unevenly."
            )
        check_choice(type(self).__name__, "init", init, Init)
        sides = tuple(s if kernel_size == 2 else 2 * s - s % 2 for s in self.factors)
        self.conv = _CONVOLUTION[spatial_dims](
            channels,
            self.out_channels,
            sides,
            stride=self.factors,
            padding=tuple((side - s) // 2 for side, s in zip(sides, self.factors, strict=True)),
            bias=not norm_act,
        )
        if init == "tied":
            tie_phases_(self.conv)
        elif init == "bilinear":
            bilinear_(self.conv)
        self.norm = _NORM[spatial_dims](self.out_channels) if norm_act else None

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y: Tensor = self.conv(x)
        return y if self.norm is None else F.relu(self.norm(y))

    @override
    def macs_per_pixel(self) -> int:
        return self.channels * self.out_channels * math.prod(self.conv.kernel_size)
