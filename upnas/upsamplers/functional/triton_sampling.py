"""Learned point sampling (DySample) for GPUs, in Triton.

One launch from the predicted offsets to the features: it reads offsets where the convolution left
them (so there is no pixel shuffle), forms positions in float32 registers (so there is no grid) and
blends the four nearest pixels. With the raw predictions o = W1 x and g = W2 x, output (Y, X) of a
group of channels reads the map bilinearly, its border continued, at::

    row    (Y + 1/2) / s - 1/2 + 0.25 o_y        or + 0.5 sigmoid(g_y) o_y
    column (X + 1/2) / s - 1/2 + 0.25 o_x        or + 0.5 sigmoid(g_x) o_x

The gradients are one launch too. Those of the offsets are sums over channels; that of the features
is added up atomically, since any output may read any pixel: it is not deterministic. For what is
common to Triton operators see ``triton_reassembly``, and its ``usable``.
"""

# ruff: noqa: ARG001  (PyTorch calls fake kernels and set-up functions with all arguments by name)

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upnas.upsamplers.functional.triton_reassembly import (
    channels_last,
    launch,
    new_map,
    power_of_two,
)

#: Most channels of a block, and its elements: 16 in each of the 128 threads of a program, half as
#: many for the gradients, so that all taps of them fit the registers.
_CHANNELS = 64
_ELEMENTS = 2048


@torch.library.custom_op("upnas::sample", mutates_args=())
def sample(x: Tensor, offset: Tensor, scope: Tensor | None, groups: int, s: int) -> Tensor:
    """Upsample by reading every output at its predicted position.

    Args:
        x: Features, (B, C, H, W).
        offset: W1 x: x before y, each by group, at the input resolution with s*s phases innermost
            as a pixel shuffle reads them, (B, 2 * groups * s*s, H, W); or at the output
            resolution, (B, 2 * groups, s*H, s*W).
        scope: W2 x, likewise; None: static scope.
        groups: Groups of channels that move together.
        s: Upsampling factor.

    Returns:
        (B, C, s*H, s*W) in the dtype of ``x``, channels_last.
    """
    offset, scope = _alike(offset, scope)
    y = new_map(x, x.shape[1], (x.shape[2] * s, x.shape[3] * s))
    tensors = (channels_last(x), offset, scope, y)
    _launch("sample", tensors, x.shape, groups, s, _ELEMENTS)
    return y


@torch.library.custom_op("upnas::sample_gradient", mutates_args=())
def sample_gradient(
    dy: Tensor, x: Tensor, offset: Tensor, scope: Tensor | None, groups: int, s: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of :func:`sample`: dx, doffset, and dscope (empty without a scope)."""
    offset, scope = _alike(offset, scope)
    dx = new_map(x, x.shape[1], x.shape[2:], dtype=torch.float32).zero_()
    doffset, dscope = _new_gradients(offset, scope)
    tensors = (channels_last(x), offset, scope, channels_last(dy), dx, doffset, dscope)
    _launch("sample_gradient", tensors, x.shape, groups, s, _ELEMENTS // 2)
    return dx.to(x.dtype), doffset, dscope


def _launch(
    name: str,
    tensors: tuple[Tensor | None, ...],
    shape: Sequence[int],
    groups: int,
    s: int,
    elements: int,
) -> None:
    """Run a kernel whose first arguments are x, offset and scope."""
    _, offset, scope, *_ = tensors
    assert offset is not None
    b, c, height, width = shape
    block_c = min(power_of_two(c // groups), _CHANNELS)
    outputs = elements // block_c
    launch(
        name,
        b * groups * math.ceil(height * s * width * s / outputs),
        *tensors,
        height,
        width,
        c // groups,
        groups,
        *_by_phase(offset, (height, width), groups, s).stride(),
        s=s,
        scoped=scope is not None,
        outputs=outputs,
        block_c=block_c,
    )


def _by_phase(offset: Tensor, size: Sequence[int], groups: int, s: int) -> Tensor:
    """Either form of the offsets as a view, (B, x or y, groups, s, s, H, W)."""
    b, (h, w) = offset.shape[0], size
    if tuple(offset.shape[2:]) == (h, w):
        return offset.view(b, 2, groups, s, s, h, w)
    return offset.view(b, 2, groups, h, s, w, s).permute(0, 1, 2, 4, 6, 3, 5)


def _alike(offset: Tensor, scope: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Both with the strides that their gradients will have, so that kernels address all alike."""
    strides = torch.empty_like(offset, device="meta").stride()

    def strided(x: Tensor) -> Tensor:
        return x if x.stride() == strides else x.new_empty_strided(x.shape, strides).copy_(x)

    return strided(offset), None if scope is None else strided(scope)


def _new_gradients(offset: Tensor, scope: Tensor | None) -> tuple[Tensor, Tensor]:
    doffset = torch.empty_like(offset)
    if scope is None:
        return doffset, offset.new_empty(0)
    return doffset, torch.empty_like(doffset, dtype=scope.dtype)


@sample.register_fake
def _(x: Tensor, offset: Tensor, scope: Tensor | None, groups: int, s: int) -> Tensor:
    return new_map(x, x.shape[1], (x.shape[2] * s, x.shape[3] * s))


@sample_gradient.register_fake
def _(
    dy: Tensor, x: Tensor, offset: Tensor, scope: Tensor | None, groups: int, s: int
) -> tuple[Tensor, Tensor, Tensor]:
    return new_map(x, x.shape[1], x.shape[2:]), *_new_gradients(offset, scope)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int, int], output: Tensor) -> None:
    x, offset, scope, ctx.groups, ctx.s = inputs
    ctx.save_for_backward(x, offset, scope)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
    x, offset, scope = ctx.saved_tensors
    dx, doffset, dscope = sample_gradient(dy, x, offset, scope, ctx.groups, ctx.s)
    return dx, doffset, None if scope is None else dscope, None, None


sample.register_autograd(_backward, setup_context=_save)
