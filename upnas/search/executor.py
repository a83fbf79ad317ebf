"""The seam between the search and what executes its trials, and the simplest executor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from upnas.measure.gate import DeviceGate
from upnas.records import TrialRecord
from upnas.search.queue import TrialQueue
from upnas.search.resources import Resources
from upnas.trial import Preparation, TrialRequest, TrialSpec, iterate_trial, prepare_study


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
    """One trial after the other in the driver's own process: for debuggers and tests."""

    def __init__(self, resources: Resources):
        self.resources = resources

    def prepare(self, spec: TrialSpec) -> Preparation:
        """Measure in this process."""
        return prepare_study(spec, gate_of(spec))

    def run(self, queue: TrialQueue, spec: TrialSpec) -> None:
        """Run until the queue is empty."""
        gate = gate_of(spec)
        while (request := queue.next()) is not None:
            for record in self._iterate(request, spec, gate):
                queue.receive(record)
                if queue.is_stopping:
                    return

    def _iterate(
        self, request: TrialRequest, spec: TrialSpec, gate: DeviceGate
    ) -> Iterator[TrialRecord]:
        return iterate_trial(request, spec, gate)


def gate_of(spec: TrialSpec) -> DeviceGate:
    """The gate of the device that the first target is measured on."""
    return DeviceGate(spec.targets[0].device)


@contextmanager
def inline_executor(resources: Resources) -> Iterator[Executor]:
    """Counterpart of :func:`upnas.search.ray_tune.ray_executor`."""
    yield InlineExecutor(resources)


ExecutorContext = AbstractContextManager[Executor]
