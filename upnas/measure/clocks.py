"""The clocks that a forward pass can be timed with.

- ``thread_cpu``: processor time of the calling thread. With one torch thread all the work runs on
  it, so other processes that take the processor away do not count; slower caches and lower
  frequencies under load still do. With several threads it includes the spinning at barriers.
- ``wall``: elapsed time. The only honest clock when torch uses every processor, and only on an
  idle machine.
- ``device``: elapsed time between two events on the CUDA stream. Gaps in which the device waits
  for the host to launch kernels are inside it, as they are in real use.

Excluded from all: copying the input to the device and the output back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch

from upnas.measure.environment import available_cpus
from upnas.records import Target

ClockName = Literal["thread_cpu", "wall", "device"]


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


class ThreadCpuClock:
    """Processor time of the calling thread."""

    name: ClockName = "thread_cpu"

    def __call__(self, run: Callable[[], object]) -> Timing:
        """Time one run."""
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        run()
        cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        return Timing(cpu / 1e6, wall / 1e6)


class WallClock:
    """Elapsed time of a synchronous run."""

    name: ClockName = "wall"

    def __call__(self, run: Callable[[], object]) -> Timing:
        """Time one run."""
        wall = time.perf_counter_ns()
        run()
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


def clock_for(target: Target) -> Clock:
    """Return the clock that is least disturbed by other processes on this target."""
    if target.device == "cuda":
        return DeviceClock()
    if target.threads == 1 or target.threads < available_cpus():
        return ThreadCpuClock()
    return WallClock()
