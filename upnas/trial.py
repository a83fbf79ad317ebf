"""One trial: measure, refuse or train rung by rung, score, record.

``run_trial`` is a plain function without Ray or Optuna: a debugger works in it, and a fake one
tests the whole search in seconds.
"""

from __future__ import annotations

import copy
import os
import platform
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from upnas.front import BELOW_TRIVIAL
from upnas.measure.costs import measure_costs
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
from upnas.training import (
    NanLossError,
    Trainer,
    compute_threads,
    load_checkpoint,
    save_checkpoint,
)
from upnas.upsamplers import collapse, pin, record_resolutions, selectors


class TrialSpec(Record):
    """What all trials of a study share."""

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
    """Time the reference network on every target, and score the task's trivial baseline."""
    reference = build_model(spec.reference, spec.signature, load_pretrained=False).eval()
    references = []
    for target in spec.targets:
        with gate.exclusive():
            references.append(measure_reference(reference.to(target.device), target))
    trivial = build_task(spec.task).trivial_quality("validation")
    return Preparation(references=tuple(references), trivial_quality=tuple(trivial.items()))


def run_trial(request: TrialRequest, spec: TrialSpec, gate: DeviceGate) -> TrialRecord:
    """Run one trial to its end and return its final record."""
    record = None
    for record in iterate_trial(request, spec, gate):
        pass
    assert record is not None  # iterate_trial always ends with a final record
    return record


def iterate_trial(
    request: TrialRequest, spec: TrialSpec, gate: DeviceGate
) -> Iterator[TrialRecord]:
    """Run one trial, giving a record after its costs, after every rung and at the end.

    Ordinary failures (NaN loss, out of memory, any exception) end in a failed record. A rung that
    is in a checkpoint is not trained again.
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
    try:
        with compute_threads(spec.num_threads):
            for record in _phases(record, spec, gate):  # noqa: B020 - the failure handler wants the newest
                yield record
    except (torch.OutOfMemoryError, MemoryError) as error:
        yield _failed(record, "out_of_memory", error)
    except NanLossError as error:
        yield _failed(record, "nan_loss", error)
    except Exception as error:
        # torch reports an exhausted host allocator as a plain RuntimeError.
        is_memory = "can't allocate memory" in str(error)
        yield _failed(record, "out_of_memory" if is_memory else "error", error)


def _failed(record: TrialRecord, reason: str, error: BaseException) -> TrialRecord:
    where = traceback.extract_tb(error.__traceback__)[-1]
    detail = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return _updated(record, state=TrialState.FAILED, reason=reason, detail=detail[:2000])


def _updated(record: TrialRecord, **changes: Any) -> TrialRecord:
    return record.model_copy(update={"finished_s": time.time(), **changes})


def _phases(record: TrialRecord, spec: TrialSpec, gate: DeviceGate) -> Iterator[TrialRecord]:
    model = build_model(record.candidate, spec.signature, seed=record.seed)
    if not record.costs:
        record = _updated(record, costs=_measure(model, spec, gate))
    if violation := violated(record.costs, spec.constraints):
        yield _updated(record, state=TrialState.REFUSED, reason="constraint", detail=violation)
        return
    yield record

    task = build_task(spec.task)
    pin(model, torch.zeros(1, *spec.targets[0].input))
    _price_selectors(model, spec, gate)
    steps_per_epoch = spec.training.steps_per_epoch or task.steps_per_epoch(spec.training.batch)
    trainer = Trainer(
        model,
        task,
        spec.training,
        total_steps=spec.rungs[-1] * steps_per_epoch,
        seed=record.seed,
        gate=gate,
    )
    path = _checkpoint_path(record, spec)
    saved = load_checkpoint(path) if path is not None else None
    if saved is not None:
        trainer.load_state(saved["trainer"])
        rungs = TrialRecord.model_validate_json(saved["record"]).rungs
        record = _updated(record, rungs=rungs)
        yield record
    for rung, epochs in list(enumerate(spec.rungs))[len(record.rungs) :]:
        loss = trainer.train_to(epochs * steps_per_epoch)
        result = RungResult(
            rung=rung,
            epochs=epochs,
            num_steps=trainer.step,
            quality=trainer.evaluate("validation"),
            train_loss=loss,
            train_s=trainer.train_s,
        )
        record = _updated(record, rungs=(*record.rungs, result))
        if path is not None:
            save_checkpoint(
                path, {"trainer": trainer.state(), "record": record.model_dump_json()}
            )
        if rung < len(spec.rungs) - 1:
            yield record
    yield _complete(record, trainer, spec, gate)


def _complete(
    record: TrialRecord, trainer: Trainer, spec: TrialSpec, gate: DeviceGate
) -> TrialRecord:
    """The final record: test quality, flags, and the costs of the arms that selectors settled on."""
    changes: dict[str, Any] = {
        "state": TrialState.COMPLETE,
        "test_quality": tuple(sorted(trainer.evaluate("test").items())),
        "flags": _flags(record, spec),
    }
    if selectors(trainer.model):
        # Which arm a learned selector takes is known only now, and with it what it costs.
        costs = _measure(trainer.model, spec, gate)
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
    gain = record.quality[spec.main_metric] - trivial
    return () if (gain > 0) == spec.maximize_main and gain != 0 else (BELOW_TRIVIAL,)


def _measure(model: nn.Module, spec: TrialSpec, gate: DeviceGate) -> tuple[Costs, ...]:
    reference = build_model(spec.reference, spec.signature, load_pretrained=False)
    formats = tuple(c.equals for c in spec.constraints if c.equals is not None)
    reference_ms = {known.target: known.latency_ms for known in spec.references}
    # What ships is measured: contiguous weights, and of every upsampler that picks by resolution
    # only the arm that it picks at the target's.
    shipped = model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return tuple(
        measure_costs(
            collapse(shipped, torch.zeros(1, *target.input)),
            target,
            reference=reference,
            reference_ms=reference_ms[target.name],
            gate=gate,
            export_formats=formats,
        )
        for target in spec.targets
    )


def violated(costs: tuple[Costs, ...], constraints: tuple[Constraint, ...]) -> str | None:
    """The first constraint that the costs violate, in words; None if they satisfy all."""
    for constraint in constraints:
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


def _price_selectors(model: nn.Module, spec: TrialSpec, gate: DeviceGate) -> None:
    """Tell every learned selector what its arms cost at the resolutions of the targets."""
    for target in spec.targets:
        resolutions = record_resolutions(model, torch.zeros(1, *target.input))
        for name, selector in selectors(model):
            arms = [copy.deepcopy(arm).to(target.device).eval() for arm in selector.arms.values()]
            shape = (target.batch, selector.channels, *resolutions[name])
            with gate.exclusive():
                costs = measure_arm_costs(arms, shape, target)
            selector.set_arm_costs(resolutions[name], costs)


def _checkpoint_path(record: TrialRecord, spec: TrialSpec) -> Path | None:
    if spec.checkpoints is None:
        return None
    return spec.checkpoints / f"{record.candidate.key}-s{record.seed}.pt"
