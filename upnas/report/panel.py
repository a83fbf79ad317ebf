"""What a picture of two objectives shows, before any drawing library.

The Pareto set is that of all objectives; the step front is that of the two axes alone. With more
than two objectives they differ, so both are drawn and named.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from upnas.front import CandidateSummary, StudySummary, minimised
from upnas.pareto import step_front

#: More dominated points than this are thinned: pictures stay quick and files small.
MAX_DOMINATED: Final = 2000

#: A cost that differs by less, relative to its largest value, has no picture of its own: an axis
#: that magnifies it would suggest a choice where there is none.
MIN_SPREAD: Final = 0.02

Limits = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Two objectives of a study as points, by what they are.

    Attributes:
        x: Column of the horizontal objective.
        y: Column of the vertical objective.
        front: Pareto set of all objectives.
        dominated: Evenly thinned to :data:`MAX_DOMINATED`.
        num_dominated: Before thinning.
        excluded: Complete, but against a constraint or below the trivial baseline.
        baselines: Also among the others; drawn with a ring and a name.
        steps: Vertices of the step front of the two axes, in the objectives' own directions.
        limits: Horizontal and vertical range around the front and the baselines, with room for
            the front's error bars as far as they would not squeeze the points.
        num_outside: Points that lie beyond these limits.
    """

    x: int
    y: int
    front: tuple[CandidateSummary, ...]
    dominated: tuple[CandidateSummary, ...]
    num_dominated: int
    excluded: tuple[CandidateSummary, ...]
    baselines: tuple[CandidateSummary, ...]
    steps: tuple[tuple[float, float], ...]
    limits: tuple[Limits, Limits]
    num_outside: int

    def point(self, entry: CandidateSummary) -> tuple[float, float]:
        """The entry's place in the picture."""
        return mean(entry, self.x), mean(entry, self.y)

    def is_right(self, entry: CandidateSummary) -> bool:
        """Whether a label belongs on the entry's left, for want of room on its right."""
        low, high = self.limits[0]
        return mean(entry, self.x) > (low + high) / 2


def make_panel(summary: StudySummary, x: int, y: int) -> Panel:
    """Sort a study's candidates for a picture of two objectives."""
    known = [entry for entry in summary.entries if None not in entry.values]
    eligible = [entry for entry in known if entry.is_eligible]
    dominated = [entry for entry in eligible if not entry.is_on_front]
    baselines = tuple(entry for entry in known if entry.baseline)
    points = [(mean(entry, x), mean(entry, y)) for entry in known]
    shown = [(mean(e, x), mean(e, y)) for e in (*summary.front, *baselines)] or points
    bars = [_bar_ends(summary.front, column) for column in (x, y)]
    limits = (_limits([p[0] for p in shown], bars[0]), _limits([p[1] for p in shown], bars[1]))
    inside = [
        all(low <= value <= high for value, (low, high) in zip(point, limits, strict=True))
        for point in points
    ]
    return Panel(
        x=x,
        y=y,
        front=summary.front,
        dominated=thin(dominated, MAX_DOMINATED),
        num_dominated=len(dominated),
        excluded=tuple(entry for entry in known if not entry.is_eligible),
        baselines=baselines,
        steps=_steps(summary, eligible, x, y),
        limits=limits,
        num_outside=len(inside) - sum(inside),
    )


def panel_columns(summary: StudySummary) -> tuple[tuple[int, int], ...]:
    """Columns (x, y) of the pictures: the first objective against each other one."""
    return tuple((column, 0) for column in range(1, len(summary.objectives)))


def drawn_columns(summary: StudySummary) -> tuple[tuple[int, int], ...]:
    """The pictures worth drawing: without costs that hardly differ, if one is left."""
    pairs = panel_columns(summary)
    return tuple((x, y) for x, y in pairs if spread(summary, x) >= MIN_SPREAD) or pairs[:1]


def spread(summary: StudySummary, column: int) -> float:
    """Range of an objective over the front and the baselines, as a fraction of its largest value.

    0 without values.
    """
    entries = (*summary.front, *summary.baselines)
    values = [mean(entry, column) for entry in entries if entry.values[column] is not None]
    largest = max(map(abs, values), default=0.0)
    return (max(values) - min(values)) / largest if largest else 0.0


def mean(entry: CandidateSummary, column: int) -> float:
    """A known objective value."""
    value = entry.values[column]
    assert value is not None  # panels hold entries with all values
    return value.mean


def errors(entry: CandidateSummary, column: int) -> tuple[float, float]:
    """Lengths of the error bar below and above; 0 without an interval."""
    value = entry.values[column]
    if value is None or value.low is None or value.high is None:
        return 0.0, 0.0
    return value.mean - value.low, value.high - value.mean


def thin(entries: Sequence[T], limit: int) -> tuple[T, ...]:
    """At most ``limit`` entries, evenly spread over the sequence."""
    step = -(-len(entries) // limit) if entries else 1
    return tuple(itertools.islice(entries, 0, None, step))


def _bar_ends(entries: Sequence[CandidateSummary], column: int) -> list[float]:
    return [
        mean(entry, column) + length
        for entry in entries
        for below, above in [errors(entry, column)]
        for length in (-below, above)
    ]


def _limits(values: Sequence[float], bar_ends: Sequence[float]) -> Limits:
    """Room for markers and labels on both sides, and for error bars up to half the range."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    extent = high - low
    margin = 0.12 * extent or 0.1 * abs(high) or 1.0
    below = min(low - min(bar_ends, default=low), 0.5 * extent)
    above = min(max(bar_ends, default=high) - high, 0.5 * extent)
    return low - max(margin, 1.1 * below), high + max(margin, 1.1 * above)


def _steps(
    summary: StudySummary, eligible: Sequence[CandidateSummary], x: int, y: int
) -> tuple[tuple[float, float], ...]:
    points = [minimised(summary.header, entry) for entry in eligible]
    pairs = np.array([(point[x], point[y]) for point in points]).reshape(-1, 2)
    signs = [1 if summary.objectives[c].direction == "minimize" else -1 for c in (x, y)]
    return tuple((float(a), float(b)) for a, b in step_front(pairs) * signs)
