"""Whole runs on tiny shapes: what fails, what is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from upnas.bench.naive import NaiveCarafe
from upnas.bench.records import Benchmark, BenchSettings
from upnas.bench.run import run_benchmark
from upnas.bench.shapes import Job, plan_jobs
from upnas.errors import TargetError
from upnas.measure.timing.clocks import Timing
from upnas.records import ClockName
from upnas.upsamplers import Nearest, Upsampler

SETTINGS = BenchSettings(budget_s=1.0, copy_bytes=64)


class OneSecond:
    """Runs, and says that it took a second."""

    name: ClockName = "wall"

    def __call__(self, run: Callable[[], object]) -> Timing:
        run()
        return Timing(1e3, 1e3)


def measure(jobs: tuple[Job, ...], settings: BenchSettings = SETTINGS) -> Benchmark:
    return run_benchmark(jobs, settings, command="test", progress=lambda _: None, clock=OneSecond())


def test_every_entry_is_measured_or_refused_with_a_reason() -> None:
    jobs = plan_jobs(is_quick=True)[:2]
    result = measure(jobs)
    assert [group.mode for group in result.groups] == ["forward", "training"]
    for group in result.groups:
        found = [m.entry for m in group.measurements] + [r.entry for r in group.refusals]
        assert set(found) == set(jobs[0].entries)
        assert {refusal.entry.upsampler for refusal in group.refusals} == {"trilinear"}  # 3-D only
        assert all(m.no_naive is None for m in group.measurements)
        assert all(len(m.lean.samples_ms) == 3 for m in group.measurements)
    assert result.is_complete


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_other_dtypes_and_layouts(dtype: str, layout: str) -> None:
    settings = SETTINGS.model_validate(SETTINGS.model_dump() | {"dtype": dtype, "layout": layout})
    result = measure(plan_jobs(["carafe", "fade", "transposed"], ["1x8x3x4"]), settings)
    for group in result.groups:
        assert len(group.measurements) == 3, group.refusals


class Fails(Upsampler):
    """Does nothing."""

    keeps_channels = True

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        raise NotImplementedError('"fails" not implemented\nC++ stack: ...')


def test_what_fails_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = plan_jobs(["carafe", "nearest"], ["1x8x3x4"])
    monkeypatch.setattr(Nearest, "upsample", Fails.upsample)
    for group in measure(jobs).groups:
        assert [str(found.entry) for found in group.measurements] == ["carafe"]
        (refusal,) = group.refusals
        assert refusal.reason == 'NotImplementedError: "fails" not implemented'


def test_a_naive_formulation_that_fails_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NaiveCarafe, "upsample", Fails.upsample)
    for group in measure(plan_jobs(["carafe"], ["1x8x3x4"])).groups:
        (found,) = group.measurements
        assert (found.naive, found.time_ratio) == (None, None)
        assert found.no_naive == 'NotImplementedError: "fails" not implemented'


def test_an_interrupt_keeps_the_finished_groups() -> None:
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if line.startswith("[2/"):
            raise KeyboardInterrupt

    result = run_benchmark(
        plan_jobs(["nearest"], is_quick=True),
        SETTINGS,
        command="test",
        progress=progress,
        clock=OneSecond(),
    )
    assert len(result.groups) == 2
    assert not result.is_complete
    assert lines[-1] == "stopped; what is finished is kept"


def test_threads_and_random_state_are_given_back() -> None:
    before = torch.get_num_threads(), torch.random.get_rng_state()
    measure(plan_jobs(["transposed"], ["1x8x3x4"]))
    assert torch.get_num_threads() == before[0]
    assert torch.random.get_rng_state().equal(before[1])


def test_more_threads_than_processors() -> None:
    with pytest.raises(TargetError, match="threads: 4096"):
        measure((), SETTINGS.model_copy(update={"threads": 4096}))
