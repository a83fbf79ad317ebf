"""Bilinear reads of a map at predicted positions, which DySample, DLU and FreqFusion share.

Positions are in pixels: 0 is the centre of the first row or column. They are computed in float32
at least: in bfloat16 they would be off by more than a pixel on maps some 500 pixels wide. A read
outside the map reads its border.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers.functional import triton_reassembly, triton_sampling

#: Fewest channels of a group for which the sum of corners beats grid_sample on one CPU thread
#: (for channels_last inputs half of it): the fewer lie together, the more each pays for its index.
WIDE = 64


def sample(x: Tensor, offset: Tensor, scope: Tensor | None, groups: int, s: int) -> Tensor:
    """Upsample by reading every output pixel at its own position plus a predicted offset.

    Args:
        x: Features, (B, C, H, W), C divisible by ``groups``.
        offset: See :func:`positions`.
        scope: See :func:`positions`.
        groups: Groups of channels that move together.
        s: Upsampling factor.

    Returns:
        (B, C, s*H, s*W) as from :func:`sample_at`; from Triton, channels_last.
    """
    # Both add the gradient of x up atomically, but only grid_sample says so where that is refused.
    if triton_reassembly.usable(x) and not torch.are_deterministic_algorithms_enabled():
        y: Tensor = triton_sampling.sample(x, offset, scope, groups, s)
        return y
    rows, columns = positions(offset, scope, groups, s)
    return sample_at(x, rows, columns)


def positions(offset: Tensor, scope: Tensor | None, groups: int, s: int) -> tuple[Tensor, Tensor]:
    """Return where output (Y, X) of each group reads.

    With the raw predictions o and g, in pixels of the input::

        row    (Y + 1/2) / s - 1/2 + 0.25 o_y        or + 0.5 sigmoid(g_y) o_y
        column (X + 1/2) / s - 1/2 + 0.25 o_x        or + 0.5 sigmoid(g_x) o_x

    Args:
        offset: o, its channels x before y, each by group: (B, 2 * groups, s*H, s*W), or with the
            s*s phases innermost as a pixel shuffle reads them, (B, 2 * groups * s*s, H, W).
        scope: g, likewise; None: static scope.
        groups: Number of groups.
        s: Upsampling factor.

    Returns:
        Rows and columns, each (B, groups, s*H, s*W), in float32 (float64 for float64 offsets).
    """
    dtype = torch.promote_types(offset.dtype, torch.float32)
    reach = 0.25 if scope is None else 0.5 * scope.to(dtype).sigmoid()
    moves = reach * offset.to(dtype)
    if moves.shape[1] != 2 * groups:
        moves = F.pixel_shuffle(moves, s)
    height, width = moves.shape[-2:]
    ys = (torch.arange(height, device=moves.device, dtype=dtype) + 0.5) / s - 0.5
    xs = (torch.arange(width, device=moves.device, dtype=dtype) + 0.5) / s - 0.5
    across, down = moves.chunk(2, dim=1)
    return down + ys[:, None], across + xs


def sample_at(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read a map bilinearly, one position per output pixel and group of channels.

    Args:
        x: (B, C, H, W), C divisible by the number of groups.
        rows: (B, groups, Y, X), in pixels, in float32 at least.
        columns: (B, groups, Y, X), likewise.

    Returns:
        (B, C, Y, X) in the dtype of ``x``; channels_last where ``x`` is, and for wide groups.
    """
    (b, c, h, w), groups = x.shape, rows.shape[1]
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    is_wide = c // groups >= (WIDE // 2 if is_last else WIDE)
    if is_wide and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _sum_of_corners(x, rows, columns)
    # A map spans 2 units for grid_sample, -1 and 1 being its outer edges.
    across, down = (columns + 0.5) * (2 / w) - 1, (rows + 0.5) * (2 / h) - 1
    grid = torch.stack([across, down], dim=-1).flatten(0, 1)
    # It wants one dtype, and groups are independent maps to it.
    maps = x.reshape(b * groups, c // groups, h, w).to(grid.dtype)
    y = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    y = y.reshape(b, c, *rows.shape[2:]).to(x.dtype)
    # grid_sample never gives channels_last.
    return y.contiguous(memory_format=torch.channels_last) if is_last else y


def _sum_of_corners(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """:func:`sample_at` as a weighted sum of four rows of a table of pixels.

    On a CPU this is faster than grid_sample for wide groups, all the more in channels_last, which
    grid_sample does not keep.
    """
    (b, c, h, w), groups = x.shape, rows.shape[1]
    down = rows.permute(0, 2, 3, 1).clamp(0, h - 1)  # (B, Y, X, groups)
    across = columns.permute(0, 2, 3, 1).clamp(0, w - 1)
    # A position that is not a number is no row of the table; its weights make the output NaN.
    top, left = (
        place.detach().floor().clamp(max=max(side - 2, 0)).nan_to_num(0.0)
        for place, side in ((down, h), (across, w))
    )
    v, u = down - top, across - left
    uv = u * v
    weights = torch.stack([1 - u - v + uv, u - uv, v - uv, uv], dim=-1)
    # The table is (B, H, W, groups) times the channels of a group; a side of 1 has no neighbour.
    # Smaller numbers are less to write and to read.
    dtype = torch.int32 if x.numel() < 2**31 else torch.int64
    images, parts = (torch.arange(n, device=x.device, dtype=dtype) for n in (b, groups))
    corner = (images.view(-1, 1, 1, 1) * h + top.to(dtype)) * w + left.to(dtype)
    below, right = (w * groups if h > 1 else 0), (groups if w > 1 else 0)
    steps = torch.tensor([0, right, below, below + right], device=x.device, dtype=dtype)
    y = F.embedding_bag(
        ((corner * groups + parts)[..., None] + steps).reshape(-1, 4),
        x.permute(0, 2, 3, 1).reshape(-1, c // groups).to(weights.dtype),
        mode="sum",
        per_sample_weights=weights.reshape(-1, 4),
    )
    return y.view(b, *rows.shape[2:], c).permute(0, 3, 1, 2).to(x.dtype)
