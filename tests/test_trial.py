"""A trial from its request to its final record, with real networks on tiny data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import upnas.measure.gate
import upnas.trial.costing
import upnas.trial.run
from upnas.errors import BusyDeviceError, TargetError
from upnas.front import BELOW_TRIVIAL
from upnas.measure.conditions import LoadWatch
from upnas.measure.gate import DeviceGate
from upnas.measure.instrument import Instrument
from upnas.models import build_model, rebuild_model
from upnas.records import (
    Candidate,
    Conditions,
    Constraint,
    Costs,
    EncoderSpec,
    Latency,
    ModelSpec,
    PredictedLatency,
    StageChoice,
    Target,
    TaskSignature,
    TrialRecord,
    TrialState,
)
from upnas.space import TrainingConfig
from upnas.tasks import SegmentationConfig, SuperResolutionConfig, build_task, signature_of
from upnas.tasks.filaments import FilamentsConfig
from upnas.tasks.folder import FolderConfig
from upnas.tasks.segmentation import SegmentationTask
from upnas.training import load_checkpoint
from upnas.trial import (
    TrialRequest,
    TrialSpec,
    iterate_trial,
    prepare_study,
    run_trial,
    violated,
)

TASK = SegmentationConfig(
    data=FilamentsConfig(num_train=4, num_validation=2, num_test=2), crop=16, max_eval_crops=2
)
TARGET = Target(name="tiny", input=(3, 16, 16))
MODEL = ModelSpec(
    decoder="unet",
    encoder=EncoderSpec(name="mobilenetv3_small_050", depth=2),
    options={"channels": (8, 4), "num_convs": 1},
)


def candidate(*stages: str | StageChoice) -> Candidate:
    chosen = [StageChoice(upsampler=one) if isinstance(one, str) else one for one in stages]
    return Candidate(model=MODEL, stages=chosen)


BILINEAR = candidate("bilinear", "bilinear")
SELECTOR = candidate(
    StageChoice(upsampler="selector", parameters={"arms": ("carafe", "nearest")}), "bilinear"
)


def costs(target: str = "tiny", latency_ms: float = 2.0, **changes: Any) -> Costs:
    """Costs as a record has them, where measuring them again would be slow and not the point."""
    latency = Latency(
        samples_ms=(latency_ms,),
        reference_samples_ms=(1.0,),
        reference_ms=1.0,
        clock="wall",
        wall_ms=latency_ms,
    )
    fields: dict[str, Any] = {"latency": latency, "peak_memory_mib": 3.0, "num_parameters": 100}
    return Costs(target=target, **(fields | changes))


def request(of: Candidate = BILINEAR, **fields: Any) -> TrialRequest:
    defaults: dict[str, Any] = {"number": 7, "seed": 1, "known_costs": (costs(),)}
    return TrialRequest(candidate=of, **(defaults | fields))


@pytest.fixture
def gate(tmp_path: Path) -> DeviceGate:
    return DeviceGate("cpu", tmp_path)


@pytest.fixture
def spec(tmp_path: Path) -> TrialSpec:
    return TrialSpec(
        task=TASK,
        signature=signature_of(TASK),
        training=TrainingConfig(batch=2, steps_per_epoch=2, device="cpu"),
        rungs=(1, 3),
        targets=(TARGET,),
        constraints=(),
        reference=BILINEAR,
        main_metric="dice",
        checkpoints=tmp_path / "checkpoints",
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> TrialSpec:
    """A spec with two targets that were really prepared."""
    large = Target(name="large", input=(3, 64, 64), batch=2)
    spec = TrialSpec(
        task=TASK,
        signature=signature_of(TASK),
        training=TrainingConfig(batch=2, steps_per_epoch=2, device="cpu"),
        rungs=(1, 3),
        targets=(TARGET, large),
        constraints=(),
        reference=BILINEAR,
        main_metric="dice",
    )
    ready = prepare_study(spec, DeviceGate("cpu", tmp_path_factory.mktemp("gate")))
    return spec.model_copy(update=ready.model_dump() | {"references": ready.references})


def updated(spec: TrialSpec, **changes: Any) -> TrialSpec:
    return spec.model_copy(update=changes)


def checkpoint_of(spec: TrialSpec) -> Path:
    assert spec.checkpoints is not None
    (path,) = spec.checkpoints.iterdir()
    return path


class BrokenTask(SegmentationTask):
    """The task, but its loss does what it is told from a given call on."""

    def __init__(self, break_loss: Callable[[], Any], good_calls: int = 0):
        super().__init__(TASK)
        self._break_loss = break_loss
        self._good_calls = good_calls

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._good_calls -= 1
        loss = super().loss(outputs, targets)
        if self._good_calls < 0:
            loss = loss * self._break_loss()
        return loss


def raises(error: Exception) -> Callable[[], Any]:
    def do() -> None:
        raise error

    return do


def test_preparation_times_the_reference_and_scores_the_trivial(prepared: TrialSpec) -> None:
    assert [reference.target for reference in prepared.references] == ["tiny", "large"]
    assert all(reference.latency_ms > 0 for reference in prepared.references)
    trivial = build_task(TASK).trivial_quality("validation")
    assert dict(prepared.trivial_quality) == trivial


def test_preparation_refuses_a_target_that_cannot_be_served(
    spec: TrialSpec, gate: DeviceGate
) -> None:
    target = TARGET.model_copy(update={"threads": 100_000})
    with pytest.raises(TargetError, match="threads: 100000"):
        prepare_study(updated(spec, targets=(TARGET, target)), gate)


def test_costs_then_rungs_then_the_final_record(prepared: TrialSpec, gate: DeviceGate) -> None:
    asked = request(origin="baseline", baseline="all-bilinear", known_costs=())
    before = torch.get_num_threads()
    records = list(iterate_trial(asked, prepared, gate))
    assert torch.get_num_threads() == before
    states = [record.state for record in records]
    assert states == [TrialState.RUNNING, TrialState.RUNNING, TrialState.COMPLETE]
    assert [len(record.rungs) for record in records] == [0, 1, 2]
    first, last = records[0], records[-1]
    assert [known.target for known in first.costs] == ["tiny", "large"]
    # The candidate is the reference, so its latency is about the reference's own.
    for known, reference in zip(first.costs, prepared.references, strict=True):
        assert known.latency_ms == pytest.approx(reference.latency_ms, rel=0.5)
    model = build_model(BILINEAR, prepared.signature)
    assert first.costs[0].num_parameters == sum(p.numel() for p in model.parameters())
    assert (last.costs, last.rungs[0]) == (first.costs, records[1].rungs[0])
    assert [(one.epochs, one.num_steps) for one in last.rungs] == [(1, 2), (3, 6)]
    metrics = ["boundary_f1", "dice", "iou"]
    assert [name for name, _ in last.test_quality] == metrics
    assert sorted(last.quality) == metrics
    assert not any(record.test_quality for record in records[:-1])
    assert (last.number, last.seed, last.origin, last.baseline) == (
        7,
        1,
        "baseline",
        "all-bilinear",
    )
    assert last.learning_rate == prepared.training.learning_rate
    assert last.started_s <= last.finished_s
    for record in records:
        assert TrialRecord.model_validate_json(record.model_dump_json()) == record


def test_quality_is_a_function_of_the_seed(spec: TrialSpec, gate: DeviceGate) -> None:
    spec = updated(spec, checkpoints=None, rungs=(6,))
    one, again, other = (run_trial(request(seed=seed), spec, gate) for seed in (1, 1, 2))
    assert one.quality == again.quality
    assert one.test_quality == again.test_quality
    assert one.rungs[0].train_loss == again.rungs[0].train_loss
    assert one.rungs[0].train_loss != other.rungs[0].train_loss


@pytest.mark.parametrize(
    ("constraint", "detail"),
    [
        (Constraint(metric="latency_ms", max=1.5), "latency_ms 2 is above max 1.5 on tiny"),
        (
            Constraint(metric="num_parameters", min=200),
            "num_parameters 100 is below min 200 on tiny",
        ),
        (
            Constraint(metric="latency_ms", max=3, target="large"),
            "latency_ms 4 is above max 3 on large",
        ),
        (
            Constraint(metric="exportable", equals="onnx"),
            "not exportable as onnx: unsupported operator",
        ),
        (Constraint(metric="exportable", equals="torch_export"), None),
        (Constraint(metric="latency_ms", min=1, max=2), None),
        (Constraint(metric="hd95", max=1.0), None),  # known after training only
    ],
)
def test_constraints(constraint: Constraint, detail: str | None) -> None:
    exportable: Any = {"onnx": "unsupported operator", "torch_export": "ok"}
    known = (costs(exportable=exportable), costs("large", 4.0))
    assert violated(known, (constraint,)) == detail


def test_the_first_violation_is_named() -> None:
    limits = [Constraint(metric="latency_ms", max=9.0), Constraint(metric="peak_memory_mib", max=1)]
    assert violated((costs(),), tuple(limits)) == "peak_memory_mib 3 is above max 1 on tiny"


def test_a_refused_candidate_never_trains(spec: TrialSpec, gate: DeviceGate) -> None:
    nowhere = SegmentationConfig(data=FolderConfig(path="/does/not/exist"))
    limits = (Constraint(metric="latency_ms", max=1e-6),)
    spec = updated(spec, task=nowhere, constraints=limits)
    (record,) = iterate_trial(request(), spec, gate)
    assert (record.state, record.reason) == (TrialState.REFUSED, "constraint")
    assert record.detail == "latency_ms 2 is above max 1e-06 on tiny"
    assert record.costs == (costs(),)
    assert record.rungs == ()
    allowed = run_trial(request(), updated(spec, constraints=()), gate)  # now the data is read
    assert (allowed.state, allowed.reason) == (TrialState.FAILED, "error")
    assert "/does/not/exist" in (allowed.detail or "")


def test_a_quality_constraint_refuses_nothing(spec: TrialSpec, gate: DeviceGate) -> None:
    """The trial is trained and recorded; its record shows what it breaks."""
    impossible = (Constraint(metric="hd95", max=-1.0), Constraint(metric="dice", min=2.0))
    task = TASK.scoring(constraint.metric for constraint in impossible)
    record = run_trial(request(), updated(spec, task=task, constraints=impossible), gate)
    assert (record.state, record.reason) == (TrialState.COMPLETE, None)
    assert [len(dict(rung.quality)) for rung in record.rungs] == [4, 4]
    assert record.quality["hd95"] >= 0
    assert "hd95" in dict(record.test_quality)
    plain = run_trial(request(), updated(spec, checkpoints=None), gate)
    assert dict(plain.quality).items() <= record.quality.items()


def test_the_weights_metric_is_scored_where_it_is_asked_for(
    spec: TrialSpec, gate: DeviceGate
) -> None:
    untied = StageChoice(upsampler="transposed", parameters={"init": "default"})
    spec = updated(spec, task=TASK.scoring(["dc_gain_spread"]))
    smooth = run_trial(request(BILINEAR), spec, gate)
    rough = run_trial(request(candidate(untied, "bilinear")), spec, gate)
    assert smooth.quality["dc_gain_spread"] == pytest.approx(0, abs=1e-9)
    assert rough.quality["dc_gain_spread"] > 0.1
    assert rough.state is TrialState.COMPLETE
    assert "dc_gain_spread" not in dict(rough.test_quality)  # it reads no split


def test_an_exception_fails_the_trial_and_is_told(
    spec: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = BrokenTask(raises(KeyError("no such thing")), good_calls=2)
    monkeypatch.setattr(upnas.trial.run, "build_task", lambda config: task)
    before = torch.get_num_threads()
    records = list(iterate_trial(request(), updated(spec, num_threads=before + 1), gate))
    assert [len(record.rungs) for record in records] == [0, 1, 1]
    last = records[-1]
    assert (last.state, last.reason) == (TrialState.FAILED, "error")
    assert (last.detail or "").startswith("KeyError at test_trial.py:")
    assert "no such thing" in (last.detail or "")
    assert torch.get_num_threads() == before
    assert run_trial(request(), updated(spec, checkpoints=None), gate).state is TrialState.FAILED


def _allocates_too_much() -> Tensor:
    return torch.empty(2**58)


@pytest.mark.parametrize(
    ("break_loss", "reason"),
    [
        (raises(torch.OutOfMemoryError("CUDA out of memory")), "out_of_memory"),
        (raises(MemoryError()), "out_of_memory"),
        (_allocates_too_much, "out_of_memory"),
        (lambda: math.nan, "nan_loss"),
        (raises(RuntimeError("something else")), "error"),
    ],
    ids=["device", "host", "torch-host", "nan", "other"],
)
def test_reasons_of_failures(
    break_loss: Callable[[], Any],
    reason: str,
    spec: TrialSpec,
    gate: DeviceGate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = BrokenTask(break_loss)
    monkeypatch.setattr(upnas.trial.run, "build_task", lambda config: task)
    record = run_trial(request(), spec, gate)
    assert (record.state, record.reason) == (TrialState.FAILED, reason)
    assert TrialRecord.model_validate_json(record.model_dump_json()) == record


def test_a_learning_rate_that_diverges_is_a_nan_loss(spec: TrialSpec, gate: DeviceGate) -> None:
    training = spec.training.model_copy(update={"learning_rate": 1e30})
    record = run_trial(request(), updated(spec, training=training), gate)
    assert (record.state, record.reason) == (TrialState.FAILED, "nan_loss")


@pytest.mark.parametrize(
    ("trivial", "maximize", "flags"),
    [
        (-1.0, True, ()),
        (2.0, True, (BELOW_TRIVIAL,)),
        (2.0, False, ()),
        (-1.0, False, (BELOW_TRIVIAL,)),
        (None, True, ()),
    ],
)
def test_a_network_that_has_not_learned_is_flagged(
    trivial: float | None,
    maximize: bool,
    flags: tuple[str, ...],
    spec: TrialSpec,
    gate: DeviceGate,
) -> None:
    quality = () if trivial is None else (("dice", trivial),)
    spec = updated(spec, trivial_quality=quality, maximize_main=maximize, rungs=(1,))
    assert run_trial(request(), spec, gate).flags == flags


def test_equal_to_the_trivial_baseline_is_not_better(spec: TrialSpec, gate: DeviceGate) -> None:
    spec = updated(spec, checkpoints=None, rungs=(1,))
    dice = run_trial(request(), spec, gate).quality["dice"]
    for maximize in (True, False):
        same = updated(spec, trivial_quality=(("dice", dice),), maximize_main=maximize)
        assert run_trial(request(), same, gate).flags == (BELOW_TRIVIAL,)


def take(records: Iterator[TrialRecord], count: int) -> list[TrialRecord]:
    return [next(records) for _ in range(count)]


def test_an_abandoned_trial_goes_on_from_its_last_rung(
    spec: TrialSpec, gate: DeviceGate, tmp_path: Path
) -> None:
    undisturbed = run_trial(request(), updated(spec, checkpoints=tmp_path / "other"), gate)
    abandoned = iterate_trial(request(), spec, gate)
    before = take(abandoned, 2)[-1]
    del abandoned
    # A restarted worker knows neither costs nor rungs; the checkpoint does.
    records = list(iterate_trial(request(known_costs=()), spec, gate))
    assert [len(record.rungs) for record in records] == [1, 2]
    assert records[0].costs == before.costs
    last = records[-1]
    assert last.rungs[0] == before.rungs[0]  # its train_s, too: it was not trained again
    assert last.rungs[1].num_steps == 6
    assert last.rungs[1].train_s > last.rungs[0].train_s
    assert [dict(one.quality) for one in last.rungs] == [
        dict(one.quality) for one in undisturbed.rungs
    ]
    assert last.rungs[1].train_loss == undisturbed.rungs[1].train_loss
    assert last.test_quality == undisturbed.test_quality


def test_a_finished_trial_is_not_trained_again(spec: TrialSpec, gate: DeviceGate) -> None:
    first = run_trial(request(), spec, gate)
    again = run_trial(request(), spec, gate)
    assert again.rungs == first.rungs
    assert again.test_quality == first.test_quality


def test_a_damaged_checkpoint_is_trained_again(spec: TrialSpec, gate: DeviceGate) -> None:
    first = run_trial(request(), spec, gate)
    path = checkpoint_of(spec)
    path.write_bytes(path.read_bytes()[:1000])
    records = list(iterate_trial(request(), spec, gate))
    assert [len(record.rungs) for record in records] == [0, 1, 2]
    assert records[-1].quality == first.quality
    assert records[-1].test_quality == first.test_quality
    assert load_checkpoint(path) is not None


def test_another_seed_has_its_own_checkpoint(spec: TrialSpec, gate: DeviceGate) -> None:
    for seed in (1, 2):
        records = iterate_trial(request(seed=seed), spec, gate)
        assert take(records, 2)[0].rungs == ()
    assert spec.checkpoints is not None
    assert len(list(spec.checkpoints.iterdir())) == 2


def test_the_checkpoint_rebuilds_the_network_of_the_record(
    spec: TrialSpec, gate: DeviceGate
) -> None:
    record = run_trial(request(), spec, gate)
    saved = load_checkpoint(checkpoint_of(spec))
    assert saved is not None
    read = TrialRecord.model_validate_json(record.model_dump_json())
    network = rebuild_model(read.candidate, read.task, saved["trainer"]["model"])
    with torch.inference_mode():
        quality = build_task(TASK).evaluate(network, "test")
    assert quality == pytest.approx(dict(record.test_quality))


def test_a_selector_is_measured_again_as_the_arm_that_it_took(
    prepared: TrialSpec, gate: DeviceGate
) -> None:
    training = prepared.training.model_copy(
        update={"learning_rate": 0.1, "steps_per_epoch": 10, "selector_cost_weight": 1000.0}
    )
    spec = updated(prepared, training=training, targets=(TARGET,), rungs=(1,))
    first, last = iterate_trial(request(SELECTOR, known_costs=()), spec, gate)
    with_arm = {
        arm: sum(
            parameter.numel()
            for parameter in build_model(candidate(arm, "bilinear"), spec.signature).parameters()
        )
        for arm in ("carafe", "nearest")
    }
    assert first.costs[0].num_parameters == with_arm["carafe"]  # untrained: the first arm
    assert last.state is TrialState.COMPLETE
    assert last.costs[0].num_parameters == with_arm["nearest"]  # the cheap one


def test_the_arms_of_a_selector_may_be_guided(prepared: TrialSpec, gate: DeviceGate) -> None:
    choice = StageChoice(upsampler="selector", parameters={"arms": ("fade_lite", "bilinear")})
    spec = updated(prepared, targets=(TARGET,), rungs=(1,))
    record = run_trial(request(candidate(choice, choice), known_costs=()), spec, gate)
    assert record.state is TrialState.COMPLETE, record.detail
    assert (record.costs[0].latency_ms or 0) > 0


def test_a_selector_that_violates_after_training_is_refused(
    prepared: TrialSpec, gate: DeviceGate
) -> None:
    limit = Constraint(metric="num_parameters", max=1_000)
    spec = updated(prepared, constraints=(limit,), targets=(TARGET,), rungs=(1,))
    record = run_trial(request(SELECTOR), spec, gate)
    assert (record.state, record.reason) == (TrialState.REFUSED, "constraint")
    assert (record.detail or "").startswith("after training: num_parameters")
    assert len(record.rungs) == 1


def test_a_resumed_selector_keeps_the_costs_of_its_arms(
    prepared: TrialSpec, gate: DeviceGate, tmp_path: Path
) -> None:
    spec = updated(prepared, checkpoints=tmp_path / "checkpoints", targets=(TARGET,))
    take(iterate_trial(request(SELECTOR), spec, gate), 2)
    before = load_checkpoint(checkpoint_of(spec))
    run_trial(request(SELECTOR), spec, gate)
    after = load_checkpoint(checkpoint_of(spec))
    assert before is not None
    assert after is not None
    assert before["arm_costs"] == after["arm_costs"]
    (arm_costs,) = before["arm_costs"].values()
    assert arm_costs[0] > arm_costs[1] > 0
    assert after["trainer"]["step"] == 6


ADAPTIVE = candidate(StageChoice(upsampler="adaptive", parameters={"threshold": 16}), "bilinear")


@pytest.mark.parametrize(("side", "trains"), [(32, True), (64, False)])
def test_an_adaptive_upsampler_trains_the_arm_of_the_target(
    side: int, trains: bool, spec: TrialSpec, gate: DeviceGate
) -> None:
    # Crops of 16 give the stage 4 x 4, targets of 64 give it 16 x 16, where the threshold is.
    spec = updated(spec, targets=(Target(name="tiny", input=(3, side, side)),), rungs=(1,))
    assert run_trial(request(ADAPTIVE), spec, gate).state is TrialState.COMPLETE
    saved = load_checkpoint(checkpoint_of(spec))
    assert saved is not None
    name = "stages.0.upsampler.small.conv.weight"
    start = build_model(ADAPTIVE, spec.signature, seed=1).state_dict()[name]
    assert torch.equal(saved["trainer"]["model"][name], start) is not trains


def test_all_targets_measure_the_network_that_is_trained(
    prepared: TrialSpec, gate: DeviceGate
) -> None:
    tiny, large = take(iterate_trial(request(ADAPTIVE, known_costs=()), prepared, gate), 1)[0].costs
    assert tiny.num_parameters == large.num_parameters > 0
    transposed = build_model(candidate("transposed", "bilinear"), prepared.signature)
    assert tiny.num_parameters == sum(p.numel() for p in transposed.parameters())


class SpyGate(DeviceGate):
    """A gate that knows whether it is held."""

    is_held = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with super().shared():
            self.is_held = True
            try:
                yield
            finally:
                self.is_held = False


def test_training_holds_the_gate_of_every_target(
    spec: TrialSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cuda").mkdir()
    cpu, cuda = SpyGate("cpu", tmp_path), SpyGate("cpu", tmp_path / "cuda")
    seen: list[Sequence[bool]] = []

    def note() -> float:
        seen.append((cpu.is_held, cuda.is_held))
        return 1.0

    task = BrokenTask(note)
    monkeypatch.setattr(upnas.trial.run, "build_task", lambda config: task)
    monkeypatch.setattr(upnas.measure.gate, "DeviceGate", {"cuda": cuda}.__getitem__)
    spec = updated(spec, targets=(TARGET, Target(name="gpu", device="cuda", input=(3, 16, 16))))
    record = run_trial(request(known_costs=(costs(), costs("gpu"))), spec, cpu)
    assert record.state is TrialState.COMPLETE
    assert seen == [(True, True)] * 6


def test_super_resolution(tmp_path: Path, gate: DeviceGate) -> None:
    task = SuperResolutionConfig(crop=32, crops_per_epoch=4, max_eval_crops=2)
    model = ModelSpec(decoder="sr", options={"channels": 4, "num_blocks": 1})
    subpixel = Candidate(model=model, stages=(StageChoice(upsampler="subpixel"),))
    spec = TrialSpec(
        task=task,
        signature=signature_of(task),
        training=TrainingConfig(batch=2, device="cpu"),
        rungs=(1, 2),
        targets=(TARGET,),
        constraints=(),
        reference=subpixel,
        trivial_quality=(("psnr", 0.0),),
        main_metric="psnr",
    )
    record = run_trial(request(subpixel), spec, gate)
    assert record.state is TrialState.COMPLETE
    assert [one.num_steps for one in record.rungs] == [2, 4]  # crops_per_epoch / batch
    assert sorted(record.quality) == ["psnr", "ssim"]
    assert record.quality["psnr"] > 15
    assert record.flags == ()
    assert record.task == TaskSignature(
        name="super_resolution", in_channels=3, out_channels=3, scale_factor=2
    )


def count_measurements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of all measurements from now on."""
    measured: list[str] = []
    real = Instrument.measure

    def measure(self: Instrument, *args: Any, **kwargs: Any) -> Costs:
        measured.append(self.target.name)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Instrument, "measure", measure)
    return measured


def first_record(request: TrialRequest, spec: TrialSpec, gate: DeviceGate) -> TrialRecord:
    """A trial up to its costs."""
    return next(iterate_trial(request, spec, gate))


def slower(spec: TrialSpec, factor: float) -> TrialSpec:
    """A later study on the same machine, whose reference took longer."""
    references = tuple(
        one.model_copy(update={"latency_ms": factor * one.latency_ms}) for one in spec.references
    )
    return updated(spec, references=references)


def test_costs_are_measured_once_for_all_studies(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = count_measurements(monkeypatch)
    spec, asked = updated(prepared, uses_cache=True), request(known_costs=())
    first = first_record(asked, spec, gate)
    assert measured == ["tiny", "large"]
    again = first_record(asked, slower(spec, 3.0), gate)
    assert measured == ["tiny", "large"]
    for before, after in zip(first.costs, again.costs, strict=True):
        assert before.latency is not None
        assert after.latency is not None
        assert after.latency.ratios == before.latency.ratios
        assert after.latency_ms == pytest.approx(3 * (before.latency_ms or 0))
        changed = {"latency": before.latency}
        assert after.model_copy(update=changed) == before
    first_record(asked, updated(spec, uses_cache=False), gate)
    first_record(request(candidate("nearest", "bilinear"), known_costs=()), spec, gate)
    assert measured == ["tiny", "large"] * 3


def test_a_strict_study_takes_nothing_that_was_measured_under_load(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = count_measurements(monkeypatch)
    spec = updated(prepared, uses_cache=True, targets=(TARGET,))
    asked = request(known_costs=())
    monkeypatch.setattr(LoadWatch, "read", lambda _: Conditions(foreign_cpus=1.5))
    first_record(asked, spec, gate)
    first_record(asked, spec, gate)
    assert len(measured) == 1
    monkeypatch.setattr(LoadWatch, "read", lambda _: Conditions(foreign_cpus=0.0))
    for _ in range(2):
        first_record(asked, updated(spec, is_strict=True), gate)
    assert len(measured) == 2


def test_learned_selectors_never_touch_the_cache(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings of one candidate ship different arms."""
    monkeypatch.setattr(upnas.trial.costing, "CostCache", raises(AssertionError("no cache")))
    spec = updated(prepared, uses_cache=True, targets=(TARGET,), rungs=(1,))
    record = run_trial(request(SELECTOR, known_costs=()), spec, gate)
    assert record.state is TrialState.COMPLETE, record.detail
    asked = first_record(request(known_costs=()), spec, gate)  # nothing in it is learned
    assert (asked.state, asked.reason) == (TrialState.FAILED, "error")


def two_targets(prepared: TrialSpec, **changes: Any) -> TrialSpec:
    """One target decides, the other is reported for the front alone."""
    return updated(prepared, decisive=("tiny",), rungs=(1,), **changes)


def test_a_target_that_decides_nothing_is_measured_after_the_training(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = count_measurements(monkeypatch)
    spec = two_targets(prepared)
    record = run_trial(request(known_costs=()), spec, gate)
    assert record.state is TrialState.COMPLETE
    assert [known.target for known in record.costs] == measured == ["tiny"]

    (after,) = iterate_trial(request(finished=record), spec, gate)
    assert measured == ["tiny", "large"]
    assert [known.target for known in after.costs] == ["tiny", "large"]
    assert after.costs[0] == record.costs[0]
    assert after.costs[1].is_measured
    kept = {"costs": record.costs, "finished_s": record.finished_s}
    assert after.model_copy(update=kept) == record  # state, rungs, qualities, flags, ...

    assert list(iterate_trial(request(finished=after), spec, gate)) == [after]
    assert measured == ["tiny", "large"]


def test_finishing_replaces_what_was_predicted(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = count_measurements(monkeypatch)
    known = (costs("tiny", latency=None, predicted=PREDICTED), costs("large", 4.0))
    spec = updated(prepared, rungs=(1,))
    record = run_trial(request(known_costs=known), spec, gate)
    (after,) = iterate_trial(request(finished=record), spec, gate)
    assert measured == ["tiny"]
    assert after.costs[0].predicted is None
    assert after.costs[0].latency_ms == pytest.approx(prepared.references[0].latency_ms, rel=0.5)
    assert after.costs[1] == known[1]


def test_a_record_that_cannot_be_finished_stays_as_it_is(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = two_targets(prepared)
    record = run_trial(request(), spec, gate)

    def fail(*_: object, **__: object) -> Costs:
        raise RuntimeError("the device fell over")

    monkeypatch.setattr(Instrument, "measure", fail)
    assert list(iterate_trial(request(finished=record), spec, gate)) == [record]


def test_the_arm_of_a_selector_is_finished_from_its_weights(
    prepared: TrialSpec, gate: DeviceGate, tmp_path: Path
) -> None:
    training = prepared.training.model_copy(
        update={"learning_rate": 0.1, "steps_per_epoch": 10, "selector_cost_weight": 1000.0}
    )
    spec = two_targets(prepared, training=training, checkpoints=tmp_path / "checkpoints")
    record = run_trial(request(SELECTOR, known_costs=()), spec, gate)
    (after,) = iterate_trial(request(SELECTOR, finished=record), spec, gate)
    assert [known.target for known in after.costs] == ["tiny", "large"]
    # Nearest, the cheap one; untrained weights would give the first arm, CARAFE.
    assert after.costs[1].num_parameters == record.costs[0].num_parameters
    untrained = first_record(request(SELECTOR, known_costs=(), seed=2), spec, gate)
    assert after.costs[1].num_parameters < untrained.costs[0].num_parameters

    checkpoint_of(updated(spec, checkpoints=tmp_path / "checkpoints")).unlink()
    assert list(iterate_trial(request(SELECTOR, finished=record), spec, gate)) == [record]


def unserved(target: str) -> Costs:
    reason = "RuntimeError: no kernel for this"
    return Costs(target=target, unserved=reason, peak_memory_mib=3.0, num_parameters=100)


def test_what_a_deciding_target_cannot_run_is_refused(spec: TrialSpec, gate: DeviceGate) -> None:
    nowhere = SegmentationConfig(data=FolderConfig(path="/does/not/exist"))
    (record,) = iterate_trial(
        request(known_costs=(unserved("tiny"),)), updated(spec, task=nowhere), gate
    )
    assert (record.state, record.reason) == (TrialState.REFUSED, "target")
    assert record.detail == "target tiny cannot run it: RuntimeError: no kernel for this"
    assert record.costs == (unserved("tiny"),)


def test_what_another_target_cannot_run_stays_complete(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = two_targets(prepared)
    record = run_trial(request(), spec, gate)
    monkeypatch.setattr(Instrument, "measure", lambda *_, **__: unserved("large"))
    (after,) = iterate_trial(request(finished=record), spec, gate)
    assert after.state is TrialState.COMPLETE
    assert after.costs == (costs(), unserved("large"))


PREDICTED = PredictedLatency(
    ratio=2.0, ratio_low=1.8, ratio_high=2.5, reference_ms=3.0, num_measured=12
)


def test_a_predicted_latency_is_not_timed(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = count_measurements(monkeypatch)
    asked = request(known_costs=(), predicted=(("tiny", PREDICTED),))
    tiny, large = first_record(asked, updated(prepared, uses_cache=True), gate).costs
    assert measured == ["large"]
    assert tiny.predicted == PREDICTED
    assert (tiny.latency, tiny.latency_ms, tiny.is_measured) == (None, 6.0, False)
    assert large.latency is not None
    # The rest is exact.
    first_record(request(known_costs=()), prepared, gate)
    exact = first_record(request(known_costs=()), prepared, gate).costs[0]
    assert tiny.peak_memory_mib == exact.peak_memory_mib
    assert tiny.num_parameters == exact.num_parameters
    # And constraints hold for it.
    limits = (Constraint(metric="latency_ms", max=5.0),)
    refused = first_record(asked, updated(prepared, constraints=limits), gate)
    assert (refused.state, refused.reason) == (TrialState.REFUSED, "constraint")


def test_a_busy_device_fails_a_strict_trial(
    prepared: TrialSpec, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadWatch, "read", lambda _: Conditions(foreign_cpus=1.5))
    monkeypatch.setattr("upnas.measure.timing.latency._WATCH_S", 0.0)
    strict = updated(prepared, is_strict=True, targets=(TARGET,))
    record = first_record(request(known_costs=()), strict, gate)
    assert (record.state, record.reason) == (TrialState.FAILED, "device_busy")
    assert "1.50 CPUs" in (record.detail or "")
    assert first_record(request(known_costs=()), prepared, gate).state is TrialState.RUNNING
    with pytest.raises(BusyDeviceError, match=r"'tiny'.*1\.50 CPUs"):
        prepare_study(strict, gate)


def test_preparation_times_the_stages_of_deciding_targets(
    prepared: TrialSpec, gate: DeviceGate
) -> None:
    assert not prepare_study(updated(prepared, targets=(TARGET,)), gate).stage_tables
    options = tuple(
        tuple(StageChoice(upsampler=name) for name in names)
        for names in (("nearest", "bilinear"), ("transposed",))
    )
    ready = prepare_study(two_targets(prepared, stage_options=options), gate)
    (table,) = ready.stage_tables
    assert (table.target, table.reference) == ("tiny", BILINEAR)
    names = [[cost.choice.upsampler for cost in stage] for stage in table.stages]
    assert names == [["nearest", "bilinear"], ["transposed", "bilinear"]]
    assert all((cost.ratio or 0) > 0 for stage in table.stages for cost in stage)
    assert table.machine == ready.references[0].machine != ""
