"""A reference network for whatever has no study: a small, plain encoder and decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StandardReference(nn.Module):
    """Convolutions down to a quarter of the side and bilinear interpolation back.

    It does what dense prediction networks do, in every runtime. Changing it changes every ratio
    that was ever printed: do not.

    Args:
        in_channels: Channels of the input.

    Shape:
        (B, in_channels, H, W) -> (B, 16, H, W), for any H, W >= 1.
    """

    def __init__(self, in_channels: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.down = nn.ModuleList(
                nn.Conv2d(channels, 2 * width, 3, stride=stride, padding=1)
                for channels, width, stride in ((in_channels, 8, 1), (16, 16, 2), (32, 32, 2))
            )
            self.up = nn.ModuleList(
                nn.Conv2d(channels, width, 3, padding=1) for channels, width in ((64, 32), (32, 16))
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return features at the input's resolution."""
        sizes = []
        for conv in self.down:
            sizes.append(x.shape[-2:])
            x = F.relu(conv(x))
        sizes = sizes[1:]
        for conv in self.up:
            x = F.interpolate(x, size=sizes.pop(), mode="bilinear", align_corners=False)
            x = F.relu(conv(x))
        return x
