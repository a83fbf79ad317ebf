"""What is timed alone does all its work each time, inside the gates, and adds up to networks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from models.helpers import SEGMENTATION, choices, unet
from torch import Tensor, nn

from upnas.measure.gate import DeviceGate, StudyGates
from upnas.measure.memory.tensors import num_parameters, peak_memory_bytes
from upnas.measure.runtimes.base import DTYPES
from upnas.measure.stages.places import OfOneInput
from upnas.measure.stages.table import TableSettings, measure_stage_table
from upnas.measure.timing.clocks import CpuClock, Timing
from upnas.models import build_model
from upnas.prediction import LatencyModel, predict_costs
from upnas.records import Candidate, ClockName, Target, TaskSignature
from upnas.space import load_space
from upnas.upsamplers import Fade, Upsampler, collapse, selectors

QUICK = TableSettings(num_rounds=2, min_rounds=2, max_warmup=2)


class WatchedGate(DeviceGate):
    """Knows how it is held."""

    held: str | None = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        with super().shared(), self._holding("shared"):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with super().exclusive(), self._holding("exclusive"):
            yield

    @contextmanager
    def _holding(self, how: str) -> Iterator[None]:
        self.held = how
        yield
        self.held = None


class WatchingClock:
    """A real clock that notes how the gate is held while it times."""

    name: ClockName = "thread_cpu"

    def __init__(self, gate: WatchedGate):
        self.seen: list[str | None] = []
        self._gate, self._clock = gate, CpuClock("thread_cpu")

    def __call__(self, run: Callable[[], object]) -> Timing:
        self.seen.append(self._gate.held)
        return self._clock(run)


def test_nothing_runs_outside_the_gate_and_nothing_is_timed_beside_others(tmp_path: Path) -> None:
    gate = WatchedGate("cpu", folder=tmp_path)
    clock = WatchingClock(gate)
    seen: list[str | None] = []

    def note(module: nn.Module, args: Any) -> None:
        if isinstance(module, Upsampler):  # in a network or alone, on real or on fake tensors
            seen.append(gate.held)

    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        measure_stage_table(
            SEGMENTATION,
            [choices(["carafe", "adaptive", "fade", "selector", "deferred"])] * 2,
            unet("bilinear", "bilinear"),
            Target(name="cpu", input=(3, 16, 16)),
            StudyGates(["cpu"], gate),
            settings=QUICK,
            clock=clock,
        )
    finally:
        hook.remove()
    assert set(seen) == {"shared", "exclusive"}
    assert set(clock.seen) == {"exclusive"}
    assert gate.held is None


def test_the_guide_of_an_upsampler_alone_depends_on_the_input() -> None:
    """A compiler would work out beforehand what depends on a constant guide alone."""
    given: list[Tensor] = []

    class Noting(Fade):
        def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
            assert guide is not None
            given.append(guide)
            return super().upsample(x, guide)

    module = OfOneInput(Noting(4, guide_channels=6), (1, 4, 5, 3)).eval()
    for value in (0.0, 1.0):
        module(torch.full((1, 4, 5, 3), value))
    torch.testing.assert_close(given[1], given[0] + 1)


def shipped(candidate: Candidate, task: TaskSignature, target: Target) -> nn.Module | None:
    """The network in the target's dtype; None where a training decides what it is."""
    model = build_model(candidate, task, load_pretrained=False)
    if selectors(model):
        return None
    return collapse(model, torch.zeros(1, *target.input)).eval().to(DTYPES[target.dtype])


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("unet", Target(name="even", input=(3, 64, 64))),
        ("unet", Target(name="odd", input=(3, 45, 70), batch=2)),
        ("sr", Target(name="even", input=(3, 24, 32))),
        ("sr", Target(name="odd", input=(3, 17, 9), dtype="bfloat16")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_memory_and_parameters_of_shipped_spaces_are_exact(
    tmp_path: Path, name: str, target: Target
) -> None:
    space = load_space(Path(__file__).parents[2] / "search_spaces" / f"{name}.yaml")
    reference = dict(space.baselines())["all-bilinear"]
    table = measure_stage_table(
        space.task,
        [stage.options for stage in space.stages],
        reference,
        target,
        StudyGates(["cpu"], DeviceGate("cpu", folder=tmp_path)),
        settings=TableSettings(num_rounds=1, min_rounds=1, max_warmup=1),
    )
    rng = random.Random(0)
    candidates = [space.random_candidate(rng) for _ in range(20)]
    predicted = predict_costs(LatencyModel.fit(table, []), candidates, reference_ms=1.0)
    num_compared = 0
    for candidate, costs in zip(candidates, predicted, strict=True):
        network = shipped(candidate, space.task, target)
        if network is None:
            assert costs is None
            continue
        assert costs is not None
        peak = peak_memory_bytes(network, target.input_shape, dtype=DTYPES[target.dtype])
        assert costs.peak_memory_mib == peak / 2**20, candidate
        assert costs.num_parameters == num_parameters(network), candidate
        num_compared += 1
    assert num_compared > 10
