from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.initialisation import kaiming_
from upnas.upsamplers.interpolation import upsampled_size


class Separable(Upsampler):
    """Nearest resizing, depthwise 3x3 convolution, batch norm, ReLU, 1x1 convolution.

    The efficient up-convolution block (EUCB) of EMCAD, Rahman et al., CVPR 2024,
    https://arxiv.org/abs/2405.06880. Differs from the authors' code: their channel
    shuffle is called with as many groups as channels, which is the identity, and is left out.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    def __init__(self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, self.out_channels, 1)
        kaiming_(self.depthwise, "relu")
        kaiming_(self.pointwise)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        u = F.interpolate(x, size=upsampled_size(x, self.scale_factor), mode="nearest")
        y: Tensor = self.pointwise(F.relu(self.norm(self.depthwise(u))))
        return y
