"""Initial weights that the learned upsamplers share.

All learned upsamplers start from unit-gain normal weights with zero biases, so that one starts no
better than another by its scale, and none of them starts with a checkerboard.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Nonlinearity = Literal["linear", "relu", "leaky_relu"]
LEAKY_SLOPE = 0.2


def kaiming_(conv: nn.Conv2d, nonlinearity: Nonlinearity = "linear") -> None:
    """Fill a convolution with unit-gain normal weights (He et al., 2015) and a zero bias.

    https://arxiv.org/abs/1502.01852, eq. 10, 15.

    Args:
        conv: The convolution, changed in place.
        nonlinearity: What follows the convolution; ``leaky_relu`` means slope ``LEAKY_SLOPE``.
    """
    nn.init.kaiming_normal_(conv.weight, a=LEAKY_SLOPE, nonlinearity=nonlinearity)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


@torch.no_grad()
def icnr_(conv: nn.Conv2d, scale_factor: int, nonlinearity: Nonlinearity = "linear") -> None:
    """Give the s*s sub-pixels of each output channel the same weights, and a zero bias.

    ICNR, Aitken et al., 2017, https://arxiv.org/abs/1707.02937: after the pixel shuffle
    the convolution starts as nearest-neighbour resizing, free of checkerboard. The default bias
    differs between sub-pixels and would bring a checkerboard back.

    Args:
        conv: The convolution in front of the pixel shuffle, changed in place.
        scale_factor: Factor s of the pixel shuffle; divides the output channels by s*s.
        nonlinearity: What follows the pixel shuffle.
    """
    kaiming_(conv, nonlinearity)
    phases = scale_factor**2
    conv.weight.copy_(conv.weight[::phases].repeat_interleave(phases, dim=0))


@torch.no_grad()
def tie_phases_(conv: nn.ConvTranspose2d) -> None:
    """Make a transposed convolution start as a 1x1 convolution followed by interpolation.

    The kernel is one unit-gain matrix (C, C_out) times a fixed profile whose s phases sum to one:
    a box where the kernel is as wide as the stride (every sub-kernel is the same: nearest), a
    triangle where kernels overlap (bilinear). All phases then have the same gain, which is the
    condition for no checkerboard (Sugawara et al., 2018, https://arxiv.org/abs/1806.02658).

    Args:
        conv: Square kernel of side s or 2s - (s mod 2), stride s; changed in place.
    """
    side, stride = conv.kernel_size[0], conv.stride[0]
    profile = _profile(side, stride)
    mixing = torch.randn(conv.in_channels, conv.out_channels) / conv.in_channels**0.5
    conv.weight.copy_(mixing[:, :, None, None] * profile[:, None] * profile)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _profile(side: int, stride: int) -> Tensor:
    """Interpolation weights at the taps of one axis: box or triangle."""
    if side == stride:
        return torch.ones(side)
    distance = (torch.arange(side) - (side - 1) / 2).abs()
    return 1 - distance / stride
