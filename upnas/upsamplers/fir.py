from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from upnas.upsamplers.base import ScaleFactor, Upsampler
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.functional.convolution import CONV_TRANSPOSE
from upnas.upsamplers.functional.reassembly import Padding


class Fir(Upsampler):
    """Zero insertion and a binomial low-pass filter, the upsampling of StyleGAN2.

    Karras et al., CVPR 2020, https://arxiv.org/abs/1912.04958: s - 1 zeros behind every pixel, then
    a separable filter of gain s per axis. Its taps are binomial: n = taps - 1 boxes of two,
    convolved with one another, which is [1, 3, 3, 1] / 4 for the paper's n = 3. At other factors
    the boxes are s wide, since then all s phases of the filter sum to one: the paper's four taps
    would make a checkerboard at s = 3.

    At s = 2 the filter of two taps is nearest and that of four is bilinear interpolation, also at
    the border. More taps, or a greater s, blur more and suppress more of the images of the spectrum
    that zero insertion makes; unlike cubic interpolation it never overshoots. Differs from the
    authors' code: the input continues by replication, not by zeros, which darken the border.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s, one for all axes or one per axis.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        taps: Length of the filter at s = 2: [1, 1], [1, 3, 3, 1] or [1, 5, 10, 10, 5, 1]. At any s
            it is (taps - 1)(s - 1) + 1.
        padding: How the input continues beyond its border: ``replicate``, or ``zeros`` as in the
            paper; constants are kept with ``replicate`` only.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``taps`` or ``padding`` is not offered, or ``out_channels`` differs from
            ``channels``.
    """

    paper = "Karras et al., CVPR 2020, https://arxiv.org/abs/1912.04958"
    formula = (
        "y[i] = sum_j k[i - s j + p] x[j] in each axis, p = (len(k) - s) / 2\n"
        "k = box_s * ... * box_s / s^(n - 1), n = taps - 1 boxes; s = 2: [1, 3, 3, 1] / 4"
    )
    pitfalls = (
        "At s = 2, taps 4 is bilinear and taps 2 is nearest interpolation, by another kernel.",
        "padding='zeros' darkens the border: x 0.75 along edges at s = 2 and taps 4.",
    )
    macs_formula = "((taps - 1) * (s - 1) + 1)**2 * C"
    keeps_channels = True
    keeps_constants = True
    per_axis = True
    dims = frozenset({2, 3})

    kernel: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
        taps: Literal[2, 4, 6] = 4,
        padding: Padding = "replicate",
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, spatial_dims=spatial_dims
        )
        if taps not in (2, 4, 6):
            raise ValueError(
                f"Fir: taps must be 2, 4 or 6, got {taps}. An odd number shifts the content."
            )
        check_choice(type(self).__name__, "padding", padding, Padding)
        self.taps = taps
        self.padding = padding
        self.keeps_constants = padding == "replicate"
        kernel = self._filter()
        self.register_buffer("kernel", kernel.to(torch.get_default_dtype()), persistent=False)
        #: Input pixels beyond each border that the outermost output pixel still reads.
        self._reach = tuple(
            ((side + s) // 2 - 1) // s if padding == "replicate" else 0
            for side, s in zip(kernel.shape[2:], self.factors, strict=True)
        )
        self._crop = tuple(
            (side - s) // 2 + s * reach
            for side, s, reach in zip(kernel.shape[2:], self.factors, self._reach, strict=True)
        )

    def _filter(self) -> Tensor:
        """(1, 1, *sides) in double precision."""
        profiles = [_profile(self.taps - 1, s) for s in self.factors]
        return torch.tensor(functools.reduce(np.multiply.outer, profiles))[None, None]

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # to_empty() leaves it undefined, and no state dict brings it back.
        self.kernel = self._filter().to(self.kernel)
        return self

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        if self.padding == "replicate":
            x = F.pad(x, [n for n in reversed(self._reach) for _ in range(2)], mode="replicate")
        return CONV_TRANSPOSE[self.spatial_dims](
            x,
            self.kernel.expand(self.channels, *self.kernel.shape[1:]),
            stride=self.factors,
            padding=self._crop,
            groups=self.channels,
        )

    @override
    def macs_per_pixel(self) -> int:
        return math.prod(self.kernel.shape) * self.channels

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, taps={self.taps}, padding={self.padding}"


def _profile(num_boxes: int, stride: int) -> NDArray[np.float64]:
    """The filter of one axis: boxes of the stride's width convolved, with gain s."""
    profile = np.ones(stride)
    for _ in range(num_boxes - 1):
        profile = np.convolve(profile, np.ones(stride)) / stride
    return profile
