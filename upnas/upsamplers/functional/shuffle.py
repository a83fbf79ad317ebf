"""Pixel shuffle along any number of axes, and the blur that may follow it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_DEPTHWISE = {2: F.conv2d, 3: F.conv3d}


def pixel_shuffle(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Move groups of channels to the sub-pixels of each pixel.

    The periodic shuffle of Shi et al., CVPR 2016, https://arxiv.org/abs/1609.05158, eq. 4, for two
    or three axes with a factor each::

        y[b, c, Y, X] = x[b, (c * s_y + Y mod s_y) * s_x + X mod s_x, Y // s_y, X // s_x]

    Equal to ``F.pixel_shuffle`` where that is defined: two axes, one factor.

    Args:
        x: (B, C * prod(factors), H, W) or (B, C * prod(factors), D, H, W).
        factors: Factor of each axis.

    Returns:
        (B, C, s_y*H, s_x*W), channels_last if ``x`` is.

    Raises:
        ValueError: If the channels do not divide into the sub-pixels.
    """
    phases = math.prod(factors)
    if x.shape[1] % phases:
        raise ValueError(
            f"pixel_shuffle by {tuple(factors)} needs a multiple of {phases} channels; "
            f"got {x.shape[1]}."
        )
    n = len(factors)
    channels_last = x.is_contiguous(memory_format=_CHANNELS_LAST[n]) and not x.is_contiguous()
    # One operator for ONNX; and the faster way on a CPU, where alone it keeps channels_last.
    if (n, len(set(factors))) == (2, 1) and (
        torch.compiler.is_exporting() or (channels_last and x.is_cpu)
    ):
        return F.pixel_shuffle(x, factors[0])
    channels = x.shape[1] // phases
    size = [side * s for side, s in zip(x.shape[2:], factors, strict=True)]
    y = x.reshape(x.shape[0], channels, *factors, *x.shape[2:])  # (B, C, s_y, s_x, H, W)
    interleaved = [axis for i in range(n) for axis in (2 + n + i, 2 + i)]  # H, s_y, W, s_x
    if channels_last:
        y = y.permute(0, *interleaved, 1).reshape(x.shape[0], *size, channels)
        return y.movedim(-1, 1)
    return y.permute(0, 1, *interleaved).reshape(x.shape[0], channels, *size)


def box_blur(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Average over a window of s pixels per axis, centred on each pixel.

    The two pixels that a window of even s cuts in half count half: [1, 2, 1] / 4 for s = 2. Every
    period of s pixels has the same average wherever the window stands, so the blur removes any
    pattern that repeats every s pixels, the checkerboard, and keeps the content where it is.
    A constant stays constant: the map continues beyond the border by its last pixels.

    After nearest-neighbour resizing by s it makes bilinear interpolation.

    Args:
        x: (B, C, H, W) or (B, C, D, H, W).
        factors: Window s of each axis.

    Returns:
        Like ``x``.
    """
    window = x.new_ones(())
    for s in factors:
        distance = torch.arange(-(s // 2), s // 2 + 1, device=x.device, dtype=x.dtype).abs()
        overlap = ((s + 1) / 2 - distance).clamp(max=1)  # of the window with each pixel
        window = window[..., None] * (overlap / s)
    margins = [s // 2 for s in reversed(factors) for _ in range(2)]
    padded = F.pad(x, margins, mode="replicate")
    weight = window.expand(x.shape[1], 1, *window.shape)
    return _DEPTHWISE[len(factors)](padded, weight, groups=x.shape[1])
