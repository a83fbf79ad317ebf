"""Weighted sums over k x k neighbours, one kernel per output pixel, and their two gradients.

The step that CARAFE, DLU, FADE, SAPA, FreqFusion and JBU share. With S(Y) = floor(Y / s) and
r = (k - 1) / 2::

    y[b, c, Y, X] = sum_{i, j < k} kernels[b, i*k + j, Y, X] * x[b, c, S(Y) + i - r, S(X) + j - r]

Three primitives are closed under differentiation: :func:`weighted_sum` (linear in x and in the
kernels), :func:`input_gradient` and :func:`kernel_gradient`. In each, ``x`` may carry a halo of its
own: it is (B, C, H + 2h, W + 2h) for kernels of (B, k*k, s*H, s*W), pixel (0, 0) of the map is
x[h, h], and x is zero outside.

An unfolded input would take k*k times its memory (s*s*k*k times when unfolded at the output
resolution). Here only one row of input pixels is unfolded at a time, in (B, W, k*k, C) order so
that channels are contiguous, and multiplied with the (s*s, k*k) kernels of its pixels while it is
in the cache. All sums have a fixed order: the gradients are deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.functional import triton_reassembly

Padding = Literal["zeros", "replicate"]
_PADDINGS = get_args(Padding)


def reassemble(x: Tensor, kernels: Tensor, scale_factor: int, padding: Padding = "zeros") -> Tensor:
    """Reassemble features with one kernel per output pixel.

    Sums in float32 at least (float64 for float64 inputs), whatever autocast says.

    Args:
        x: Features, (B, C, H, W).
        kernels: Weights of the k*k neighbours, row by row, (B, k*k, s*H, s*W), k odd.
        scale_factor: Integer upsampling factor s >= 1.
        padding: What is outside the map: zeros, or its nearest pixel.

    Returns:
        (B, C, s*H, s*W) in the dtype of ``x`` and channels_last in memory.

    Raises:
        ValueError: If the number of weights is not an odd square, the sizes do not fit, or the
            padding is not offered.
    """
    check_choice("reassemble", "padding", padding, _PADDINGS)
    side = math.isqrt(kernels.shape[1])
    wanted = (x.shape[-2] * scale_factor, x.shape[-1] * scale_factor)
    if side * side != kernels.shape[1] or side % 2 == 0 or tuple(kernels.shape[-2:]) != wanted:
        raise ValueError(
            f"reassemble needs kernels of shape (B, k*k, {wanted[0]}, {wanted[1]}) with k odd for "
            f"features {tuple(x.shape)} and scale factor {scale_factor}; got {tuple(kernels.shape)}"
        )
    kernels = kernels.to(_accumulation_dtype(x))
    if padding == "replicate":
        # Autocast on a CPU pads in float32.
        x = F.pad(x, [side // 2] * 4, mode="replicate").to(x.dtype)
    y: Tensor
    if triton_reassembly.usable(x):
        y = triton_reassembly.weighted_sum(x, kernels, scale_factor)
    elif _takes_whole_maps(x):
        y = _sum_of_taps(x, kernels, scale_factor)
    else:
        y = _Reassemble.apply(x, kernels, scale_factor)
    return y


def similarity(
    query: Tensor, key: Tensor, kernel_size: int, scale_factor: int, padding: Padding = "zeros"
) -> Tensor:
    """Multiply every output pixel's query with the keys of its k x k neighbours.

    With the symbols of the module::

        logits[b, i*k + j, Y, X] = sum_c query[b, c, Y, X] * key[b, c, S(Y) + i - r, S(X) + j - r]

    Sums in float32 at least, whatever autocast says.

    Args:
        query: (B, C, s*H, s*W).
        key: (B, C, H, W).
        kernel_size: Side k of the neighbourhood; odd.
        scale_factor: Integer upsampling factor s >= 1.
        padding: What is outside the map of keys: zeros, or its nearest pixel.

    Returns:
        (B, k*k, s*H, s*W) in float32 (float64 for float64 inputs).

    Raises:
        ValueError: If ``kernel_size`` is even, the sizes do not fit, or the padding is not offered.
    """
    check_choice("similarity", "padding", padding, _PADDINGS)
    b, c, h, w = key.shape
    wanted = (b, c, h * scale_factor, w * scale_factor)
    if kernel_size % 2 == 0 or tuple(query.shape) != wanted:
        raise ValueError(
            f"similarity needs an odd kernel_size and, for keys {tuple(key.shape)} and scale "
            f"factor {scale_factor}, a query {wanted}; got {kernel_size} and {tuple(query.shape)}"
        )
    dtype = torch.promote_types(query.dtype, key.dtype)
    query, key = query.to(dtype), key.to(dtype)
    if padding == "replicate":
        key = F.pad(key, [kernel_size // 2] * 4, mode="replicate").to(dtype)
    logits: Tensor
    if triton_reassembly.usable(key):
        logits = triton_reassembly.kernel_gradient(query, key, kernel_size, scale_factor)
    elif _takes_whole_maps(key):
        logits = _stack_of_taps(query, key, kernel_size, scale_factor)
    else:
        logits = _Similarity.apply(query, key, kernel_size, scale_factor)
    return logits


def _takes_whole_maps(x: Tensor) -> bool:
    """Whether plain operations on whole maps serve better than one row after the other.

    A compiler or an exporter differentiates and fuses them itself, and other devices than a CPU
    want few large launches.
    """
    return torch.compiler.is_compiling() or x.device.type not in ("cpu", "meta")


class _Reassemble(torch.autograd.Function):
    """The weighted sum, saving its two inputs only."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, s: int) -> Tensor:
        return weighted_sum(x, kernels, s)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], _output: Tensor) -> None:
        x, kernels, ctx.s = inputs
        ctx.save_for_backward(x, kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, kernels = ctx.saved_tensors
        needs_dx, needs_dkernels, _ = ctx.needs_input_grad
        side = math.isqrt(kernels.shape[1])
        dx = input_gradient(dy, kernels, x.shape[-2:], ctx.s) if needs_dx else None
        dkernels = kernel_gradient(dy, x, side, ctx.s) if needs_dkernels else None
        return dx, dkernels, None


class _Similarity(torch.autograd.Function):
    """The kernel gradient as a function of its own, saving its two inputs only."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, side: int, s: int) -> Tensor:
        return kernel_gradient(query, key, side, s)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], _output: Tensor) -> None:
        query, key, _, ctx.s = inputs
        ctx.save_for_backward(query, key)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogits: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        query, key = ctx.saved_tensors
        needs_dquery, needs_dkey, *_ = ctx.needs_input_grad
        dquery = weighted_sum(key, dlogits, ctx.s) if needs_dquery else None
        dkey = input_gradient(query, dlogits, key.shape[-2:], ctx.s) if needs_dkey else None
        return dquery, dkey, None, None


def weighted_sum(x: Tensor, kernels: Tensor, s: int) -> Tensor:
    """Return y of the module's equation.

    Args:
        x: (B, C, H + 2h, W + 2h).
        kernels: (B, k*k, s*H, s*W) in float32 at least.
        s: Upsampling factor.

    Returns:
        (B, C, s*H, s*W) in the dtype of ``x``, channels_last.
    """
    if s == 1:  # an unfolded row would be used once only: views of the map are faster
        return _sum_of_taps(x, kernels, s)
    b, c = x.shape[:2]
    num_taps, height, width = kernels.shape[1:]
    windows = _windows(_padded(x, math.isqrt(num_taps), height // s), math.isqrt(num_taps))
    weights = _by_phase(kernels, s)
    y = x.new_empty(b, height, width, c).permute(0, 3, 1, 2)
    out = _by_phase(y, s)
    for row in range(height // s):
        neighbours = windows[:, row].reshape(-1, num_taps, c).to(kernels.dtype)
        products = _matmul(weights[:, row].reshape(-1, s * s, num_taps), neighbours)
        out[:, row] = products.view(out[:, row].shape)
    return y


def input_gradient(dy: Tensor, kernels: Tensor, size: Sequence[int], s: int) -> Tensor:
    """Return the gradient of :func:`weighted_sum` with respect to ``x``.

    Every output pixel sends its gradient to its neighbours::

        dx[b, c, S(Y) + i - r, S(X) + j - r] += dy[b, c, Y, X] * kernels[b, i*k + j, Y, X]

    Args:
        dy: (B, C, s*H, s*W).
        kernels: (B, k*k, s*H, s*W) in float32 at least.
        size: Height and width of ``x``, its halo included: (H + 2h, W + 2h).
        s: Upsampling factor.

    Returns:
        (B, C, *size) in the dtype of ``dy``, channels_last.
    """
    b, c = dy.shape[:2]
    num_taps, height, width = kernels.shape[1:]
    side = math.isqrt(num_taps)
    h, w = height // s, width // s
    dx = kernels.new_zeros(b, h + side - 1, w + side - 1, c)
    if s == 1:  # as in weighted_sum
        gradients = dy.to(kernels.dtype).permute(0, 2, 3, 1)
        for tap, rows, columns in _taps(side, h, w):
            dx[:, rows, columns].addcmul_(gradients, kernels[:, tap, :, :, None])
    else:
        gradients = _by_phase(dy, s)
        weights = _by_phase(kernels, s).movedim(-1, 3)  # (B, H, W, k*k, s, s)
        windows = _windows(dx, side)
        for row in range(h):
            dy_row = gradients[:, row].reshape(-1, s * s, c).to(kernels.dtype)
            products = _matmul(weights[:, row].reshape(-1, num_taps, s * s), dy_row)
            products = products.view(windows[:, row].shape)
            for j in range(side):  # the windows of one column of taps do not overlap
                windows[:, row, :, :, j] += products[:, :, :, j]
    r = (dx.shape[1] - size[0]) // 2
    return dx[:, r : r + size[0], r : r + size[1]].permute(0, 3, 1, 2).to(dy.dtype)


def kernel_gradient(dy: Tensor, x: Tensor, side: int, s: int) -> Tensor:
    """Return the gradient of :func:`weighted_sum` with respect to ``kernels``.

    It is also the similarity of a query ``dy`` and keys ``x``::

        dkernels[b, i*k + j, Y, X] = sum_c dy[b, c, Y, X] * x[b, c, S(Y) + i - r, S(X) + j - r]

    Args:
        dy: (B, C, s*H, s*W).
        x: (B, C, H + 2h, W + 2h).
        side: Side k of the kernels.
        s: Upsampling factor.

    Returns:
        (B, k*k, s*H, s*W) in float32 at least.
    """
    b, c, height, width = dy.shape
    windows = _windows(_padded(x, side, height // s), side)
    gradients = _by_phase(dy, s)
    dtype = _accumulation_dtype(dy)
    dkernels = dy.new_empty(b, side * side, height, width, dtype=dtype)
    out = _by_phase(dkernels, s)
    for row in range(height // s):
        neighbours = windows[:, row].reshape(-1, side * side, c).to(dtype)
        dy_row = gradients[:, row].reshape(-1, s * s, c).to(dtype)
        out[:, row] = _matmul(dy_row, neighbours.mT).view(out[:, row].shape)
    return dkernels


def _sum_of_taps(x: Tensor, kernels: Tensor, s: int) -> Tensor:
    """:func:`weighted_sum` as k*k operations on whole maps, for any shapes."""
    b, c = x.shape[:2]
    num_taps, height, width = kernels.shape[1:]
    h, w = height // s, width // s
    padded = _padded(x.to(kernels.dtype), math.isqrt(num_taps), h)
    weights = kernels.view(b, num_taps, h, s, w, s, 1)
    y = padded.new_zeros(b, h, s, w, s, c)
    for tap, rows, columns in _taps(math.isqrt(num_taps), h, w):
        y.addcmul_(padded[:, rows, None, columns, None], weights[:, tap])
    return y.view(b, height, width, c).permute(0, 3, 1, 2).to(x.dtype)


def _stack_of_taps(dy: Tensor, x: Tensor, side: int, s: int) -> Tensor:
    """:func:`kernel_gradient` as k*k operations on whole maps, for any shapes."""
    b, c, height, width = dy.shape
    h, w = height // s, width // s
    dtype = _accumulation_dtype(dy)
    padded = _padded(x.to(dtype), side, h)
    gradients = dy.to(dtype).permute(0, 2, 3, 1).reshape(b, h, s, w, s, c)
    dkernels = [
        (gradients * padded[:, rows, None, columns, None]).sum(-1)
        for _, rows, columns in _taps(side, h, w)
    ]
    return torch.stack(dkernels, 1).view(b, side * side, height, width)


def _taps(side: int, height: int, width: int) -> Iterator[tuple[int, slice, slice]]:
    """Number, rows and columns of every tap's view of the padded map."""
    for tap in range(side * side):
        i, j = divmod(tap, side)
        yield tap, slice(i, i + height), slice(j, j + width)


def _padded(x: Tensor, side: int, height: int) -> Tensor:
    """Zero-pad x up to a halo of r; (B, H + 2r, W + 2r, C), contiguous."""
    r = side // 2 - (x.shape[-2] - height) // 2
    return F.pad(x.permute(0, 2, 3, 1), [0, 0, r, r, r, r]).contiguous()


def _windows(padded: Tensor, side: int) -> Tensor:
    """The k x k neighbours of every pixel, (B, H, W, k, k, C), a view."""
    return padded.unfold(1, side, 1).unfold(2, side, 1).permute(0, 1, 2, 4, 5, 3)


def _by_phase(y: Tensor, s: int) -> Tensor:
    """(B, C, s*H, s*W) -> (B, H, W, s, s, C), a view."""
    b, c, height, width = y.shape
    return y.view(b, c, height // s, s, width // s, s).permute(0, 2, 4, 3, 5, 1)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Batched matrix product. Autocast leaves a call with ``out`` alone."""
    return torch.bmm(a, b, out=a.new_empty(a.shape[0], a.shape[1], b.shape[2]))


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
