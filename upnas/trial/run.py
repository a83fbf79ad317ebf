"""One trial: measure, refuse or train rung by rung, score, record.

``run_trial`` is a plain function without Ray or Optuna: a debugger works in it, and a fake one
tests the whole search in seconds.

A candidate is one network whatever the number of targets: upsamplers that pick by resolution are
fixed to the arm for the input of the first target, and as that network the candidate is trained,
scored and measured on every target.
"""

from __future__ import annotations

import copy
import logging
import os
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upnas.artifacts import network_dc_gain_spread
from upnas.front import BELOW_TRIVIAL
from upnas.measure.costs import check_target, measure_costs
from upnas.measure.gate import DeviceGate
from upnas.measure.latency import measure_arm_costs, measure_reference
from upnas.models import build_model
from upnas.records import (
    Candidate,
    Constraint,
    Costs,
    Origin,
    Quality,
    Record,
    RungResult,
    Target,
    TargetReference,
    TaskSignature,
    TrialRecord,
    TrialState,
)
from upnas.space import TrainingConfig
from upnas.tasks import TaskConfig, build_task
from upnas.tasks.base import DC_GAIN_SPREAD
from upnas.training import (
    NanLossError,
    Trainer,
    compute_threads,
    load_checkpoint,
    save_checkpoint,
)
from upnas.upsamplers import Upsampler, collapse, pin, selectors

logger = logging.getLogger(__name__)


class TrialSpec(Record):
    """What all trials of a study share.

    Attributes:
        task: Data, loss and metrics.
        signature: Channels in and out of the networks, and the scale.
        training: Optimiser, batch and length of an epoch.
        rungs: Epochs trained at each rung, increasing; the last is the full training.
        targets: Where costs are measured, at least one; the first decides for upsamplers that
            pick by resolution.
        constraints: Limits; a candidate whose costs violate one never trains. Those on quality
            are judged from the records.
        reference: The network that every candidate is timed in pairs with.
        references: Its own time on each target, from :func:`prepare_study`.
        trivial_quality: What the task's trivial baseline scores, likewise.
        main_metric: The quality metric that is compared with the trivial baseline's.
        maximize_main: Whether more of it is better.
        checkpoints: Folder of the rung checkpoints; None keeps none.
        num_threads: Compute threads of a trial; measurements have their target's.
    """

    task: TaskConfig
    signature: TaskSignature
    training: TrainingConfig
    rungs: tuple[int, ...]
    targets: tuple[Target, ...]
    constraints: tuple[Constraint, ...]
    reference: Candidate
    references: tuple[TargetReference, ...] = ()
    trivial_quality: Quality = ()
    main_metric: str
    maximize_main: bool = True
    checkpoints: Path | None = None
    num_threads: int = 1


class TrialRequest(Record):
    """One trial to run.

    Attributes:
        number: Of the trial in its study.
        candidate: What to train.
        seed: Of the initial weights, the data order and everything random in the network.
        origin: Who asked for it.
        baseline: The baseline's name, for baselines.
        known_costs: Costs of the same candidate from an earlier trial; they are not measured again.
    """

    number: int
    candidate: Candidate
    seed: int
    origin: Origin = "sampler"
    baseline: str | None = None
    known_costs: tuple[Costs, ...] = ()


class Preparation(Record):
    """What a study measures once, before its first trial."""

    references: tuple[TargetReference, ...]
    trivial_quality: Quality


def prepare_study(spec: TrialSpec, gate: DeviceGate) -> Preparation:
    """Time the reference network on every target, and score the task's trivial baseline.

    Args:
        spec: The study; its ``references`` and ``trivial_quality`` are not read.
        gate: The gate of the first target's device.

    Raises:
        TargetError: If this machine cannot serve a target.
        DataError: If the task's data cannot be read, or pretrained weights cannot be fetched.
    """
    for target in spec.targets:
        check_target(target)
    gates = _Gates(spec.targets, gate)
    with gates.shared():
        # With the pretrained weights: they are fetched now or the study fails now.
        reference = build_model(spec.reference, spec.signature).eval()
        trivial = build_task(spec.task).trivial_quality("validation")
    references = []
    for target in spec.targets:
        with gates.of(target).exclusive():
            references.append(measure_reference(reference.to(target.device), target))
    return Preparation(references=tuple(references), trivial_quality=tuple(trivial.items()))


def run_trial(request: TrialRequest, spec: TrialSpec, gate: DeviceGate) -> TrialRecord:
    """Run one trial to its end and return its final record; see :func:`iterate_trial`."""
    *_, record = iterate_trial(request, spec, gate)
    return record


def iterate_trial(
    request: TrialRequest, spec: TrialSpec, gate: DeviceGate
) -> Iterator[TrialRecord]:
    """Run one trial, giving a record after its costs, after every rung and at the end.

    The last rung's result comes with the final record. Ordinary failures (NaN loss, out of memory,
    any exception) end in a failed record that keeps what was reached. Costs and rungs that are in
    a checkpoint are neither measured nor trained again.

    Args:
        request: The trial.
        spec: The study, with the results of :func:`prepare_study`.
        gate: The gate of the first target's device.
    """
    record = TrialRecord(
        number=request.number,
        candidate=request.candidate,
        task=spec.signature,
        seed=request.seed,
        state=TrialState.RUNNING,
        origin=request.origin,
        baseline=request.baseline,
        costs=request.known_costs,
        learning_rate=spec.training.learning_rate,
        started_s=time.time(),
        finished_s=time.time(),
        worker=f"{platform.node()}:{os.getpid()}",
    )
    phases = _phases(record, spec, gate)
    while not record.is_final:
        try:
            with compute_threads(spec.num_threads):
                record = next(phases)
        except Exception as error:
            logger.info("Trial %d failed.", record.number, exc_info=True)
            record = _failed(record, error)
        yield record


def _failed(record: TrialRecord, error: Exception) -> TrialRecord:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    detail = f"{type(error).__name__} at {place}: {error}"
    return _updated(record, state=TrialState.FAILED, reason=_reason(error), detail=detail[:2000])


def _reason(error: Exception) -> str:
    if isinstance(error, NanLossError):
        return "nan_loss"
    # torch reports an exhausted host allocator as a plain RuntimeError.
    is_host_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if is_host_memory or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out_of_memory"
    return "error"


def _updated(record: TrialRecord, **changes: Any) -> TrialRecord:
    return record.model_copy(update={"finished_s": time.time(), **changes})


def _phases(record: TrialRecord, spec: TrialSpec, gate: DeviceGate) -> Iterator[TrialRecord]:
    """The records of a trial in which nothing fails; the last one is final."""
    gates = _Gates(spec.targets, gate)
    path = _checkpoint_path(record, spec)
    saved = load_checkpoint(path) if path is not None else None
    if saved is not None:
        before = TrialRecord.model_validate_json(saved["record"])
        record = _updated(record, costs=record.costs or before.costs, rungs=before.rungs)
    with gates.shared():
        model = build_model(record.candidate, spec.signature, seed=record.seed)
    if not record.costs:
        record = _updated(record, costs=_measure(model, spec, gates))
    if violation := violated(record.costs, spec.constraints):
        yield _updated(record, state=TrialState.REFUSED, reason="constraint", detail=violation)
        return
    yield record

    arm_costs = _fix_choices(model, spec, gates, known=saved["arm_costs"] if saved else None)
    trainer = _make_trainer(model, record, spec, gates)
    if saved is not None:
        trainer.load_state(saved["trainer"])
    for rung in range(len(record.rungs), len(spec.rungs)):
        result = _train_rung(trainer, rung, spec)
        record = _updated(record, rungs=(*record.rungs, result))
        if path is not None:
            state = {"trainer": trainer.state(), "arm_costs": arm_costs}
            save_checkpoint(path, state | {"record": record.model_dump_json()})
        if rung < len(spec.rungs) - 1:
            yield record
    yield _complete(record, trainer, spec, gates)


def _fix_choices(
    model: nn.Module, spec: TrialSpec, gates: _Gates, known: dict[str, list[float]] | None
) -> dict[str, list[float]]:
    """Pin upsamplers that pick by resolution, and tell learned selectors what their arms cost.

    Args:
        model: The network, on the CPU.
        spec: The study.
        gates: Of its devices.
        known: Latencies that were measured before a restart: with others, the training would not
            go on as it began.

    Returns:
        Milliseconds of each arm, by the selector's qualified name.
    """
    target = spec.targets[0]
    with gates.shared():
        pin(model, torch.zeros(1, *target.input))
    arm_costs: dict[str, list[float]] = {}
    for name, selector in selectors(model):
        assert selector.pinned is not None  # pin() has seen every selector
        if known is not None:
            arm_costs[name] = known[name]
        else:
            shape = (target.batch, selector.channels, *selector.pinned)
            arms = [
                _OfOneInput(arm, shape).to(target.device).eval() for arm in selector.alternatives()
            ]
            with gates.of(target).exclusive():
                arm_costs[name] = measure_arm_costs(arms, shape, target)
        selector.set_arm_costs(selector.pinned, arm_costs[name])
    return arm_costs


class _OfOneInput(nn.Module):
    """A copy of an upsampler with a fixed guide, if it needs one."""

    guide: Tensor | None

    def __init__(self, upsampler: Upsampler, shape: tuple[int, ...]):
        super().__init__()
        self.upsampler = copy.deepcopy(upsampler)
        guide = None
        if upsampler.guided:
            sides = (side * upsampler.scale_factor for side in shape[2:])
            guide = torch.zeros(shape[0], upsampler.guide_channels, *sides)
        self.register_buffer("guide", guide)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, s*H, s*W)."""
        y: Tensor = self.upsampler(x, guide=self.guide)
        return y


def _make_trainer(model: nn.Module, record: TrialRecord, spec: TrialSpec, gates: _Gates) -> Trainer:
    with gates.shared():
        task = build_task(spec.task)
    steps_per_epoch = spec.training.steps_per_epoch or task.steps_per_epoch(spec.training.batch)
    return Trainer(
        model,
        task,
        spec.training,
        total_steps=spec.rungs[-1] * steps_per_epoch,
        seed=record.seed,
        gate=gates,
    )


def _train_rung(trainer: Trainer, rung: int, spec: TrialSpec) -> RungResult:
    steps_per_epoch = trainer.total_steps // spec.rungs[-1]
    epochs = spec.rungs[rung]
    loss = trainer.train_to(epochs * steps_per_epoch)
    return RungResult(
        rung=rung,
        epochs=epochs,
        num_steps=trainer.step,
        quality=_quality(trainer, spec),
        train_loss=loss,
        train_s=trainer.train_s,
    )


def _quality(trainer: Trainer, spec: TrialSpec) -> Quality:
    """What the validation split says, and the weights where somebody asks for that."""
    scores = trainer.evaluate("validation")
    if DC_GAIN_SPREAD.name in spec.task.metrics:
        scores[DC_GAIN_SPREAD.name] = network_dc_gain_spread(trainer.model)
    return tuple(sorted(scores.items()))


def _complete(record: TrialRecord, trainer: Trainer, spec: TrialSpec, gates: _Gates) -> TrialRecord:
    """The final record: test quality, flags, and the costs of the arms that selectors took."""
    changes: dict[str, Any] = {
        "state": TrialState.COMPLETE,
        "test_quality": tuple(sorted(trainer.evaluate("test").items())),
        "flags": _flags(record, spec),
    }
    if selectors(trainer.model):
        # Which arm a learned selector takes is known only now, and with it what it costs.
        costs = _measure(trainer.model, spec, gates)
        changes["costs"] = costs
        if violation := violated(costs, spec.constraints):
            changes |= {
                "state": TrialState.REFUSED,
                "reason": "constraint",
                "detail": f"after training: {violation}",
            }
    return _updated(record, **changes)


def _flags(record: TrialRecord, spec: TrialSpec) -> tuple[str, ...]:
    trivial = dict(spec.trivial_quality).get(spec.main_metric)
    if trivial is None:
        return ()
    quality = record.quality[spec.main_metric]
    is_better = quality > trivial if spec.maximize_main else quality < trivial
    return () if is_better else (BELOW_TRIVIAL,)


def _measure(model: nn.Module, spec: TrialSpec, gates: _Gates) -> tuple[Costs, ...]:
    """The costs, on every target, of the network that would ship."""
    reference = build_model(spec.reference, spec.signature, load_pretrained=False)
    formats = tuple(c.equals for c in spec.constraints if c.equals is not None)
    reference_ms = {known.target: known.latency_ms for known in spec.references}
    device = next(model.parameters()).device
    with gates.shared():
        shipped = collapse(model, torch.zeros(1, *spec.targets[0].input, device=device))
    # Trained in channels_last, timed in torch's default layout.
    shipped = shipped.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return tuple(
        measure_costs(
            shipped,
            target,
            reference=reference,
            reference_ms=reference_ms[target.name],
            gate=gates.of(target),
            export_formats=formats,
        )
        for target in spec.targets
    )


def violated(costs: tuple[Costs, ...], constraints: tuple[Constraint, ...]) -> str | None:
    """The first constraint that the costs violate, in words; None if they satisfy all.

    Constraints on quality say nothing here.
    """
    for constraint in constraints:
        if constraint.is_on_quality:
            continue
        name = constraint.target or costs[0].target
        on_target = next(known for known in costs if known.target == name)
        if constraint.equals is not None:
            outcome = dict(on_target.exportable).get(constraint.equals, "not probed")
            if outcome != "ok":
                return f"not exportable as {constraint.equals}: {outcome}"
            continue
        value = float(getattr(on_target, constraint.metric))
        if constraint.max is not None and value > constraint.max:
            return f"{constraint.metric} {value:.4g} is above max {constraint.max:g} on {name}"
        if constraint.min is not None and value < constraint.min:
            return f"{constraint.metric} {value:.4g} is below min {constraint.min:g} on {name}"
    return None


def _checkpoint_path(record: TrialRecord, spec: TrialSpec) -> Path | None:
    if spec.checkpoints is None:
        return None
    return spec.checkpoints / f"{record.candidate.key}-s{record.seed}.pt"


class _Gates:
    """The gates of all devices that a study measures on: its trials compute inside all of them.

    Args:
        targets: The study's.
        first: The gate of the first target's device.
    """

    def __init__(self, targets: Sequence[Target], first: DeviceGate):
        devices = {target.device for target in targets} - {targets[0].device}
        self._gates = {device: DeviceGate(device) for device in devices}
        self._gates[targets[0].device] = first

    def of(self, target: Target) -> DeviceGate:
        """The gate of a target's device."""
        return self._gates[target.device]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold while computing."""
        with ExitStack() as stack:
            for device in sorted(self._gates):  # always in this order, or two studies could lock up
                stack.enter_context(self._gates[device].shared())
            yield
