"""One trial from its request to its final record.

A candidate is one network whatever the number of targets: upsamplers that pick by resolution are
fixed to the arm for the input of the first target, and as that network the candidate is trained,
scored and measured on every target.
"""

from __future__ import annotations

import logging
import os
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from upnas.artifacts import network_dc_gain_spread
from upnas.errors import BusyDeviceError
from upnas.front import BELOW_TRIVIAL
from upnas.measure.gate import DeviceGate, StudyGates
from upnas.measure.runtimes import RUNTIMES
from upnas.measure.stages.table import OfOneInput
from upnas.measure.targets import check_target
from upnas.measure.timing.latency import measure_arm_costs
from upnas.models import build_model
from upnas.records import Quality, RungResult, Target, TrialRecord, TrialState
from upnas.tasks import build_task
from upnas.tasks.base import DC_GAIN_SPREAD
from upnas.training import (
    NanLossError,
    Trainer,
    compute_threads,
    load_checkpoint,
    save_checkpoint,
)
from upnas.trial.costing import (
    candidate_costs,
    gates_of,
    measure_references,
    measure_stage_tables,
    refusal,
)
from upnas.trial.spec import Preparation, TrialRequest, TrialSpec
from upnas.upsamplers import pin, selectors

logger = logging.getLogger(__name__)


def prepare_study(spec: TrialSpec, gate: DeviceGate) -> Preparation:
    """Time the reference network on every target, and score the task's trivial baseline.

    Where latencies are to be predicted, the stages are timed as well.

    Args:
        spec: The study; its ``references`` and ``trivial_quality`` are not read.
        gate: The gate of the first target's device.

    Raises:
        TargetError: If this machine cannot serve a target.
        DataError: If the task's data cannot be read, or pretrained weights cannot be fetched.
    """
    for target in spec.targets:
        check_target(target)
    gates = gates_of(spec, gate)
    with gates.shared():
        # With the pretrained weights: they are fetched now or the study fails now.
        reference = build_model(spec.reference, spec.signature).eval()
        trivial = build_task(spec.task).trivial_quality("validation")
    return Preparation(
        references=measure_references(spec, reference, gates),
        trivial_quality=tuple(trivial.items()),
        stage_tables=measure_stage_tables(spec, gates),
    )


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
    if request.finished is not None:
        yield _with_all_costs(request.finished, spec, gate)
        return
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
    phases = _phases(record, request, spec, gate)
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
    if isinstance(error, BusyDeviceError):
        return "device_busy"
    # torch reports an exhausted host allocator as a plain RuntimeError.
    is_host_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if is_host_memory or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out_of_memory"
    return "error"


def _updated(record: TrialRecord, **changes: Any) -> TrialRecord:
    return record.model_copy(update={"finished_s": time.time(), **changes})


def _phases(
    record: TrialRecord, request: TrialRequest, spec: TrialSpec, gate: DeviceGate
) -> Iterator[TrialRecord]:
    """The records of a trial in which nothing fails; the last one is final."""
    gates = gates_of(spec, gate)
    path = _checkpoint_path(record, spec)
    saved = load_checkpoint(path) if path is not None else None
    if saved is not None:
        before = TrialRecord.model_validate_json(saved["record"])
        record = _updated(record, costs=record.costs or before.costs, rungs=before.rungs)
    with gates.shared():
        model = build_model(record.candidate, spec.signature, seed=record.seed)
    if not record.costs:
        costs = candidate_costs(
            record.candidate,
            model,
            spec,
            gates,
            targets=spec.decisive_targets,
            predicted=request.predicted,
        )
        record = _updated(record, costs=costs)
    if (why := refusal(record.costs, spec.constraints)) is not None:
        yield _updated(record, state=TrialState.REFUSED, reason=why[0], detail=why[1])
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
    model: nn.Module, spec: TrialSpec, gates: StudyGates, known: dict[str, list[float]] | None
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
            shape = (selector.channels, *selector.pinned)
            of_stage = target.model_copy(update={"input": shape})
            arms = [OfOneInput(arm, of_stage.input_shape) for arm in selector.alternatives()]
            arm_costs[name] = _time_arms(arms, of_stage, gates)
        selector.set_arm_costs(selector.pinned, arm_costs[name])
    return arm_costs


def _time_arms(arms: Sequence[nn.Module], target: Target, gates: StudyGates) -> list[float]:
    """Milliseconds of modules that take the target's input."""
    runtime = RUNTIMES[target.runtime]
    with ExitStack() as stack:
        with gates.shared():
            sessions = [stack.enter_context(runtime.session(arm, target)) for arm in arms]
        with gates.of(target.device).exclusive():
            return measure_arm_costs(sessions, target)


def _make_trainer(
    model: nn.Module, record: TrialRecord, spec: TrialSpec, gates: StudyGates
) -> Trainer:
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


def _complete(
    record: TrialRecord, trainer: Trainer, spec: TrialSpec, gates: StudyGates
) -> TrialRecord:
    """The final record: test quality, flags, and the costs of the arms that selectors took."""
    changes: dict[str, Any] = {
        "state": TrialState.COMPLETE,
        "test_quality": tuple(sorted(trainer.evaluate("test").items())),
        "flags": _flags(record, spec),
    }
    if selectors(trainer.model):
        # Which arm a learned selector takes is known only now, and with it what it costs.
        costs = candidate_costs(
            record.candidate, trainer.model, spec, gates, targets=spec.decisive_targets
        )
        changes["costs"] = costs
        if (why := refusal(costs, spec.constraints)) is not None:
            changes |= {
                "state": TrialState.REFUSED,
                "reason": why[0],
                "detail": f"after training: {why[1]}",
            }
    return _updated(record, **changes)


def _with_all_costs(record: TrialRecord, spec: TrialSpec, gate: DeviceGate) -> TrialRecord:
    """A complete record with measured costs on every target; as it is where that fails."""
    gates = gates_of(spec, gate)
    measured = {costs.target: costs for costs in record.costs if costs.is_measured}
    missing = [target for target in spec.targets if target.name not in measured]
    if not missing:
        return record
    try:
        with gates.shared():
            model = _trained_model(record, spec)
        if model is None:
            return record
        found = candidate_costs(record.candidate, model, spec, gates, targets=missing)
    except Exception:
        logger.warning("Trial %d keeps the costs that it has.", record.number, exc_info=True)
        return record
    by_target = measured | {costs.target: costs for costs in found}
    costs = tuple(by_target[target.name] for target in spec.targets)
    return _updated(record, costs=costs)


def _trained_model(record: TrialRecord, spec: TrialSpec) -> nn.Module | None:
    """The network that would ship; None where its selectors' choices are not known any more."""
    model = build_model(record.candidate, spec.signature, seed=record.seed)
    path = _checkpoint_path(record, spec)
    saved = load_checkpoint(path) if path is not None else None
    if saved is not None:
        model.load_state_dict(saved["trainer"]["model"])
    elif selectors(model):
        return None
    pin(model, torch.zeros(1, *spec.targets[0].input))
    return model


def _flags(record: TrialRecord, spec: TrialSpec) -> tuple[str, ...]:
    trivial = dict(spec.trivial_quality).get(spec.main_metric)
    if trivial is None:
        return ()
    quality = record.quality[spec.main_metric]
    is_better = quality > trivial if spec.maximize_main else quality < trivial
    return () if is_better else (BELOW_TRIVIAL,)


def _checkpoint_path(record: TrialRecord, spec: TrialSpec) -> Path | None:
    if spec.checkpoints is None:
        return None
    return spec.checkpoints / f"{record.candidate.key}-s{record.seed}.pt"
