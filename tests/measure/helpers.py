"""Fakes that make measurements exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from upnas.measure.runtimes import Session
from upnas.measure.timing.clocks import Timing
from upnas.records import ClockName, TargetReference


class CountingSession(Session):
    """Counts its forwards."""

    def __init__(self) -> None:
        self.num_forwards = 0

    def run(self) -> object:
        self.num_forwards += 1
        return None

    def output(self) -> Tensor:
        return torch.zeros(1)


class FakeClock:
    """Charges each forward of a session what a script says, and really runs it.

    Args:
        sessions: Those that may run.
        cost_ms: (session index, number of its forwards so far) -> milliseconds of this forward.
    """

    name: ClockName = "thread_cpu"

    def __init__(self, sessions: Sequence[CountingSession], cost_ms: Callable[[int, int], float]):
        self._sessions = sessions
        self._cost_ms = cost_ms
        self.order: list[int] = []

    def __call__(self, run: Callable[[], object]) -> Timing:
        before = [session.num_forwards for session in self._sessions]
        run()
        ms = 0.0
        for index, session in enumerate(self._sessions):
            for number in range(before[index], session.num_forwards):
                ms += self._cost_ms(index, number)
                self.order.append(index)
        return Timing(ms, 2 * ms)


def calm(latency_ms: float = 1.0, samples_ms: Sequence[float] = ()) -> TargetReference:
    return TargetReference(target="cpu", latency_ms=latency_ms, samples_ms=tuple(samples_ms))


def skip_where_fakes_have_another_layout(name: str) -> None:
    """Torch before 2.9 gives an operator of FreqFusion another layout on fake tensors."""
    if name == "freqfusion" and TorchVersion(torch.__version__) < "2.9":
        pytest.skip("fake tensors of this torch give FreqFusion another layout than eager")
