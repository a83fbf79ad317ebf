from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler


class Projected(Upsampler):
    """A 1x1 convolution to the wanted channels, then an upsampler that keeps them.

    Lets operators that keep their channels stand in for ones that change them.

    Args:
        channels: Channels C of the input.
        upsampler: What follows the convolution; its channels are C_out, its factor is s.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If the upsampler is for volumes or its factors are no common integer.
    """

    def __init__(self, channels: int, upsampler: Upsampler):
        if upsampler.spatial_dims != 2:
            raise ValueError("Projected is for 2-D features.")
        super().__init__(channels, upsampler.out_channels, scale_factor=upsampler.scale_factor)
        self.project = nn.Conv2d(channels, upsampler.channels, 1)
        self.upsampler = upsampler
        self.guided, self.guide_channels = upsampler.guided, upsampler.guide_channels

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y: Tensor = self.upsampler(self.project(x), guide=guide)
        return y

    @override
    def macs_per_pixel(self) -> int:
        return self.channels * self.upsampler.channels + self.upsampler.macs_per_pixel()
