"""Rounds with a clock that charges what a script says."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from upnas.bench.rounds import MAX_SAMPLES, MIN_SAMPLES, sample_rounds
from upnas.measure.timing.clocks import Timing
from upnas.records import ClockName


class Fakes:
    """Functions of known cost, and the clock that knows it."""

    name: ClockName = "wall"

    def __init__(self, **costs_ms: float):
        self._costs_ms = costs_ms
        self.order: list[str] = []

    def run(self, name: str) -> Callable[[], None]:
        return lambda: self.order.append(name)

    def __call__(self, run: Callable[[], object]) -> Timing:
        num_before = len(self.order)
        run()
        ms = sum(self._costs_ms[name] for name in self.order[num_before:])
        return Timing(ms, ms)

    def sample(
        self, budget_s: float, sample_ms: float = 0.0, first_s: float = 1e9
    ) -> dict[str, list[float]]:
        names = [name for name in self._costs_ms if name != "copy"]
        samples, copy_ms = sample_rounds(
            [(self.run(name), first_s) for name in names],
            self.run("copy"),
            self,
            budget_s=budget_s,
            sample_ms=sample_ms,
            rng=random.Random(0),
        )
        return dict(zip(names, samples, strict=True)) | {"copy": copy_ms}


def test_each_leaves_when_its_budget_is_spent() -> None:
    samples = Fakes(copy=1, quick=10, slow=1000, middle=40).sample(budget_s=0.2)
    assert samples["quick"] == [10] * 20
    assert samples["middle"] == [40] * 5
    assert samples["slow"] == [1000] * MIN_SAMPLES
    assert samples["copy"] == [1] * 20  # as long as anyone


def test_no_more_than_the_most_samples() -> None:
    assert len(Fakes(copy=1, a=1).sample(budget_s=1e3)["a"]) == MAX_SAMPLES


def test_every_round_has_everyone_once_in_an_order_of_its_own() -> None:
    fakes = Fakes(copy=1, a=1, b=1, c=1)
    fakes.sample(budget_s=0.02)
    order = fakes.order[-4 * 20 :]  # behind the copy's warm-up
    rounds = [tuple(order[start : start + 4]) for start in range(0, len(order), 4)]
    assert {frozenset(names) for names in rounds} == {frozenset(("copy", "a", "b", "c"))}
    assert len(set(rounds)) > 5


def test_short_calls_are_repeated_and_averaged() -> None:
    fakes = Fakes(copy=5, short=0.5)
    samples = fakes.sample(budget_s=0.01, sample_ms=2, first_s=0.0)
    assert samples["short"] == [0.5] * 5  # 4 calls of 0.5 ms each, 10 ms in all
    # Warm-up until a fifth of the budget is spent, then one untimed and four timed calls a sample.
    assert fakes.order.count("short") == 5 + 5 * (1 + 4)


def test_a_slow_first_call_is_the_warm_up() -> None:
    fakes = Fakes(copy=1, slow=500)
    fakes.sample(budget_s=0.1, first_s=0.5)
    assert fakes.order.count("slow") == MIN_SAMPLES


def test_nothing_to_time() -> None:
    assert Fakes(copy=1).sample(budget_s=1) == {"copy": []}


def test_an_interrupt_is_not_swallowed() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    fakes = Fakes(copy=1)
    with pytest.raises(KeyboardInterrupt):
        sample_rounds(
            [(stop, 0.0)],
            fakes.run("copy"),
            fakes,
            budget_s=1,
            sample_ms=0,
            rng=random.Random(0),
        )
