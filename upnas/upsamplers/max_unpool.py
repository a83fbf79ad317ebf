from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import GuidedUpsampler


class MaxUnpool(GuidedUpsampler):
    """Max-unpooling: each value goes to where the guide is largest in its s x s block.

    Badrinarayanan et al. (SegNet), TPAMI 2017, https://arxiv.org/abs/1511.00561; Zeiler and Fergus,
    ECCV 2014, https://arxiv.org/abs/1311.2901. Per channel, with the guide e::

        y[s*h + i, s*w + j] = x[h, w] where (i, j) is the first largest of e in the block, else 0

    In SegNet the encoder pools e and hands over the indices. Here they come from pooling the guide,
    so that every encoder will do; where the encoder does max-pool the guide, they are its indices.

    Differs from ``nn.MaxUnpool2d``: a comparison instead of a scatter, so that it is deterministic
    on CUDA and exports. A guide of other channels than x: x passes a 1x1 convolution to C_guide
    channels before. An output of other channels than the guide: it passes a 1x1 convolution without
    bias, which keeps the zeros, after. The guide gets no gradient.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels of the guide; None means C.

    Shape:
        (B, C, H, W) and a guide (B, C_guide, s*H, s*W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    paper = "Badrinarayanan et al. (SegNet), TPAMI 2017, https://arxiv.org/abs/1511.00561"
    formula = "y = x at the first largest guide value of each s x s block, 0 elsewhere"
    pitfalls = (
        "All but one of s*s output pixels are zero: convolutions must follow to fill them.",
        "The guide gets no gradient.",
        "Of equal guide values, frequent after a ReLU and in half precision, the first wins.",
        "Only a guide that the encoder itself max-pools carries SegNet's indices; encoders with "
        "strided convolutions have none.",
    )
    params_formula = "(C != C_guide) * (C + 1) * C_guide + (C_out != C_guide) * C_guide * C_out"
    macs_formula = "(C != C_guide) * C * C_guide + (C_out != C_guide) * s**2 * C_guide * C_out"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, guide_channels=guide_channels
        )
        self.project_in = (
            nn.Conv2d(channels, self.guide_channels, 1) if channels != self.guide_channels else None
        )
        self.project_out = (
            nn.Conv2d(self.guide_channels, self.out_channels, 1, bias=False)
            if self.guide_channels != self.out_channels
            else None
        )

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None  # forward() has checked it
        if self.project_in is not None:
            x = self.project_in(x)
        y = unpool(x, guide, self.scale_factor)
        return y if self.project_out is None else self.project_out(y)

    @override
    def macs_per_pixel(self) -> int:
        before = 0 if self.project_in is None else self.project_in.weight.numel()
        after = 0 if self.project_out is None else self.project_out.weight.numel()
        return before + self.scale_factor**2 * after


def unpool(x: Tensor, guide: Tensor, scale_factor: int) -> Tensor:
    """Put each value where the guide is largest in its block, the first where it is so twice.

    Args:
        x: (B, C, H, W).
        guide: (B, C, s*H, s*W).
        scale_factor: Integer factor s.

    Returns:
        (B, C, s*H, s*W), zero elsewhere, channels_last in memory if ``x`` is.
    """
    (b, c, h, w), s = x.shape, scale_factor
    _, indices = F.max_pool2d(guide.detach(), s, return_indices=True)
    # (B, H, s, W, s, C): every pixel of the output asks whether it is the one of its block.
    position = torch.arange(s * h * s * w, device=x.device).view(h, s, w, s, 1)
    chosen = position == indices.permute(0, 2, 3, 1)[:, :, None, :, None]
    y = torch.where(chosen, x.permute(0, 2, 3, 1)[:, :, None, :, None], 0)
    return y.reshape(b, s * h, s * w, c).permute(0, 3, 1, 2)
