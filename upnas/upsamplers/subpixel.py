"""Convolution to s*s times the channels, then a pixel shuffle."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.initialisation import LEAKY_SLOPE, icnr_


class SubPixel(Upsampler):
    """Sub-pixel convolution: 3x3 convolution to s*s*C_out channels, then a pixel shuffle.

    Shi et al., CVPR 2016, https://arxiv.org/abs/1609.05158, eq. 3-4, with the ICNR initialisation
    of Aitken et al., 2017, https://arxiv.org/abs/1707.02937, and a zero bias: no checkerboard at
    the start. Zero padding.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        activation: What follows the pixel shuffle; ``leaky_relu`` has slope 0.2.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        activation: Literal["none", "leaky_relu"] = "none",
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.activation = activation
        self.conv = nn.Conv2d(channels, self.out_channels * scale_factor**2, 3, padding=1)
        icnr_(self.conv, scale_factor, "linear" if activation == "none" else activation)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y = F.pixel_shuffle(self.conv(x), self.scale_factor)
        return y if self.activation == "none" else F.leaky_relu(y, LEAKY_SLOPE)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"


class LightSubPixel(Upsampler):
    """1x1 convolution to s*s*C_out channels, a pixel shuffle, Hardswish.

    The sub-pixel convolution of Shi et al. (https://arxiv.org/abs/1609.05158) at a ninth of its
    cost, with the Hardswish of Howard et al., ICCV 2019 (https://arxiv.org/abs/1905.02244, section
    5.2) and ICNR initialisation. An output pixel reads one input pixel: the sub-pixels differ by
    their mixture of channels only, so the spatial detail must already be in the channels.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    def __init__(self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.conv = nn.Conv2d(channels, self.out_channels * scale_factor**2, 1)
        icnr_(self.conv, scale_factor, "relu")

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return F.hardswish(F.pixel_shuffle(self.conv(x), self.scale_factor))
