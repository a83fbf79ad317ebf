"""The timers that people use otherwise, on the same session."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from upnas.bench.instrument.records import TimerName
from upnas.measure.runtimes import Session

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

_NUM_FORWARDS: Final = 10

# (session, wall seconds to spend) -> milliseconds of one forward
Rival = Callable[[Session, float], float]


def mean_of_ten(session: Session, budget_s: float = 0.0) -> float:
    """One forward to warm up, then the mean wall time of ten."""
    del budget_s
    session.run()
    start = time.perf_counter()
    for _ in range(_NUM_FORWARDS):
        session.run()
    return 1e3 * (time.perf_counter() - start) / _NUM_FORWARDS


def mean_loop(session: Session, budget_s: float) -> float:
    """As many forwards as the time allows, but ten at least."""
    session.run()
    count, start = 0, time.perf_counter()
    while count < _NUM_FORWARDS or time.perf_counter() - start < budget_s:
        session.run()
        count += 1
    return 1e3 * (time.perf_counter() - start) / count


def blocked_autorange(session: Session, budget_s: float) -> float:
    """``torch.utils.benchmark``, the median of its blocks."""
    return 1e3 * float(_timer(session).blocked_autorange(min_run_time=budget_s).median)


def adaptive_autorange(session: Session, budget_s: float) -> float:
    """``torch.utils.benchmark``, until its interquartile range is 10 % or the time is spent."""
    found = _timer(session).adaptive_autorange(min_run_time=budget_s / 10, max_run_time=budget_s)
    return 1e3 * float(found.median)


def _timer(session: Session) -> Timer:
    # Here, because loading it warns where CUDA's compiler is installed and no GPU is.
    from torch.utils.benchmark import Timer

    return Timer("run()", globals={"run": session.run}, num_threads=1)


RIVALS: Final[Mapping[TimerName, Rival]] = MappingProxyType(
    {
        "blocked_autorange": blocked_autorange,
        "adaptive_autorange": adaptive_autorange,
        "mean of 10": mean_of_ten,
        "mean loop": mean_loop,
    }
)
