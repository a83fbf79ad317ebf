"""Pareto mathematics on plain arrays.

Every function takes an ``(n, m)`` float array of n points and m objectives in which *every* column
is minimised; callers flip the sign of what they maximise. Point a dominates point b when a is no
larger in any column and smaller in at least one.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Below this bulge (in normalised objectives) a front counts as straight: rounding, not a knee.
_MIN_BULGE: Final = 1e-9


def non_dominated(points: npt.ArrayLike) -> Mask:
    """Mark the points that no other point dominates.

    Equal points do not dominate each other: all copies of a front point are marked. A row with a
    NaN is never marked and dominates nothing. Infinities compare as usual.

    Args:
        points: (n, m), minimised; n = 0 is fine.

    Returns:
        (n,) booleans.

    Raises:
        ValueError: If ``points`` is not two-dimensional with m >= 1.
    """
    array = _as_points(points)
    mask = np.zeros(len(array), dtype=np.bool_)
    valid = ~np.isnan(array).any(axis=1)
    # Sorted lexicographically; adding 0.0 turns -0.0 into 0.0, so that equal points are one row.
    unique, inverse = np.unique(array[valid] + 0.0, axis=0, return_inverse=True)
    mask[valid] = _front_of_sorted(unique)[inverse.ravel()]
    return mask


def pareto_rank(points: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Rank points by repeatedly peeling off the front (non-dominated sorting).

    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002, section III-A,
    https://doi.org/10.1109/4235.996017.

    Args:
        points: (n, m), minimised.

    Returns:
        (n,) integers: 0 = the front, 1 = the front of what remains, ...; -1 = a row with a NaN.
    """
    array = _as_points(points)
    ranks = np.full(len(array), -1, dtype=np.int64)
    remaining = np.flatnonzero(~np.isnan(array).any(axis=1))
    rank = 0
    while remaining.size:
        front = non_dominated(array[remaining])
        ranks[remaining[front]] = rank
        remaining = remaining[~front]
        rank += 1
    return ranks


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume that the points dominate within the box below the reference point; exact.

    Two and three objectives are swept; more use WFG: While, Bradstreet and Barone, "A fast way of
    calculating exact hypervolumes", IEEE TEC 16(1), 2012, https://doi.org/10.1109/TEVC.2010.2077298.

    Args:
        points: (n, m), minimised. Points that are not below the reference in every column, and
            rows with a NaN, contribute nothing.
        reference: (m,), finite.

    Returns:
        The volume in the product of the columns' units: 0 for no point, infinity when a
        contributing point is unbounded (-inf).

    Raises:
        ValueError: If the reference is not finite or has another length than a point.
    """
    array = _as_points(points)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (array.shape[1],) or not np.isfinite(corner).all():
        raise ValueError(
            f"The reference point needs {array.shape[1]} finite numbers, one per objective; "
            f"got {corner.tolist()}."
        )
    inside = array[(array < corner).all(axis=1)]  # False for NaN
    if np.isneginf(inside).any():
        return math.inf
    # Moving the reference to the origin leaves extents only: a point spans prod(-point).
    return _volume(np.unique(inside[non_dominated(inside)] - corner, axis=0))


def knee(points: npt.ArrayLike) -> int | None:
    """Find the point of the front where giving up a little of one objective buys most of another.

    The definition of Das, "On characterizing the knee of the Pareto curve based on normal-boundary
    intersection", Structural Optimization 18, 1999, https://doi.org/10.1007/BF01195985, on
    objectives normalised by the front's own ideal (0) and nadir (1): the point farthest, along the
    normal (1, ..., 1), below the extremes of the front. With two objectives that is the largest
    distance to the chord. With more, the point must beat *every* extreme, where an extreme is a
    point that is best in one objective; the normal is fixed rather than fitted, because the
    extremes of a small front need not span a hyperplane.

    Args:
        points: (n, m), minimised. Rows that are dominated or not finite are left out; objectives
            in which the front does not vary are ignored.

    Returns:
        The row of the knee (the first of equals), or None where there is none: fewer than three
        points, fewer than two varying objectives, a straight or a concave front.
    """
    array = _as_points(points)
    finite = np.isfinite(array).all(axis=1)
    rows = np.flatnonzero(finite)[non_dominated(array[finite])]
    if len(rows) < 3:
        return None
    front = array[rows]
    ideal, nadir = front.min(axis=0), front.max(axis=0)
    varies = nadir > ideal
    if varies.sum() < 2:
        return None
    normalised = (front[:, varies] - ideal[varies]) / (nadir[varies] - ideal[varies])
    heights = normalised.sum(axis=1)
    extreme = (normalised == 0).any(axis=1)
    best = int(np.argmin(np.where(extreme, np.inf, heights)))
    is_knee = not extreme[best] and heights[best] < heights[extreme].min() - _MIN_BULGE
    return int(rows[best]) if is_knee else None


def step_front(points: npt.ArrayLike) -> Points:
    """Vertices of the staircase that bounds what two-objective points dominate.

    Args:
        points: (n, 2), minimised.

    Returns:
        (k, 2) vertices from left to right, alternately a front point and the inner corner to the
        next one; empty without a valid point.

    Raises:
        ValueError: If there are not exactly two columns.
    """
    array = _as_points(points)
    if array.shape[1] != 2:
        raise ValueError(f"A step front is drawn for 2 objectives; got {array.shape[1]}.")
    front = np.unique(array[non_dominated(array)], axis=0)
    steps = np.repeat(front, 2, axis=0)[:-1]
    steps[1::2, 0] = front[1:, 0]  # a corner keeps the left point's y and takes the next one's x
    return steps


def _as_points(points: npt.ArrayLike) -> Points:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"Points need the shape (n, m) with m >= 1; got {array.shape}.")
    return array


def _front_of_sorted(points: Points) -> Mask:
    """Front of distinct points in lexicographic order: only an earlier row can dominate."""
    mask = np.zeros(len(points), dtype=np.bool_)
    if points.shape[1] == 1:
        mask[:1] = True
        return mask
    if points.shape[1] == 2:
        best_before = np.minimum.accumulate(points[:, 1])[:-1]
        mask[:1] = True
        mask[1:] = points[1:, 1] < best_before
        return mask
    # Columns first: comparing along the long axis is several times faster.
    rows, rest = np.arange(len(points)), points[:, 1:].T.copy()
    while len(rows):
        mask[rows[0]] = True
        survives = (rest[:, 1:] < rest[:, :1]).any(axis=0)
        rows, rest = rows[1:], rest[:, 1:]
        if not survives.all():  # a copy per row would dominate the time of a large front
            rows, rest = rows[survives], rest[:, survives]
    return mask


def _volume(front: Points) -> float:
    """Hypervolume of distinct non-dominated points in lexicographic order; reference = origin."""
    num_points, num_objectives = front.shape
    if num_points == 0:
        return 0.0
    if num_points == 1:
        return float(np.prod(-front[0]))
    if num_objectives == 2:
        heights = np.diff(front[:, 1], prepend=0.0)
        return float(np.sum(front[:, 0] * heights))
    if num_objectives == 3:
        return _volume_by_slabs(front)
    # WFG: the volume is the sum of what each point adds to the points after it.
    return sum(_exclusive_volume(front, index) for index in range(num_points))


def _volume_by_slabs(front: Points) -> float:
    """Sweep the first column: between two neighbours the cross-section is a 2-D hypervolume."""
    widths = np.diff(front[:, 0], append=0.0)
    total = 0.0
    section = np.empty((0, 2))
    for row, width in zip(front[:, 1:], widths, strict=True):
        section = np.vstack([section[(section < row).any(axis=1)], row])
        if width > 0:
            section = section[np.argsort(section[:, 0])]
            total += float(width) * _volume(section)
    return total


def _exclusive_volume(front: Points, index: int) -> float:
    """What point ``index`` dominates and no later point does (WFG, "exclhv")."""
    point, later = front[index], front[index + 1 :]
    limited = np.unique(np.maximum(later, point), axis=0)
    return float(np.prod(-point)) - _volume(limited[_front_of_sorted(limited)])
