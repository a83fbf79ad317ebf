"""Convolution to s*s times the channels, then a pixel shuffle."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from upnas.upsamplers.base import ScaleFactor, Upsampler
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.functional.convolution import CONVOLUTION, mix_channels
from upnas.upsamplers.functional.shuffle import box_blur, pixel_shuffle
from upnas.upsamplers.initialisation import LEAKY_SLOPE, icnr_

Activation = Literal["none", "leaky_relu"]


class SubPixel(Upsampler):
    """Sub-pixel convolution: 3x3 convolution to s*s*C_out channels, then a pixel shuffle.

    Shi et al., CVPR 2016, https://arxiv.org/abs/1609.05158, eq. 3-4, with the ICNR initialisation
    of Aitken et al., 2017, https://arxiv.org/abs/1707.02937, and a zero bias: no checkerboard at
    the start. Zero padding.

    ``blur`` appends the average over s x s pixels of Sugawara et al., 2018,
    https://arxiv.org/abs/1806.02658, which keeps the checkerboard away in training too. Differs
    from the fastai and MONAI spelling of it, which pads above and left and so shifts the content by
    half a pixel at s = 2 (and darkens that border where it pads zeros): the window is centred, the
    pixels that it cuts in half count half ([1, 2, 1] / 4), the map continues beyond the border by
    its last pixels. Nothing shifts, and it starts as bilinear interpolation of a convolution.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s, or one per axis.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        activation: What follows the pixel shuffle; ``leaky_relu`` has slope 0.2.
        blur: Average over s x s pixels at the end.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    dims = frozenset({2, 3})
    per_axis = True

    paper = "Shi et al., CVPR 2016, https://arxiv.org/abs/1609.05158"
    formula = (
        "z = conv3x3(x), s^2 C_out channels\n"
        "y[c, Y, X] = z[c s^2 + s (Y mod s) + X mod s, Y // s, X // s]"
    )
    pitfalls = (
        "The sub-pixels have weights of their own: training may bring a checkerboard; blur=True "
        "keeps it away.",
        "A bias that differs between the sub-pixels is a checkerboard; ICNR alone leaves PyTorch's "
        "random one. Here it starts from zero.",
    )
    params_formula = "(9*C + 1) * s**2 * C_out"
    macs_formula = "s**2 * C_out * (9*C + blur * (s + 1 - s % 2)**2)"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
        activation: Activation = "none",
        blur: bool = False,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, spatial_dims=spatial_dims
        )
        check_choice(type(self).__name__, "activation", activation, Activation)
        self.activation = activation
        self.blur = blur
        phases = math.prod(self.factors)
        self.conv = CONVOLUTION[spatial_dims](channels, self.out_channels * phases, 3, padding=1)
        icnr_(self.conv, phases, "linear" if activation == "none" else activation)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y = pixel_shuffle(self.conv(x), self.factors)
        if self.activation == "leaky_relu":
            y = F.leaky_relu(y, LEAKY_SLOPE)
        return box_blur(y, self.factors) if self.blur else y

    @override
    def macs_per_pixel(self) -> int:
        window = math.prod(s + 1 - s % 2 for s in self.factors) if self.blur else 0
        taps = math.prod(self.conv.kernel_size) * self.channels + window
        return math.prod(self.factors) * self.out_channels * taps

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}, blur={self.blur}"


class LightSubPixel(Upsampler):
    """1x1 convolution to s*s*C_out channels, a pixel shuffle, Hardswish.

    The sub-pixel convolution of Shi et al. (https://arxiv.org/abs/1609.05158) at a ninth of its
    cost, with the Hardswish of Howard et al., ICCV 2019 (https://arxiv.org/abs/1905.02244, section
    5.2) and ICNR initialisation. An output pixel reads one input pixel: the sub-pixels differ by
    their mixture of channels only, so the spatial detail must already be in the channels.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s, or one per axis.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    dims = frozenset({2, 3})
    per_axis = True

    paper = "Shi et al., CVPR 2016, https://arxiv.org/abs/1609.05158"
    formula = "y = hardswish(pixel_shuffle(conv1x1(x)))"
    pitfalls = (
        "Mixes channels and not pixels: the detail must already be in the channels.",
        "The sub-pixels have weights of their own: training may bring a checkerboard.",
    )
    params_formula = "(C + 1) * s**2 * C_out"
    macs_formula = "s**2 * C * C_out"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, spatial_dims=spatial_dims
        )
        phases = math.prod(self.factors)
        self.conv = CONVOLUTION[spatial_dims](channels, self.out_channels * phases, 1)
        icnr_(self.conv, phases, "relu")

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return F.hardswish(pixel_shuffle(mix_channels(self.conv, x), self.factors))

    @override
    def macs_per_pixel(self) -> int:
        return math.prod(self.factors) * self.channels * self.out_channels
