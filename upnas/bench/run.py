"""Runs the jobs of a benchmark, group by group."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import torch

import upnas
from upnas.bench.cases import Case, Inputs, build_entry, build_naive, collapsed_to
from upnas.bench.records import (
    Benchmark,
    BenchSettings,
    Group,
    Measurement,
    Refusal,
    Timed,
)
from upnas.bench.rounds import ColdDeviceClock, sample_rounds
from upnas.bench.shapes import Job
from upnas.errors import first_line
from upnas.measure.environment import describe_environment
from upnas.measure.gate import DeviceGate
from upnas.measure.targets import check_target
from upnas.measure.timing.clocks import Clock, clock_for
from upnas.records import StageChoice, Target
from upnas.upsamplers import Upsampler

#: Share of the machine's memory that one formulation may take beside its input.
_MEMORY_SHARE: Final = 0.6
#: A call may take so long, or so many budgets.
_CALL_LIMIT_S: Final = 10.0
_CALL_BUDGETS: Final = 25
#: On a CPU, shorter calls are repeated to a sample of about this length. On CUDA every call is a
#: sample, because the cache is emptied before each.
_SAMPLE_MS: Final = 2.0

Progress = Callable[[str], None]


class _Entry(NamedTuple):
    entry: StageChoice
    lean: Case
    naive: Case | None
    no_naive: str | None


def run_benchmark(
    jobs: Sequence[Job],
    settings: BenchSettings,
    *,
    command: str,
    progress: Progress,
    clock: Clock | None = None,
) -> Benchmark:
    """Measure every job.

    What cannot run is recorded with its reason. Ctrl-C ends it after the last finished group.

    Args:
        jobs: See :func:`~upnas.bench.shapes.plan_jobs`.
        settings: The conditions.
        command: What a reader would type to repeat it.
        progress: Gets one line per group, and an estimate of what remains.
        clock: Replaces the clock that fits the settings.

    Raises:
        TargetError: If this machine lacks the device or the processors.
    """
    target = Target(name="bench", device=settings.device, threads=settings.threads)
    check_target(target)
    environment = describe_environment(Path(upnas.__file__).parent)
    if clock is None:
        clock = ColdDeviceClock() if settings.device == "cuda" else clock_for(target)
    rng = random.Random(settings.seed)
    memory_limit = _MEMORY_SHARE * environment.memory_gib * 2**30
    remaining = _Remaining([_expected_s(job, settings) for job in jobs])
    progress(f"{len(jobs)} groups; {remaining}")
    groups: list[Group] = []
    try:
        for number, job in enumerate(jobs, start=1):
            with _conditions(settings):
                groups.append(_measure(job, settings, clock, rng, memory_limit))
            remaining.finish_one()
            progress(f"[{number}/{len(jobs)}] {job.shape}, {job.mode}; {remaining}")
    except KeyboardInterrupt:
        progress("stopped; what is finished is kept")
    return Benchmark(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        settings=settings,
        clock=clock.name,
        environment=environment,
        groups=tuple(groups),
        is_complete=len(groups) == len(jobs),
    )


def _measure(
    job: Job,
    settings: BenchSettings,
    clock: Clock,
    rng: random.Random,
    memory_limit: float,
) -> Group:
    inputs = Inputs(job.shape, settings)
    entries: list[_Entry] = []
    refusals: list[Refusal] = []
    for entry in job.entries:
        try:
            entries.append(_prepare(entry, job, inputs, settings, memory_limit))
        except Exception as error:  # whatever a strange shape, dtype or layout makes torch raise
            refusals.append(Refusal(entry=entry, reason=first_line(error)))
    source = torch.ones(settings.copy_bytes // 8, device=settings.device)  # float32, read + written
    destination = torch.empty_like(source)
    cases = [case for entry in entries for case in (entry.lean, entry.naive) if case is not None]
    with DeviceGate(settings.device).exclusive():
        samples, copy_ms = sample_rounds(
            [(case.step.run, case.first_s) for case in cases],
            lambda: destination.copy_(source),
            clock,
            budget_s=settings.budget_s,
            sample_ms=0.0 if settings.device == "cuda" else _SAMPLE_MS,
            rng=rng,
        )
    timed = {
        case: Timed(samples_ms=tuple(times), extra_bytes=case.extra_bytes)
        for case, times in zip(cases, samples, strict=True)
    }
    measurements = (
        Measurement(
            entry=entry,
            collapsed_to=collapsed_to(entry, lean.step.upsampler),
            floor_bytes=lean.floor_bytes,
            lean=timed[lean],
            naive=None if naive is None else timed[naive],
            no_naive=no_naive,
        )
        for entry, lean, naive, no_naive in entries
    )
    return Group(
        shape=job.shape,
        mode=job.mode,
        copy_bytes=2 * source.nbytes,
        copy_ms=tuple(copy_ms),
        measurements=tuple(measurements),
        refusals=tuple(refusals),
    )


def _prepare(
    entry: StageChoice,
    job: Job,
    inputs: Inputs,
    settings: BenchSettings,
    memory_limit: float,
) -> _Entry:

    def case(upsampler: Upsampler) -> Case:
        limit_s = max(_CALL_LIMIT_S, _CALL_BUDGETS * settings.budget_s)
        return Case(upsampler, inputs, job.mode, memory_limit=memory_limit, call_limit_s=limit_s)

    upsampler = build_entry(entry, job.shape, settings)
    lean = case(upsampler)
    if not job.with_naive:
        return _Entry(entry, lean, None, None)
    try:
        naive = build_naive(entry, upsampler, job.shape, settings)
        slow = None if naive is None else case(naive)
    except Exception as error:  # as in _measure
        return _Entry(entry, lean, None, first_line(error))
    return _Entry(entry, lean, slow, None)


@contextmanager
def _conditions(settings: BenchSettings) -> Iterator[None]:
    """The thread count; full float32 precision and no algorithm search on CUDA."""
    devices = [torch.cuda.current_device()] if settings.device == "cuda" else []
    num_threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with (
            torch.random.fork_rng(devices),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=False, allow_tf32=False
            ),
        ):
            yield
    finally:
        torch.set_num_threads(num_threads)


def _expected_s(job: Job, settings: BenchSettings) -> float:
    """A guess for one thread of a server of 2024; it is corrected as groups finish."""
    call_s = (1.5e-8 if job.mode == "forward" else 4.5e-8) * job.shape.num_outputs
    if job.with_naive:
        call_s *= 3
    preparation_s = 0.1
    return len(job.entries) * (preparation_s + 0.6 * settings.budget_s + 4 * call_s)


class _Remaining:
    """The time that is left, from the guesses and how right they were so far."""

    def __init__(self, expected_s: Sequence[float]):
        self._expected_s = expected_s
        self._num_finished = 0
        self._start_s = time.monotonic()

    def finish_one(self) -> None:
        self._num_finished += 1

    def __str__(self) -> str:
        finished = sum(self._expected_s[: self._num_finished])
        left = sum(self._expected_s[self._num_finished :])
        if finished > 0:
            left *= (time.monotonic() - self._start_s) / finished
        return f"about {left / 60:.1f} min left"
