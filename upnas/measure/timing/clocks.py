"""The clocks that a forward pass can be timed with.

- ``thread_cpu``: processor time of the calling thread. With one thread all of torch's work runs on
  it, so other processes that take the processor away do not count; slower caches and lower
  frequencies under load still do. With several threads it includes the spinning at barriers.
- ``process_cpu``: processor time of all threads of this process, for runtimes that compute on a
  thread of their own. Whatever else the process does counts, too.
- ``wall``: elapsed time. The only honest clock when the target uses every processor, and only on
  an idle machine.
- ``device``: elapsed time between two events on the CUDA stream. Gaps in which the device waits
  for the host to launch kernels are inside it, as they are in real use.

Excluded from all: copying the input to the device and the output back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from upnas.measure.environment import available_cpus
from upnas.records import ClockName, Target


class Timing(NamedTuple):
    """One run: its time by the clock, and the wall time beside it."""

    ms: float
    wall_ms: float


class Clock(Protocol):
    """Times one run of a function."""

    @property
    def name(self) -> ClockName:
        """What it reads."""
        ...

    def __call__(self, run: Callable[[], object]) -> Timing:
        """Run the function once, to its end on the device, and time it."""
        ...


class CpuClock:
    """Processor time of the calling thread, or of all threads of the process.

    Args:
        name: Which of the two.
    """

    def __init__(self, name: ClockName):
        self.name: ClockName = name
        self._now = time.thread_time_ns if name == "thread_cpu" else time.process_time_ns

    def __call__(self, run: Callable[[], object]) -> Timing:
        """Time one run."""
        wall, cpu = time.perf_counter_ns(), self._now()
        run()
        cpu, wall = self._now() - cpu, time.perf_counter_ns() - wall
        return Timing(cpu / 1e6, wall / 1e6)


class WallClock:
    """Elapsed time.

    Args:
        synchronize: Waits for the device to finish; nothing where a run is synchronous.
    """

    name: ClockName = "wall"

    def __init__(self, synchronize: Callable[[], object] = lambda: None):
        self._synchronize = synchronize

    def __call__(self, run: Callable[[], object]) -> Timing:
        """Time one run."""
        self._synchronize()
        wall = time.perf_counter_ns()
        run()
        self._synchronize()
        wall = time.perf_counter_ns() - wall
        return Timing(wall / 1e6, wall / 1e6)


class DeviceClock:
    """Elapsed time between two events on the current CUDA stream."""

    name: ClockName = "device"

    def __call__(self, run: Callable[[], object]) -> Timing:
        """Time one run."""
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        wall = time.perf_counter_ns()
        begin.record()
        run()
        end.record()
        end.synchronize()
        wall = time.perf_counter_ns() - wall
        return Timing(begin.elapsed_time(end), wall / 1e6)


def clock_for(target: Target, *, runs_on_caller: bool = True) -> Clock:
    """Return the clock that is least disturbed by other processes on this target.

    Args:
        target: Device and threads.
        runs_on_caller: See :class:`~upnas.measure.runtimes.Session`.
    """
    if target.device == "mps":
        return WallClock(torch.mps.synchronize)
    if target.device == "cuda":
        # A runtime with a stream of its own comes back when it has finished.
        return DeviceClock() if runs_on_caller else WallClock()
    if runs_on_caller and (target.threads == 1 or target.threads < available_cpus()):
        return CpuClock("thread_cpu")
    if target.threads == 1:
        return CpuClock("process_cpu")
    return WallClock()
