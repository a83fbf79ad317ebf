"""The primitives of ``reassembly`` for GPUs, in Triton.

Same signatures and meaning, for float32, bfloat16 and float16. Each is one launch that reads and
writes nothing but its inputs and outputs. Along a row of the map all three are products with a
banded matrix: a tile of pixels, in all its s*s phases, against the pixels that their k columns of
taps reach. A program makes the band from the kernels by masking, so that tensor cores do the sums,
in float32, and every input is loaded once per row of taps. All are gathers, hence deterministic.

Rounding: products of float32 are split in three, as exact as float32 to some 1e-6; with half
precision features, which TensorFloat-32 holds exactly, the kernels are rounded to its 11 bits, no
worse than the features themselves. Zeros of the band are multiplied: an infinity or NaN also spoils
the pixels of its tile that it is no neighbour of.

They are operators of PyTorch (``torch.ops.upnas``): fake tensors see their shapes,
``torch.compile`` takes them into its graph, and since each is the derivative of another, autograd
differentiates them as often as wanted. They are ``custom_op``s rather than ``triton_op``s: there is
nothing around the launch that a compiler could fuse, a launch may depend on concrete sizes, and the
same code runs in Triton's interpreter.
"""

# ruff: noqa: ARG001  (PyTorch calls fake kernels and set-up functions with all arguments by name)

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Triton for NVIDIA; its ROCm version lacks the precisions of the matrix products.
_INSTALLED = importlib.util.find_spec("triton") is not None and torch.version.hip is None
#: Triton reads the variable when it decorates a kernel: setting it later has no effect.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: Fewest rows and columns of a matrix product of Triton.
_LEAST = 16
#: Most bytes of channels in a block: 128 channels of bfloat16. A program's operands and sums then
#: fit its registers.
_CHANNELS = 256
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def usable(x: Tensor) -> bool:
    """Whether the Triton path takes this tensor.

    On a GPU with Triton installed, in float32, bfloat16 or float16; not for ``torch.export``, whose
    programs consist of PyTorch's own operations. Triton's interpreter (``TRITON_INTERPRET=1`` in
    the environment before the import) takes tensors on the CPU as well.
    """
    on_device = x.is_cuda or (_INTERPRETED and x.device.type == "cpu")
    return _INSTALLED and on_device and x.dtype in _DTYPES and not torch.compiler.is_exporting()


@torch.library.custom_op("upnas::weighted_sum", mutates_args=())
def weighted_sum(x: Tensor, kernels: Tensor, s: int) -> Tensor:
    """See :func:`upnas.upsamplers.functional.reassembly.weighted_sum`."""
    b, c, map_height, map_width = x.shape
    height, width = kernels.shape[-2] // s, kernels.shape[-1] // s
    side = math.isqrt(kernels.shape[1])
    y = new_map(x, c, kernels.shape[2:])
    pixels, phases = _tile(s)
    block_c = _block(c, _CHANNELS // x.element_size())
    launch(
        "weighted_sum",
        b * height * math.ceil(width / pixels) * math.ceil(c / block_c),
        channels_last(x),
        kernels,
        y,
        height,
        width,
        c,
        map_height,
        map_width,
        *kernels.stride(),
        halo=(map_height - height) // 2,
        s=s,
        side=side,
        pixels=pixels,
        phases=phases,
        neighbours=_block(pixels + side - 1),
        block_c=block_c,
        precision=_precision(x),
    )
    return y


@torch.library.custom_op("upnas::input_gradient", mutates_args=())
def input_gradient(dy: Tensor, kernels: Tensor, size: Sequence[int], s: int) -> Tensor:
    """See :func:`upnas.upsamplers.functional.reassembly.input_gradient`."""
    b, c = dy.shape[:2]
    height, width = kernels.shape[-2] // s, kernels.shape[-1] // s
    side = math.isqrt(kernels.shape[1])
    dx = new_map(dy, c, size)
    pixels = _LEAST
    outputs = _block((pixels + side - 1) * s)
    block_c = _block(c, min(_CHANNELS, 64 * _CHANNELS // outputs) // dy.element_size())
    launch(
        "input_gradient",
        b * size[0] * math.ceil(size[1] / pixels) * math.ceil(c / block_c),
        channels_last(dy),
        kernels,
        dx,
        height,
        width,
        c,
        *size,
        *kernels.stride(),
        halo=(size[0] - height) // 2,
        s=s,
        side=side,
        pixels=pixels,
        outputs=outputs,
        block_c=block_c,
        precision=_precision(dy),
    )
    return dx


@torch.library.custom_op("upnas::kernel_gradient", mutates_args=())
def kernel_gradient(dy: Tensor, x: Tensor, side: int, s: int) -> Tensor:
    """See :func:`upnas.upsamplers.functional.reassembly.kernel_gradient`."""
    b, c, map_height, map_width = x.shape
    height, width = dy.shape[-2] // s, dy.shape[-1] // s
    dkernels = _new_kernels(dy, side)
    pixels, phases = _tile(s)
    launch(
        "kernel_gradient",
        b * height * math.ceil(width / pixels),
        channels_last(dy),
        channels_last(x),
        dkernels,
        height,
        width,
        c,
        map_height,
        map_width,
        halo=(map_height - height) // 2,
        s=s,
        side=side,
        pixels=pixels,
        phases=phases,
        neighbours=_block(pixels + side - 1),
        block_c=_block(c, _CHANNELS // 2 // x.element_size()),
        precision=_precision(dy),
    )
    return dkernels


def new_map(
    like: Tensor, channels: int, size: Sequence[int], dtype: torch.dtype | None = None
) -> Tensor:
    """An empty map, (B, C, H, W) and channels_last, with the batch and dtype of another."""
    return like.new_empty(like.shape[0], *size, channels, dtype=dtype).permute(0, 3, 1, 2)


def _new_kernels(dy: Tensor, side: int) -> Tensor:
    return dy.new_empty(dy.shape[0], side * side, *dy.shape[2:], dtype=torch.float32)


@weighted_sum.register_fake
def _(x: Tensor, kernels: Tensor, s: int) -> Tensor:
    return new_map(x, x.shape[1], kernels.shape[2:])


@input_gradient.register_fake
def _(dy: Tensor, kernels: Tensor, size: Sequence[int], s: int) -> Tensor:
    return new_map(dy, dy.shape[1], size)


@kernel_gradient.register_fake
def _(dy: Tensor, x: Tensor, side: int, s: int) -> Tensor:
    return _new_kernels(dy, side)


def _save_weighted_sum(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    x, kernels, ctx.s = inputs
    ctx.save_for_backward(x, kernels)


def _weighted_sum_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, kernels = ctx.saved_tensors
    needs_dx, needs_dkernels, _ = ctx.needs_input_grad
    side = math.isqrt(kernels.shape[1])
    dx = input_gradient(dy, kernels, x.shape[-2:], ctx.s) if needs_dx else None
    dkernels = kernel_gradient(dy, x, side, ctx.s) if needs_dkernels else None
    return dx, dkernels, None


def _save_input_gradient(
    ctx: Any, inputs: tuple[Tensor, Tensor, Sequence[int], int], output: Tensor
) -> None:
    dy, kernels, _, ctx.s = inputs
    ctx.save_for_backward(dy, kernels)


def _input_gradient_backward(
    ctx: Any, ddx: Tensor
) -> tuple[Tensor | None, Tensor | None, None, None]:
    dy, kernels = ctx.saved_tensors
    needs_ddy, needs_dkernels, *_ = ctx.needs_input_grad
    side = math.isqrt(kernels.shape[1])
    ddy = weighted_sum(ddx, kernels, ctx.s) if needs_ddy else None
    dkernels = kernel_gradient(dy, ddx, side, ctx.s) if needs_dkernels else None
    return ddy, dkernels, None, None


def _save_kernel_gradient(
    ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor
) -> None:
    dy, x, _, ctx.s = inputs
    ctx.save_for_backward(dy, x)


def _kernel_gradient_backward(
    ctx: Any, ddkernels: Tensor
) -> tuple[Tensor | None, Tensor | None, None, None]:
    dy, x = ctx.saved_tensors
    needs_ddy, needs_dx, *_ = ctx.needs_input_grad
    ddy = weighted_sum(x, ddkernels, ctx.s) if needs_ddy else None
    dx = input_gradient(dy, ddkernels, x.shape[-2:], ctx.s) if needs_dx else None
    return ddy, dx, None, None


weighted_sum.register_autograd(_weighted_sum_backward, setup_context=_save_weighted_sum)
input_gradient.register_autograd(_input_gradient_backward, setup_context=_save_input_gradient)
kernel_gradient.register_autograd(_kernel_gradient_backward, setup_context=_save_kernel_gradient)


def launch(name: str, num_programs: int, *arguments: Any, **constants: Any) -> None:
    """Run a kernel of ``triton_kernels`` on the device of its first argument."""
    from upnas.upsamplers.functional import triton_kernels  # imports Triton, hence not above

    # Triton launches on the current device. For a tensor on the CPU this does nothing.
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        getattr(triton_kernels, name)[(num_programs,)](*arguments, **constants)


def channels_last(x: Tensor) -> Tensor:
    """The map as the kernels read it: (B, H, W, C), contiguous; a copy if it was not."""
    return x.permute(0, 2, 3, 1).contiguous()


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _block(n: int, most: int = 1 << 30) -> int:
    """The block that covers n or is at most ``most``, but not less than a matrix product takes."""
    return max(min(power_of_two(n), most), _LEAST)


def _tile(s: int) -> tuple[int, int]:
    """Pixels of a row and phases of a pixel for one program: 16 to 64 outputs up to s = 8."""
    phases = power_of_two(s * s)
    return min(_LEAST, max(1, 64 // phases)), phases


def _precision(x: Tensor) -> str:
    """How matrix products round their inputs, see the top of the module."""
    return "tf32x3" if x.dtype == torch.float32 else "tf32"
