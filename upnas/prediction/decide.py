"""Whether an interval is narrow enough to decide, so that a measurement would change nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from upnas.pareto import non_dominated
from upnas.records import Constraint

Verdict = Literal["feasible", "infeasible"]


def verdict_on(interval: tuple[float, float], constraints: Iterable[Constraint]) -> Verdict | None:
    """Say whether a cost keeps its limits wherever in the interval it lies.

    Args:
        interval: Lowest and highest plausible value of the cost, in the constraints' unit.
        constraints: Those on this cost and this target.

    Returns:
        ``"feasible"``: every value keeps every limit. ``"infeasible"``: every value is beyond one
        of them. None: it depends on the value, so measure.
    """
    low, high = interval
    limits = [
        (
            -math.inf if constraint.min is None else constraint.min,
            math.inf if constraint.max is None else constraint.max,
        )
        for constraint in constraints
    ]
    if any(high < least or low > most for least, most in limits):
        return "infeasible"
    if all(least <= low and high <= most for least, most in limits):
        return "feasible"
    return None


def is_surely_dominated(best_case: npt.ArrayLike, front: npt.ArrayLike) -> bool:
    """Say whether a candidate is dominated even if every objective turns out at its best.

    Args:
        best_case: (m,) minimised: the better end of each objective's interval, -inf where nothing
            is known.
        front: (n, m) minimised: measured points, at the worse end of their own intervals where
            these matter; n = 0 is fine.

    Raises:
        ValueError: If the best case has a NaN, or the shapes do not fit.
    """
    point = np.asarray(best_case, dtype=np.float64)
    if np.isnan(point).any():
        raise ValueError("A best case is a number for every objective; use -inf for an unknown.")
    if np.size(front) == 0:
        return False
    return not non_dominated(np.vstack([front, point]))[-1]
