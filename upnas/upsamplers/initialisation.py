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


def kaiming_(conv: nn.Conv2d | nn.Conv3d, nonlinearity: Nonlinearity = "linear") -> None:
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
def icnr_(conv: nn.Conv2d | nn.Conv3d, phases: int, nonlinearity: Nonlinearity = "linear") -> None:
    """Give the sub-pixels of each output channel the same weights, and a zero bias.

    ICNR, Aitken et al., 2017, https://arxiv.org/abs/1707.02937: after the pixel shuffle
    the convolution starts as nearest-neighbour resizing, free of checkerboard. The default bias
    differs between sub-pixels and would bring a checkerboard back.

    Args:
        conv: The convolution in front of the pixel shuffle, changed in place.
        phases: Sub-pixels of a pixel, the product of the factors of the pixel shuffle; divides the
            output channels.
        nonlinearity: What follows the pixel shuffle.
    """
    kaiming_(conv, nonlinearity)
    conv.weight.copy_(conv.weight[::phases].repeat_interleave(phases, dim=0))


@torch.no_grad()
def tie_phases_(conv: nn.ConvTranspose2d | nn.ConvTranspose3d) -> None:
    """Give all phases of a transposed convolution the same random sub-kernel, and a zero bias.

    ICNR for transposed convolutions. A kernel of side s or 2s holds one or two taps per axis for
    each of the s phases of the output; all phases get the same ones, so the convolution starts as
    nearest-neighbour resizing of a 1x1 or 2x2 convolution. In a kernel of side 2s - 1 (odd s) the
    central phase has one tap, which gets the sum of the two. All phases then have the same gain,
    which is the condition for no checkerboard (Sugawara et al., 2018,
    https://arxiv.org/abs/1806.02658).

    Args:
        conv: Per axis, kernel of side s or 2s - (s mod 2) and stride s; changed in place.
    """
    profiles = []
    for side, s in zip(conv.kernel_size, conv.stride, strict=True):
        tap = torch.arange(side, device=conv.weight.device)
        taps = [tap < s] if side == s else [tap < s, tap >= side - s]
        profiles.append(torch.stack(taps).to(conv.weight.dtype))
    counts = [len(profile) for profile in profiles]
    sub_kernel = conv.weight.new_empty(conv.in_channels, conv.out_channels, *counts)
    nn.init.normal_(sub_kernel, std=sub_kernel[:, 0].numel() ** -0.5)
    _fill(conv, sub_kernel, profiles)


@torch.no_grad()
def bilinear_(conv: nn.ConvTranspose2d | nn.ConvTranspose3d) -> None:
    """Make a transposed convolution start as interpolation, with a zero bias.

    Long et al., CVPR 2015, https://arxiv.org/abs/1411.4038, section 4.3. Bilinear (trilinear)
    where kernels overlap, nearest where they do not; each channel on its own if the convolution
    keeps their number, else of a random unit-gain 1x1 convolution.

    Args:
        conv: Per axis, kernel of side s or 2s - (s mod 2) and stride s; changed in place.
    """
    mixing = conv.weight.new_empty(conv.in_channels, conv.out_channels)
    if conv.in_channels == conv.out_channels:
        nn.init.eye_(mixing)
    else:
        nn.init.normal_(mixing, std=conv.in_channels**-0.5)
    profiles = []
    for side, s in zip(conv.kernel_size, conv.stride, strict=True):
        tap = torch.arange(side, device=mixing.device, dtype=mixing.dtype)
        triangle = 1 - (tap - (side - 1) / 2).abs() / s
        profiles.append(triangle[None] if side > s else torch.ones_like(triangle)[None])
    _fill(conv, mixing.reshape(*mixing.shape, *(1 for _ in profiles)), profiles)


def _fill(
    conv: nn.ConvTranspose2d | nn.ConvTranspose3d, sub_kernel: Tensor, profiles: list[Tensor]
) -> None:
    """Set the kernel to a sub-kernel whose taps are spread along each axis by (tap, side)."""
    kernel = sub_kernel
    for profile in profiles:
        kernel = torch.tensordot(kernel, profile, dims=([2], [0]))  # the axis goes to the end
    conv.weight.copy_(kernel)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
