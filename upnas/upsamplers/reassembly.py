"""Weighted sums of k x k neighbours, one kernel per output pixel.

The step that CARAFE, FADE, SAPA and DLU share. With S(Y) = floor(Y / s) and r = (k - 1) / 2::

    y[b, c, Y, X] = sum_{i, j < k} kernels[b, i*k + j, Y, X] * x[b, c, S(Y) + i - r, S(X) + j - r]

where x is zero outside the map. An unfolded input would take k*k times its memory (s*s*k*k times
when unfolded at the output resolution). Here the k*k taps are views of one padded copy of the
input, in (B, H, W, C) order so that channels are contiguous, added up in place.

The gradients are gathers over the same views, hence deterministic::

    dx[S(Y) + i - r, S(X) + j - r] += sum over the s*s phases of dy * kernels[i*k + j]
    dkernels[i*k + j]               = sum over the channels   of dy * x shifted by (i, j)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def reassemble(x: Tensor, kernels: Tensor, scale_factor: int) -> Tensor:
    """Reassemble features with one kernel per output pixel.

    Sums in float32 at least (float64 for float64 inputs), whatever autocast says.

    Args:
        x: Features, (B, C, H, W).
        kernels: Weights of the k*k neighbours, row by row, (B, k*k, s*H, s*W), k odd.
        scale_factor: Integer upsampling factor s.

    Returns:
        (B, C, s*H, s*W) in the dtype of ``x`` and channels_last in memory.

    Raises:
        ValueError: If the number of weights is not an odd square or the sizes do not fit.
    """
    side = math.isqrt(kernels.shape[1])
    wanted = (x.shape[-2] * scale_factor, x.shape[-1] * scale_factor)
    if side * side != kernels.shape[1] or side % 2 == 0 or tuple(kernels.shape[-2:]) != wanted:
        raise ValueError(
            f"reassemble needs kernels of shape (B, k*k, {wanted[0]}, {wanted[1]}) with k odd for "
            f"features {tuple(x.shape)} and scale factor {scale_factor}; got {tuple(kernels.shape)}"
        )
    kernels = kernels.to(_accumulation_dtype(x))
    needs_gradient = torch.is_grad_enabled() and (x.requires_grad or kernels.requires_grad)
    # A compiler or an exporter sees plain operations, which it differentiates and fuses by itself.
    if needs_gradient and not torch.compiler.is_compiling():
        y: Tensor = _Reassemble.apply(x, kernels, scale_factor)
        return y
    return _weighted_sum(x, kernels, scale_factor)


class _Reassemble(torch.autograd.Function):
    """The weighted sum, saving its two inputs only."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, scale_factor: int) -> Tensor:
        return _weighted_sum(x, kernels, scale_factor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], _output: Tensor) -> None:
        x, kernels, ctx.scale_factor = inputs
        ctx.save_for_backward(x, kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, kernels = ctx.saved_tensors
        needs_dx, needs_dkernels, _ = ctx.needs_input_grad
        dy = _by_phase(dy.to(kernels.dtype), ctx.scale_factor)
        dx = _input_gradient(dy, kernels, x, ctx.scale_factor) if needs_dx else None
        dkernels = _kernel_gradient(dy, kernels, x, ctx.scale_factor) if needs_dkernels else None
        return dx, dkernels, None


def _weighted_sum(x: Tensor, kernels: Tensor, s: int) -> Tensor:
    b, c, h, w = x.shape
    weights = kernels.view(b, kernels.shape[1], h, s, w, s, 1)
    side = math.isqrt(kernels.shape[1])
    padded = _padded(x, side)
    y = padded.new_zeros(b, h, s, w, s, c)
    for tap, rows, columns in _taps(side, h, w):
        y.addcmul_(padded[:, rows, None, columns, None], weights[:, tap])
    return y.view(b, h * s, w * s, c).permute(0, 3, 1, 2).to(x.dtype)


def _input_gradient(dy: Tensor, kernels: Tensor, x: Tensor, s: int) -> Tensor:
    b, c, h, w = x.shape
    side = math.isqrt(kernels.shape[1])
    r = side // 2
    weights = _by_phase(kernels, s).permute(4, 0, 1, 2, 3).unsqueeze(-2)  # (k*k, B, H, W, 1, s*s)
    dx = dy.new_zeros(b, h + 2 * r, w + 2 * r, c)
    for tap, rows, columns in _taps(side, h, w):
        dx[:, rows, columns] += (weights[tap] @ dy).squeeze(-2)
    return dx[:, r : r + h, r : r + w].permute(0, 3, 1, 2).to(x.dtype)


def _kernel_gradient(dy: Tensor, kernels: Tensor, x: Tensor, s: int) -> Tensor:
    b, _, h, w = x.shape
    side = math.isqrt(kernels.shape[1])
    padded = _padded(x, side)
    dkernels = dy.new_empty(b, side * side, h, w, s * s, 1)
    for tap, rows, columns in _taps(side, h, w):
        dkernels[:, tap] = dy @ padded[:, rows, columns].unsqueeze(-1)
    by_axis = dkernels.view(b, side * side, h, w, s, s).transpose(3, 4)
    return by_axis.reshape(b, side * side, h * s, w * s)


def _taps(side: int, height: int, width: int) -> Iterator[tuple[int, slice, slice]]:
    """Number, rows and columns of every tap's view of the padded map."""
    for tap in range(side * side):
        i, j = divmod(tap, side)
        yield tap, slice(i, i + height), slice(j, j + width)


def _padded(x: Tensor, side: int) -> Tensor:
    """Zero-pad by r; (B, H + 2r, W + 2r, C), contiguous, in the accumulation dtype."""
    x = x.to(_accumulation_dtype(x))
    return F.pad(x, [side // 2] * 4).permute(0, 2, 3, 1).contiguous()


def _by_phase(y: Tensor, s: int) -> Tensor:
    """(B, C, s*H, s*W) -> (B, H, W, s*s, C), contiguous."""
    b, c, height, width = y.shape
    h, w = height // s, width // s
    return y.view(b, c, h, s, w, s).permute(0, 2, 4, 3, 5, 1).reshape(b, h, w, s * s, c)


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
