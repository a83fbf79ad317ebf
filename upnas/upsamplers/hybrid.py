from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.choices import check_choice

AttentionKernel = Literal[3, 7]


class Hybrid(Upsampler):
    """Bilinear interpolation, a residual 3x3 refinement and spatial attention.

    ::

        u = bilinear(x)
        r = u + conv3x3(u)
        y = r * 2 sigmoid(conv7x7([mean_c r, max_c r]))

    The attention is that of CBAM, Woo et al., ECCV 2018, https://arxiv.org/abs/1807.06521, eq. 3.
    There is no official source of the combination; this is its definition here. The factor 2 and
    zero initial weights make it start exactly as bilinear interpolation. Zero padding.

    Args:
        channels: Channels C of input and output; the residual keeps them.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        attention_kernel: Side of the attention's convolution, CBAM's 3 or 7.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``attention_kernel`` is not offered, or ``out_channels`` differs from
            ``channels``.
    """

    keeps_channels = True

    paper = "Attention: Woo et al., ECCV 2018, https://arxiv.org/abs/1807.06521"
    formula = "u = bilinear(x), r = u + conv3x3(u)\ny = r * 2 sigmoid(conv7x7([mean_c r, max_c r]))"
    pitfalls = (
        "Convolves at the output resolution: s^2 times the cost of a 3x3 convolution of the input.",
        "Zero padding marks the border once the weights are trained.",
    )
    params_formula = "9*C**2 + C + 2*attention_kernel**2 + 1"
    macs_formula = "s**2 * (9*C**2 + 4*C + 2*attention_kernel**2)"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        attention_kernel: AttentionKernel = 7,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        check_choice(type(self).__name__, "attention_kernel", attention_kernel, AttentionKernel)
        self.refine = nn.Conv2d(channels, channels, 3, padding=1)
        self.attend = nn.Conv2d(2, 1, attention_kernel, padding=attention_kernel // 2)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        size = self.upsampled_size(x)
        u = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        refined = u + self.refine(u)
        summary = torch.cat([refined.mean(1, keepdim=True), refined.amax(1, keepdim=True)], dim=1)
        y: Tensor = refined * (2 * torch.sigmoid(self.attend(summary)))
        return y

    @override
    def macs_per_pixel(self) -> int:
        interpolation = 4 * self.channels
        convolutions = self.refine.weight.numel() + self.attend.weight.numel()
        return self.scale_factor**2 * (interpolation + convolutions)
