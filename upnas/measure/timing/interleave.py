"""Times several forwards in turns, so that a slow spell hits all alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from upnas.measure.allocator import keep_freed_memory
from upnas.measure.timing.clocks import Clock, Timing
from upnas.records import Target

MAX_WARMUP_ROUNDS: Final = 20
#: At most so many timed forwards of the faster network in one sample.
MAX_REPEATS: Final = 4

_MAX_SPACER_BYTES: Final = 2**20

Forward = Callable[[], object]


class Interleaver:
    """Runs forwards in rounds; each round takes one sample of each, in an order that rotates.

    Args:
        forwards: One function per network that runs a forward.
        clock: Reads the time of a sample.

    Attributes:
        wall_s: Wall seconds of all samples so far.
        repeats: Timed forwards in one sample of each network.
        num_warmup: Rounds that :meth:`warm_up` took.
    """

    def __init__(self, forwards: Sequence[Forward], clock: Clock):
        self._forwards = forwards
        self._clock = clock
        self._num_rounds = 0
        self._rng = random.Random(0)
        self._spacer: Tensor | None = None
        self.wall_s = 0.0
        self.repeats = [1] * len(forwards)
        self.num_warmup = 0

    def sample_round(self) -> list[Timing]:
        """Return one sample per network, in the order given, each as time per forward."""
        self._move_heap()
        num_networks = len(self._forwards)
        timings = {}
        for step in range(num_networks):
            index = (self._num_rounds + step) % num_networks
            timings[index] = self._sample(index)
        self._num_rounds += 1
        return [timings[index] for index in range(num_networks)]

    def warm_up(self, max_rounds: int = MAX_WARMUP_ROUNDS) -> None:
        """Run until no network gets faster: two rounds without a best time that is 5 % better.

        Then balances the samples. The slower network leaves cold caches behind, and its partner
        pays for it: 5-15 % of the faster one's time, which would flatter every large candidate.
        So a network that is k times faster than the slowest runs once untimed and then k times
        (at most ``MAX_REPEATS``) timed; about equal ones run once each and share the effect.
        """
        best = [timing.ms for timing in self.sample_round()]
        num_stationary = 0
        self.num_warmup = 1
        for _ in range(max_rounds - 1):
            self.num_warmup += 1
            times = [timing.ms for timing in self.sample_round()]
            faster = any(now < 0.95 * before for now, before in zip(times, best, strict=True))
            best = [min(pair) for pair in zip(times, best, strict=True)]
            num_stationary = 0 if faster else num_stationary + 1
            if num_stationary == 2:
                break
        self.repeats = [min(MAX_REPEATS, round(max(best) / time)) for time in best]

    def _move_heap(self) -> None:
        """Let the activations of every round lie elsewhere.

        Where they lie decides which lines of the caches they share, and that is 1-4 % of a
        forward: with an allocator that keeps memory it would be the same luck in all samples.
        """
        self._spacer = None
        num_bytes = self._rng.randrange(64, _MAX_SPACER_BYTES)
        self._spacer = torch.empty(num_bytes, dtype=torch.uint8)

    def _sample(self, index: int) -> Timing:
        forward, repeats = self._forwards[index], self.repeats[index]

        def run() -> None:
            for _ in range(repeats):
                forward()

        if repeats > 1:
            forward()
        timing = self._clock(run)
        self.wall_s += timing.wall_ms / 1e3
        return Timing(timing.ms / repeats, timing.wall_ms / repeats)


@contextmanager
def conditions_of(target: Target) -> Iterator[None]:
    """Run forwards as the target does: inference mode, torch's number of threads, the allocator."""
    if target.device == "cpu" and target.allocator == "keep":
        keep_freed_memory()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(target.threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(num_threads)
