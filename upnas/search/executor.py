"""The seam between the search and what executes its trials, and the simplest executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from upnas.measure.gate import DeviceGate
from upnas.records import TrialRecord
from upnas.search.queue import TrialQueue
from upnas.search.resources import Resources
from upnas.trial import Preparation, TrialRequest, TrialSpec, iterate_trial, prepare_study

Iterate = Callable[[TrialRequest, TrialSpec, DeviceGate], Iterator[TrialRecord]]
Prepare = Callable[[TrialSpec, DeviceGate], Preparation]


class Executor(Protocol):
    """Runs trials somewhere."""

    @property
    def resources(self) -> Resources:
        """What each trial gets."""

    def prepare(self, spec: TrialSpec) -> Preparation:
        """Measure what the whole study needs, on a machine that runs trials."""

    def run(self, queue: TrialQueue, spec: TrialSpec) -> None:
        """Run trials until the queue has none left, handing every record to it."""


class InlineExecutor:
    """One trial after the other in the driver's own process: for debuggers and tests.

    Args:
        resources: What each trial gets.
        iterate: Runs one trial; a test passes a fake one that needs no training.
        prepare: Measures what the whole study needs.
    """

    def __init__(
        self,
        resources: Resources,
        iterate: Iterate = iterate_trial,
        prepare: Prepare = prepare_study,
    ):
        self.resources = resources
        self._iterate = iterate
        self._prepare = prepare

    def prepare(self, spec: TrialSpec) -> Preparation:
        """Measure in this process."""
        return self._prepare(spec, gate_of(spec))

    def run(self, queue: TrialQueue, spec: TrialSpec) -> None:
        """Run until the queue is empty, or to the next record once it is stopping."""
        gate = gate_of(spec)
        while (request := queue.next()) is not None:
            for record in self._iterate(request, spec, gate):
                queue.receive(record)
                if queue.is_stopping:
                    return


def gate_of(spec: TrialSpec) -> DeviceGate:
    """The gate of the device that the first target is measured on."""
    return DeviceGate(spec.targets[0].device)
