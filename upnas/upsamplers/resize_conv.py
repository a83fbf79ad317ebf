"""Interpolation with a convolution before or after it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.initialisation import kaiming_
from upnas.upsamplers.interpolation import upsampled_size


class NearestConv(Upsampler):
    """Nearest-neighbour resizing, then a 3x3 convolution (resize-convolution).

    Odena et al., Distill 2016, https://doi.org/10.23915/distill.00003. Zero padding; no activation.
    Free of checkerboard at initialisation and, unlike a sub-pixel convolution, by construction
    close to it after training: all output pixels share one 3x3 kernel.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    def __init__(self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.conv = nn.Conv2d(channels, self.out_channels, 3, padding=1)
        kaiming_(self.conv)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        u = F.interpolate(x, size=upsampled_size(x, self.scale_factor), mode="nearest")
        y: Tensor = self.conv(u)
        return y


class BilinearConv1x1(Upsampler):
    """A 1x1 convolution, then bilinear interpolation.

    The two commute exactly, because interpolation weights sum to one and act per channel, so the
    convolution runs first, on s*s times fewer pixels. That is the difference from the usual
    spelling, in which it comes last.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    keeps_constants = True

    def __init__(self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.conv = nn.Conv2d(channels, self.out_channels, 1)
        kaiming_(self.conv)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        size = upsampled_size(x, self.scale_factor)
        return F.interpolate(self.conv(x), size=size, mode="bilinear", align_corners=False)


class UNetBlock(Upsampler):
    """Bilinear interpolation, 3x3 convolution, batch norm, ReLU.

    The up-sampling step of the bilinear U-Nets that followed Ronneberger et al., MICCAI 2015,
    https://arxiv.org/abs/1505.04597 (whose own is a transposed convolution). Differs from the
    widespread code: ``align_corners=False``, whose positions do not depend on the resolution.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    def __init__(self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.conv = nn.Conv2d(channels, self.out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(self.out_channels)
        kaiming_(self.conv, "relu")

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        size = upsampled_size(x, self.scale_factor)
        u = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return F.relu(self.norm(self.conv(u)))
