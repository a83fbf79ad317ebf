"""Whether a block of timed pairs is to be trusted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from upnas.measure.timing.clocks import Timing
from upnas.records import median_interval

Pair = list[Timing]  # reference, candidate


@dataclass(frozen=True, slots=True)
class Judge:
    """Looks for what makes the median pair ratio of a block wrong.

    Pairs cancel what slows both networks alike. They do not cancel a change that hits between the
    two halves of pairs, or one network more than the other (full caches); such a change shows in
    the reference, which is the same network all the time.

    Attributes:
        max_half_width: Of the 95 % interval of the median ratio, as a share of it.
        max_drift: Of the reference's median from the first to the last third of the block.
        max_spread: Of the reference: interquartile range / median.
    """

    max_half_width: float
    max_drift: float
    max_spread: float

    def objection(self, pairs: Sequence[Pair]) -> str | None:
        """The first thing that is wrong with a block, in words; None if it is accepted."""
        return self._wrong_reference(pairs) or self._wrong_ratio(pairs)

    def is_only_wide(self, pairs: Sequence[Pair]) -> bool:
        """Whether more pairs of the same kind are all that a block lacks."""
        return self._wrong_reference(pairs) is None and half_width(pairs) > self.max_half_width

    def _wrong_reference(self, pairs: Sequence[Pair]) -> str | None:
        times = [reference.ms for reference, _ in pairs]
        third = len(times) // 3
        drift = _change(times[:third], times[-third:])
        if abs(drift) > self.max_drift:
            return f"reference drifted {100 * abs(drift):.0f} %"
        if (width := spread(times)) > self.max_spread:
            return f"reference spread {100 * width:.0f} %"
        return None

    def _wrong_ratio(self, pairs: Sequence[Pair]) -> str | None:
        if (width := half_width(pairs)) > self.max_half_width:
            return f"interval +-{100 * width:.1f} %"
        # A half has half the pairs, so the difference of the halves' medians has twice the
        # standard error of the whole median: without drift, a block that is as precise as wanted
        # fails this about once in twenty.
        ratios = [candidate.ms / reference.ms for reference, candidate in pairs]
        middle = len(ratios) // 2
        drift = _change(ratios[:middle], ratios[middle:])
        if abs(drift) > self.max_half_width:
            return f"ratio drifted {100 * abs(drift):.1f} %"
        return None


def half_width(pairs: Sequence[Pair]) -> float:
    """Half the 95 % interval of the median pair ratio, as a share of it."""
    ratios = [candidate.ms / reference.ms for reference, candidate in pairs]
    low, high = median_interval(ratios)
    return (high - low) / 2 / statistics.median(ratios)


def spread(times: Sequence[float]) -> float:
    """Interquartile range / median of at least two times."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle


def _change(before: Sequence[float], after: Sequence[float]) -> float:
    return statistics.median(after) / statistics.median(before) - 1
