"""The Triton programs behind ``triton_reassembly`` and ``triton_sampling``.

Imported by those two at the first launch and by nothing else: importing upnas needs no Triton.
What each program computes is the docstring of the function there that launches it.

Feature maps are contiguous (B, H, W, C). Everything off the map, and every surplus lane (Triton's
shapes are powers of two), is masked. Offsets of rows and pixels are 64-bit, so a map may have more
than 2^31 elements; one image has fewer pixels than that.

This is Triton's language in Python's grammar, which mypy cannot type.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weighted_sum(
    x_ptr,
    kernels_ptr,
    y_ptr,
    height,
    width,
    channels,
    map_height,
    map_width,
    stride_b,
    stride_tap,
    stride_y,
    stride_x,
    halo: tl.constexpr,
    s: tl.constexpr,
    side: tl.constexpr,
    pixels: tl.constexpr,
    phases: tl.constexpr,
    neighbours: tl.constexpr,
    block_c: tl.constexpr,
    precision: tl.constexpr,
):
    """All phases of some pixels of a row (M) = banded kernels (M, N) times input pixels (N, C)."""
    image, row, first, c = _place(height, width, channels, pixels, block_c)
    up_row, up_column, exists, j, band = _outputs(
        row, first, width, s, side, pixels, phases, neighbours
    )
    column = first + (halo - side // 2) + tl.arange(0, neighbours)
    known = (column >= 0) & (column < map_width)
    weights = kernels_ptr + image * stride_b + j.to(tl.int64) * stride_tap
    weights += (up_row * stride_y + up_column * stride_x)[:, None]
    total = tl.zeros((pixels * phases, block_c), tl.float32)
    for i in range(side):
        source = row + (i + halo - side // 2)
        mask = (known & (source >= 0) & (source < map_height))[:, None] & (c < channels)[None, :]
        start = ((image * map_height + source) * map_width + column) * channels
        x = tl.load(x_ptr + start[:, None] + c[None, :], mask=mask, other=0.0)
        w = tl.load(weights, mask=band, other=0.0)
        total = tl.dot(w.to(tl.float32), x.to(tl.float32), total, input_precision=precision)
        weights += side * stride_tap
    start = ((image * height * s + up_row) * (width * s) + up_column) * channels
    mask = exists[:, None] & (c < channels)[None, :]
    tl.store(y_ptr + start[:, None] + c[None, :], total.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def input_gradient(
    dy_ptr,
    kernels_ptr,
    dx_ptr,
    height,
    width,
    channels,
    map_height,
    map_width,
    stride_b,
    stride_tap,
    stride_y,
    stride_x,
    halo: tl.constexpr,
    s: tl.constexpr,
    side: tl.constexpr,
    pixels: tl.constexpr,
    outputs: tl.constexpr,
    block_c: tl.constexpr,
    precision: tl.constexpr,
):
    """Some input pixels of a row (M) = banded kernels (M, N) times output pixels of a row (N, C).

    Tap (i, j) of input pixel (m, n) is at the outputs of pixel (m - i, n - j), + side // 2 - halo.
    """
    image, row, first, c = _place(map_height, map_width, channels, pixels, block_c)
    pixel = tl.arange(0, pixels)
    output = tl.arange(0, outputs)
    leftmost = first + (side // 2 - halo) - (side - 1)
    column = leftmost + output // s
    j = pixel[:, None] + (side - 1) - output[None, :] // s
    known = (column >= 0) & (column < width)
    band = (j >= 0) & (j < side) & (first + pixel < map_width)[:, None]
    up_column = (leftmost * s + output).to(tl.int64)
    taps = kernels_ptr + image * stride_b + j.to(tl.int64) * stride_tap
    taps += (up_column * stride_x)[None, :]
    total = tl.zeros((pixels, block_c), tl.float32)
    for i in range(side):
        source = row + (side // 2 - halo) - i
        reached = known & (source >= 0) & (source < height)
        for phase in range(s):
            up_row = source.to(tl.int64) * s + phase
            start = ((image * height * s + up_row) * (width * s) + up_column) * channels
            mask = reached[:, None] & (c < channels)[None, :]
            dy = tl.load(dy_ptr + start[:, None] + c[None, :], mask=mask, other=0.0)
            mask = band & reached[None, :]
            w = tl.load(taps + (up_row * stride_y)[None, :], mask=mask, other=0.0)
            total = tl.dot(w.to(tl.float32), dy.to(tl.float32), total, input_precision=precision)
        taps += side * stride_tap
    start = ((image * map_height + row) * map_width + first + pixel) * channels
    mask = (first + pixel < map_width)[:, None] & (c < channels)[None, :]
    tl.store(dx_ptr + start[:, None] + c[None, :], total.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def kernel_gradient(
    dy_ptr,
    x_ptr,
    dkernels_ptr,
    height,
    width,
    channels,
    map_height,
    map_width,
    halo: tl.constexpr,
    s: tl.constexpr,
    side: tl.constexpr,
    pixels: tl.constexpr,
    phases: tl.constexpr,
    neighbours: tl.constexpr,
    block_c: tl.constexpr,
    precision: tl.constexpr,
):
    """Output pixels (M, C) times input pixels (C, N), of which the band (M, N) is stored."""
    image, row, first, _ = _place(height, width, block_c, pixels, block_c)  # all channels
    up_row, up_column, exists, j, band = _outputs(
        row, first, width, s, side, pixels, phases, neighbours
    )
    column = first + (halo - side // 2) + tl.arange(0, neighbours)
    known = (column >= 0) & (column < map_width)
    plane = (height * s) * (width * s)
    gradients = ((image * height * s + up_row) * (width * s) + up_column) * channels
    results = dkernels_ptr + image * (side * side) * plane + j.to(tl.int64) * plane
    results += (up_row * (width * s) + up_column)[:, None]
    for i in range(side):
        source = row + (i + halo - side // 2)
        reached = known & (source >= 0) & (source < map_height)
        start = ((image * map_height + source) * map_width + column) * channels
        total = tl.zeros((pixels * phases, neighbours), tl.float32)
        for begin in range(0, channels, block_c):
            c = begin + tl.arange(0, block_c)
            mask = exists[:, None] & (c < channels)[None, :]
            dy = tl.load(dy_ptr + gradients[:, None] + c[None, :], mask=mask, other=0.0)
            mask = reached[None, :] & (c < channels)[:, None]
            x = tl.load(x_ptr + start[None, :] + c[:, None], mask=mask, other=0.0)
            total = tl.dot(dy.to(tl.float32), x.to(tl.float32), total, input_precision=precision)
        tl.store(results, total, mask=band)
        results += side * plane


@triton.jit
def _place(height, width, channels, pixels: tl.constexpr, block_c: tl.constexpr):
    """Image (64-bit), row, first pixel of the row, and channels of this program.

    The row is a block of one: in the interpreter of Triton 3.9, a comparison of scalars does not
    combine with a mask. Neighbouring programs differ in the channels: they share their kernels.
    """
    blocks = tl.cdiv(channels, block_c)
    tiles = tl.cdiv(width, pixels)
    tile = tl.program_id(0) // blocks
    c = tl.program_id(0) % blocks * block_c + tl.arange(0, block_c)
    row = tl.full((1,), tile // tiles % height, tl.int32)
    return (tile // (tiles * height)).to(tl.int64), row, tile % tiles * pixels, c


@triton.jit
def _outputs(
    row,
    first,
    width,
    s: tl.constexpr,
    side: tl.constexpr,
    pixels: tl.constexpr,
    phases: tl.constexpr,
    neighbours: tl.constexpr,
):
    """The outputs (M) of a program's pixels against their input pixels (N).

    Row and column (64-bit) of the outputs and whether they exist, (M,); which column of taps an
    input pixel is to an output, and whether it is any, (M, N).
    """
    output = tl.arange(0, pixels * phases)
    pixel, phase = output // phases, output % phases
    up_row = (row * s + phase // s).to(tl.int64)
    up_column = ((first + pixel) * s + phase % s).to(tl.int64)
    exists = (first + pixel < width) & (phase < s * s)
    j = tl.arange(0, neighbours)[None, :] - pixel[:, None]
    return up_row, up_column, exists, j, exists[:, None] & (j >= 0) & (j < side)


@triton.jit
def sample(
    x_ptr,
    offset_ptr,
    scope_ptr,
    y_ptr,
    height,
    width,
    size,
    groups,
    stride_b,
    stride_axis,
    stride_group,
    stride_down,
    stride_across,
    stride_y,
    stride_x,
    s: tl.constexpr,
    scoped: tl.constexpr,
    outputs: tl.constexpr,
    block_c: tl.constexpr,
):
    """Some outputs (M) of a map in the channels (C) of one group, which has ``size`` of them."""
    image, group, up_row, up_column, exists = _points(height, width, groups, s, outputs)
    place = image * stride_b + group * stride_group
    place += up_row % s * stride_down + up_column % s * stride_across
    place += up_row // s * stride_y + up_column // s * stride_x
    offset_x, gate_x = _offset(offset_ptr, scope_ptr, place, exists, scoped)
    offset_y, gate_y = _offset(offset_ptr, scope_ptr, place + stride_axis, exists, scoped)
    x0, x1, fx, _ = _taps(up_column, gate_x * offset_x, width, s)
    y0, y1, fy, _ = _taps(up_row, gate_y * offset_y, height, s)
    fx, fy = fx[:, None], fy[:, None]
    top, bottom = (image * height + y0) * width, (image * height + y1) * width
    channels = groups * size
    result = ((image * height * s + up_row) * (width * s) + up_column) * channels
    for begin in range(0, size, block_c):
        lane = begin + tl.arange(0, block_c)[None, :]
        mask = exists[:, None] & (lane < size)
        c = group * size + lane
        v00 = _load(x_ptr, top + x0, channels, c, mask)
        v01 = _load(x_ptr, top + x1, channels, c, mask)
        v10 = _load(x_ptr, bottom + x0, channels, c, mask)
        v11 = _load(x_ptr, bottom + x1, channels, c, mask)
        upper = v00 + fx * (v01 - v00)
        lower = v10 + fx * (v11 - v10)
        y = upper + fy * (lower - upper)
        tl.store(y_ptr + result[:, None] + c, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def sample_gradient(
    x_ptr,
    offset_ptr,
    scope_ptr,
    dy_ptr,
    dx_ptr,
    doffset_ptr,
    dscope_ptr,
    height,
    width,
    size,
    groups,
    stride_b,
    stride_axis,
    stride_group,
    stride_down,
    stride_across,
    stride_y,
    stride_x,
    s: tl.constexpr,
    scoped: tl.constexpr,
    outputs: tl.constexpr,
    block_c: tl.constexpr,
):
    """Adds to dx, in float32, atomically; the gradients of a point are sums over its channels."""
    image, group, up_row, up_column, exists = _points(height, width, groups, s, outputs)
    place = image * stride_b + group * stride_group
    place += up_row % s * stride_down + up_column % s * stride_across
    place += up_row // s * stride_y + up_column // s * stride_x
    offset_x, gate_x = _offset(offset_ptr, scope_ptr, place, exists, scoped)
    offset_y, gate_y = _offset(offset_ptr, scope_ptr, place + stride_axis, exists, scoped)
    x0, x1, fx, free_x = _taps(up_column, gate_x * offset_x, width, s)
    y0, y1, fy, free_y = _taps(up_row, gate_y * offset_y, height, s)
    fx, fy = fx[:, None], fy[:, None]
    top, bottom = (image * height + y0) * width, (image * height + y1) * width
    channels = groups * size
    result = ((image * height * s + up_row) * (width * s) + up_column) * channels
    along_x = tl.zeros((outputs, block_c), tl.float32)
    along_y = tl.zeros((outputs, block_c), tl.float32)
    for begin in range(0, size, block_c):
        lane = begin + tl.arange(0, block_c)[None, :]
        mask = exists[:, None] & (lane < size)
        c = group * size + lane
        dy = tl.load(dy_ptr + result[:, None] + c, mask=mask, other=0.0).to(tl.float32)
        v00 = _load(x_ptr, top + x0, channels, c, mask)
        v01 = _load(x_ptr, top + x1, channels, c, mask)
        v10 = _load(x_ptr, bottom + x0, channels, c, mask)
        v11 = _load(x_ptr, bottom + x1, channels, c, mask)
        along_x += dy * ((1 - fy) * (v01 - v00) + fy * (v11 - v10))
        along_y += dy * ((1 - fx) * (v10 - v00) + fx * (v11 - v01))
        _add(dx_ptr, top + x0, channels, c, dy * (1 - fy) * (1 - fx), mask)
        _add(dx_ptr, top + x1, channels, c, dy * (1 - fy) * fx, mask)
        _add(dx_ptr, bottom + x0, channels, c, dy * fy * (1 - fx), mask)
        _add(dx_ptr, bottom + x1, channels, c, dy * fy * fx, mask)
    grad_x = tl.where(free_x, tl.sum(along_x, axis=1), 0.0)
    grad_y = tl.where(free_y, tl.sum(along_y, axis=1), 0.0)
    element = doffset_ptr.dtype.element_ty
    tl.store(doffset_ptr + place, (gate_x * grad_x).to(element), mask=exists)
    tl.store(doffset_ptr + place + stride_axis, (gate_y * grad_y).to(element), mask=exists)
    if scoped:  # the gate is sigmoid / 2, so its derivative is gate * (1 - 2 gate)
        grad_x *= offset_x * gate_x * (1 - 2 * gate_x)
        grad_y *= offset_y * gate_y * (1 - 2 * gate_y)
        element = dscope_ptr.dtype.element_ty
        tl.store(dscope_ptr + place, grad_x.to(element), mask=exists)
        tl.store(dscope_ptr + place + stride_axis, grad_y.to(element), mask=exists)


@triton.jit
def _points(height, width, groups, s: tl.constexpr, outputs: tl.constexpr):
    """Image and group of this program; row and column of its outputs and whether they exist."""
    group = tl.program_id(0) % groups
    tile = tl.program_id(0) // groups
    tiles = tl.cdiv(height * s * width * s, outputs)
    output = tile % tiles * outputs + tl.arange(0, outputs)
    up_row, up_column = output // (width * s), output % (width * s)
    image = (tile // tiles).to(tl.int64)
    return image, group, up_row.to(tl.int64), up_column.to(tl.int64), up_row < height * s


@triton.jit
def _offset(offset_ptr, scope_ptr, place, exists, scoped: tl.constexpr):
    """Prediction W1 x and what it is multiplied by: sigmoid(W2 x) / 2, or 1 / 4."""
    offset = tl.load(offset_ptr + place, mask=exists, other=0.0).to(tl.float32)
    if scoped:
        scope = tl.load(scope_ptr + place, mask=exists, other=0.0).to(tl.float32)
        gate = 0.5 * tl.sigmoid(scope)
    else:
        gate = tl.full(offset.shape, 0.25, tl.float32)
    return offset, gate


@triton.jit
def _taps(up, shift, length, s: tl.constexpr):
    """The two pixels that a position is between, how far, and whether a border holds it."""
    position = (up.to(tl.float32) + 0.5) / s - 0.5 + shift
    clamped = tl.minimum(tl.maximum(position, 0.0), length - 1.0)
    low = clamped.to(tl.int32)
    free = (position > 0) & (position < length - 1.0)
    return low, tl.minimum(low + 1, length - 1), clamped - low.to(tl.float32), free


@triton.jit
def _load(x_ptr, pixel, channels, c, mask):
    return tl.load(x_ptr + (pixel * channels)[:, None] + c, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _add(dx_ptr, pixel, channels, c, value, mask):
    tl.atomic_add(dx_ptr + (pixel * channels)[:, None] + c, value, mask=mask, sem="relaxed")
