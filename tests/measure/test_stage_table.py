"""Times of single stages with a scripted clock, which gives exact numbers; one run with a real one.

Whole networks take 10 ms, and every upsampler alone what ``MS`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from models.helpers import SEGMENTATION, choices, sr, sr_signature, unet
from torch import Tensor, nn

from upnas.errors import SpaceError, TargetError
from upnas.measure.gate import DeviceGate, StudyGates
from upnas.measure.runtimes import Session
from upnas.measure.runtimes.eager import Eager
from upnas.measure.stages.places import find_places
from upnas.measure.stages.table import OfOneInput, TableSettings, measure_stage_table
from upnas.measure.timing.clocks import Timing
from upnas.models import Decoder, build_model, describe_stages
from upnas.prediction import LatencyModel
from upnas.records import Candidate, ClockName, StageCost, StageTable, Target
from upnas.upsamplers import Bilinear, Carafe, Fade

TARGET = Target(name="cpu", input=(3, 16, 16))
REFERENCE = unet("bilinear", "bilinear")
MS = {"Nearest": 0.5, "Bilinear": 1.0, "Transposed": 2.0, "Carafe": 4.0}


class Picky(Eager):
    """Refuses one upsampler alone."""

    def __init__(self, refused: type[nn.Module]):
        self._refused = refused

    @contextmanager
    def session(self, model: nn.Module, target: Target) -> Iterator[Session]:
        if isinstance(model, OfOneInput) and isinstance(model.upsampler, self._refused):
            raise NotImplementedError("no kernel for this operator\nand a long explanation")
        with super().session(model, target) as session:
            yield session


class ScriptedClock:
    """Charges networks and upsamplers alone for their forwards, and notes who ran.

    Attributes:
        elapsed_s: Wall seconds, which are twice the time by the clock.
        alone: The upsamplers that ran alone.
        is_cold: Whether the next network to run takes ten times as long.
    """

    name: ClockName = "thread_cpu"

    def __init__(self, slow_down: Callable[[int], float] = lambda _: 1.0) -> None:
        self.elapsed_s = 0.0
        self.alone: list[nn.Module] = []
        self.is_cold = False
        self._slow_down = slow_down
        self._num_runs = 0
        self._ms = 0.0

    def __call__(self, run: Callable[[], object]) -> Timing:
        self._ms = 0.0
        run()
        ms = self._ms * self._slow_down(self._num_runs)
        self._num_runs += 1
        self.elapsed_s += 2 * ms / 1e3
        return Timing(ms, 2 * ms)

    def note(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, Decoder):
            self._ms += 100.0 if self.is_cold else 10.0
            self.is_cold = False
        if isinstance(module, OfOneInput):
            self.alone.append(module.upsampler)
            self._ms += MS[type(module.upsampler).__name__]


@contextmanager
def scripted(**arguments: Any) -> Iterator[ScriptedClock]:
    clock = ScriptedClock(**arguments)
    hook = nn.modules.module.register_module_forward_hook(clock.note)
    try:
        yield clock
    finally:
        hook.remove()


@pytest.fixture
def gates(tmp_path: Path) -> StudyGates:
    return StudyGates(["cpu"], DeviceGate("cpu", folder=tmp_path))


def table_of(
    gates: StudyGates,
    *names: str,
    reference: Candidate = REFERENCE,
    target: Target = TARGET,
    **arguments: Any,
) -> StageTable:
    options = [choices(names)] * len(reference.stages)
    with scripted() as clock:
        arguments = {"clock": clock, **arguments}
        return measure_stage_table(SEGMENTATION, options, reference, target, gates, **arguments)


def cost_of(table: StageTable, stage: int, name: str) -> StageCost:
    (found,) = (cost for cost in table.stages[stage] if cost.choice.name == name)
    return found


def test_ratios_are_shares_of_the_reference_network(gates: StudyGates) -> None:
    table = table_of(gates, "nearest", "transposed", "carafe")
    for stage in range(2):
        assert cost_of(table, stage, "nearest").ratio == pytest.approx(0.05)
        assert cost_of(table, stage, "transposed").ratio == pytest.approx(0.2)
        assert cost_of(table, stage, "carafe").ratio == pytest.approx(0.4)
        assert len(cost_of(table, stage, "carafe").ratios) == 15
    assert table.target == "cpu"


def test_the_upsamplers_of_the_reference_are_added(gates: StudyGates) -> None:
    table = table_of(gates, "nearest")
    assert [[cost.choice.name for cost in stage] for stage in table.stages] == [
        ["nearest", "bilinear"],
        ["nearest", "bilinear"],
    ]
    assert table.reference == REFERENCE
    assert LatencyModel.fit(table, []).predict([REFERENCE], 10.0)[0] is not None


def test_a_slow_spell_changes_no_ratio(gates: StudyGates) -> None:
    """Rounds of three: the reference and two upsamplers are slowed down alike."""
    with scripted(slow_down=lambda number: 1 + number // 3 % 4) as clock:
        table = measure_stage_table(
            SEGMENTATION, [choices(["nearest"])] * 2, REFERENCE, TARGET, gates, clock=clock,
            settings=TableSettings(group=2),
        )  # fmt: skip
    assert cost_of(table, 1, "nearest").ratios == (0.05,) * 15
    assert cost_of(table, 1, "bilinear").ratios == (0.1,) * 15


def test_equal_upsamplers_at_equal_shapes_are_timed_once(gates: StudyGates) -> None:
    """Of an image of one pixel, all maps are of one pixel; 16 channels enter two of the stages."""
    encoder = REFERENCE.model.encoder
    assert encoder is not None
    reference = unet(*["bilinear"] * 3, encoder=encoder.model_copy(update={"depth": 3}))
    channels = [info.channels for info in describe_stages(reference.model, SEGMENTATION)]
    assert len(set(channels)) < 3
    with scripted() as clock:
        table = measure_stage_table(
            SEGMENTATION, [choices(["nearest"])] * 3, reference,
            TARGET.model_copy(update={"input": (3, 1, 1)}), gates, clock=clock,
        )  # fmt: skip
    assert len({id(upsampler) for upsampler in clock.alone}) == 2 * len(set(channels))
    assert all(cost.ratio is not None for stage in table.stages for cost in stage)


def test_the_device_is_held_for_short_slices(tmp_path: Path) -> None:
    held_s: list[float] = []

    class WatchedGate(DeviceGate):
        @contextmanager
        def exclusive(self) -> Iterator[None]:
            start_s = clock.elapsed_s
            with super().exclusive():
                yield
            held_s.append(clock.elapsed_s - start_s)

    with scripted() as clock:
        gates = StudyGates(["cpu"], WatchedGate("cpu", folder=tmp_path))
        settings = TableSettings(num_rounds=50, budget_s=100.0, slice_s=0.1, max_warmup=3)
        table = measure_stage_table(
            SEGMENTATION, [choices(["nearest"])] * 2, REFERENCE, TARGET, gates,
            settings=settings, clock=clock,
        )  # fmt: skip
    round_s = 2 * (10 + 4 * (0.5 + 1.0) * 2) / 1e3  # fast ones run up to four times in a sample
    assert len(held_s) > 10
    assert max(held_s) <= 0.1 + 2 * round_s + 1e-9
    assert len(cost_of(table, 0, "nearest").ratios) == 50


def test_what_others_displaced_while_they_had_the_device_is_not_timed(tmp_path: Path) -> None:
    class CoolingGate(DeviceGate):
        @contextmanager
        def exclusive(self) -> Iterator[None]:
            with super().exclusive():
                clock.is_cold = True
                yield

    with scripted() as clock:
        table = measure_stage_table(
            SEGMENTATION, [choices(["nearest"])] * 2, REFERENCE, TARGET,
            StudyGates(["cpu"], CoolingGate("cpu", folder=tmp_path)),
            settings=TableSettings(budget_s=100.0, slice_s=1e-6), clock=clock,
        )  # fmt: skip
    assert cost_of(table, 1, "bilinear").ratios == (0.1,) * 15


def test_a_slow_network_gets_fewer_rounds_and_never_too_few(gates: StudyGates) -> None:
    settings = TableSettings(budget_s=1e-6, slice_s=1e-6)
    assert len(cost_of(table_of(gates, "nearest", settings=settings), 0, "nearest").ratios) == 6


def test_what_changes_other_stages_or_is_learned_has_no_costs_alone(gates: StudyGates) -> None:
    table = table_of(gates, "deferred", "selector")
    for name, reason in (("deferred", "changes the resolution"), ("selector", "learned")):
        cost = cost_of(table, 0, name)
        assert cost.ratio is None
        assert reason in (cost.reason or "")
        assert cost.activation_bytes is None
        mixed = REFERENCE.model_copy(update={"stages": choices([name, "bilinear"])})
        assert LatencyModel.fit(table, []).predict([mixed], 10.0) == [None]


def test_an_upsampler_that_the_target_refuses_says_why(
    gates: StudyGates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upnas.measure.stages.times.RUNTIMES", {"eager": Picky(Carafe)})
    table = table_of(gates, "carafe", "nearest")
    cost = cost_of(table, 0, "carafe")
    assert cost.ratio is None
    assert cost.reason == "NotImplementedError: no kernel for this operator"
    assert cost.activation_bytes is not None
    assert cost_of(table, 0, "nearest").ratio == pytest.approx(0.05)


def test_a_reference_that_the_target_refuses_alone_ends_the_matter(
    gates: StudyGates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upnas.measure.stages.times.RUNTIMES", {"eager": Picky(Bilinear)})
    with pytest.raises(TargetError, match=r"bilinear.* alone: .*no kernel for .* Measure every"):
        table_of(gates, "nearest")


@pytest.mark.parametrize(
    ("side", "is_convolution"), [(16, True), (512, False)], ids=["small", "large"]
)
def test_the_deciding_input_says_which_arm_ships(
    gates: StudyGates, side: int, is_convolution: bool
) -> None:
    table = table_of(gates, "adaptive", "transposed", deciding_input=(3, side, side))
    cost = cost_of(table, 1, "adaptive")
    parameters = cost_of(table, 1, "transposed").num_parameters
    assert cost.num_parameters == (parameters if is_convolution else 0)
    assert cost.ratio == pytest.approx(0.2 if is_convolution else 0.1)


def test_heavier_upsamplers_have_larger_ratios_by_a_real_clock(gates: StudyGates) -> None:
    target = TARGET.model_copy(update={"input": (3, 64, 64)})
    options = [choices(["nearest", "carafe", "fade"])] * 2
    table = measure_stage_table(SEGMENTATION, options, REFERENCE, target, gates)
    nearest = cost_of(table, 1, "nearest").ratio
    assert nearest is not None
    for heavy in ("carafe", "fade"):
        assert (cost_of(table, 1, heavy).ratio or 0.0) > 2 * nearest > 0


def test_torchs_random_numbers_are_left_alone(gates: StudyGates) -> None:
    before = torch.get_rng_state()
    table_of(gates, "transposed")
    assert torch.equal(torch.get_rng_state(), before)


def test_places_hold_what_the_decoder_gives_its_upsamplers() -> None:
    network = build_model(REFERENCE, SEGMENTATION).eval()
    stages = describe_stages(REFERENCE.model, SEGMENTATION)
    deep, shallow = find_places(network, stages, (3, 21, 30))
    assert (deep.name, deep.shape, deep.size) == ("stages.0.upsampler", (stages[0].channels, 6, 8),
                                                  (11, 15))  # fmt: skip
    assert shallow.shape == (stages[1].channels, 11, 15)
    assert shallow.size == (21, 30)
    assert shallow.side == (11, 15)


def test_a_decoder_without_sizes_and_upsamplers_with_parts_have_places_too() -> None:
    candidate, task = sr("selector", "hybrid"), sr_signature(4)
    places = find_places(
        build_model(candidate, task).eval(), describe_stages(candidate.model, task), (3, 5, 7)
    )
    assert [(place.name, place.shape, place.size) for place in places] == [
        ("stages.0", (4, 5, 7), None),
        ("stages.1", (4, 10, 14), None),
    ]


def test_a_decoder_that_uses_an_upsampler_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = Bilinear(3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.up(self.up(x))
            return y

    with pytest.raises(SpaceError, match=r"describes 2 stages, and runs 2 upsamplers \(up, up\)"):
        find_places(Twice().eval(), describe_stages(REFERENCE.model, SEGMENTATION), (3, 4, 4))


def test_a_guided_upsampler_gets_a_guide_that_fits_and_is_cropped() -> None:
    upsampler = Fade(4, guide_channels=6).eval()
    module = OfOneInput(upsampler, (2, 4, 5, 3), (9, 6)).eval()
    assert module.guide is not None
    assert module.guide.shape == (2, 6, 9, 6)
    x = torch.zeros(2, 4, 5, 3)
    assert torch.equal(module(x), upsampler(x, size=(9, 6), guide=module.guide))
    whole = OfOneInput(upsampler, (2, 4, 5, 3)).guide
    assert whole is not None
    assert whole.shape == (2, 6, 10, 6)


def test_an_upsampler_without_guide_is_run_as_it_is() -> None:
    module = OfOneInput(Bilinear(4), (1, 4, 5, 3))
    x = torch.randn(1, 4, 5, 3)
    assert module.guide is None
    assert torch.equal(module(x), Bilinear(4)(x))
