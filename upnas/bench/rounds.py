"""Takes samples of many functions in rounds, each round in an order of its own.

Every round runs each function once, in a fresh random order, so that a slow spell of the machine
and what a predecessor leaves in the caches hit all alike. A function leaves the rounds when it has
had its time. Since all begin in the first round, the i-th samples of two functions are always of
the same round: pair them.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from upnas.measure.timing.clocks import Clock, Timing
from upnas.records import ClockName

#: The fewest samples of a function, however slow it is, and the most, however fast.
MIN_SAMPLES: Final = 3
MAX_SAMPLES: Final = 50
_MAX_WARMUP: Final = 25
_WARMUP_SHARE: Final = 0.2  # of the budget
_MAX_REPEATS: Final = 100

Run = Callable[[], object]


@dataclass(slots=True)
class _Runner:
    run: Run
    first_s: float
    repeats: int = 1
    spent_s: float = 0.0
    samples_ms: list[float] = field(default_factory=list)

    def warm_up(self, clock: Clock, budget_s: float, sample_ms: float) -> None:
        """Run until a share of the budget is spent; decide how many calls make one sample."""
        wall_s = self.first_s
        for _ in range(_MAX_WARMUP):
            if wall_s > _WARMUP_SHARE * budget_s:
                break
            timing = clock(self.run)
            wall_s += timing.wall_ms / 1e3
            self.repeats = min(_MAX_REPEATS, max(1, math.ceil(sample_ms / timing.ms)))

    def sample(self, clock: Clock) -> None:
        """Time one sample. A short function runs once more before it, for warm caches."""

        def run() -> None:
            for _ in range(self.repeats):
                self.run()

        if self.repeats > 1:
            self.run()
        timing = clock(run)
        self.spent_s += timing.wall_ms / 1e3
        self.samples_ms.append(timing.ms / self.repeats)


def sample_rounds(
    runs: Sequence[tuple[Run, float]],
    reference: Run,
    clock: Clock,
    *,
    budget_s: float,
    sample_ms: float,
    rng: random.Random,
) -> tuple[list[list[float]], list[float]]:
    """Warm up and time functions in rounds.

    Args:
        runs: What to time, with the wall seconds of a first call, which is part of its warm-up.
        reference: Takes part in every round.
        clock: Reads the times.
        budget_s: Wall seconds of samples after which a function leaves the rounds, but never
            before :data:`MIN_SAMPLES` and always after :data:`MAX_SAMPLES` of them.
        sample_ms: A shorter function is called repeatedly for one sample, until it is about this
            long: clocks and calls have an overhead. 0: one call is one sample.
        rng: Draws the orders.

    Returns:
        Milliseconds per call, one list per function with one number per round, and those of the
        reference.
    """
    always = _Runner(reference, first_s=0.0)
    others = [_Runner(run, first_s) for run, first_s in runs]
    for runner in (always, *others):
        runner.warm_up(clock, budget_s, sample_ms)
    active = others
    while active:
        order = [always, *active]
        rng.shuffle(order)
        for runner in order:
            runner.sample(clock)
        active = [runner for runner in active if not _has_enough(runner, budget_s)]
    return [runner.samples_ms for runner in others], always.samples_ms


def _has_enough(runner: _Runner, budget_s: float) -> bool:
    num_samples = len(runner.samples_ms)
    is_spent = runner.spent_s >= budget_s and num_samples >= MIN_SAMPLES
    return is_spent or num_samples >= MAX_SAMPLES


class ColdDeviceClock:
    """Elapsed time on the CUDA stream, with nothing of use in the device's cache.

    Overwriting a large array before each run empties the cache, and keeps the device busy while
    the host launches what is timed: gaps between kernels count only where the host is slower.
    """

    name: ClockName = "device"

    def __init__(self, num_bytes: int = 512 * 2**20):
        self._eraser = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")

    def __call__(self, run: Callable[[], object]) -> Timing:
        """Time one run."""
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        wall = time.perf_counter_ns()
        self._eraser.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        wall = time.perf_counter_ns() - wall
        return Timing(begin.elapsed_time(end), wall / 1e6)
