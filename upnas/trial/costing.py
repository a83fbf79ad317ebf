"""What a candidate costs on the targets of a study: from the cache, predicted or measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn

from upnas.measure.cache import CostCache, cost_key, rebased
from upnas.measure.conditions import disturbance
from upnas.measure.fingerprint import machine_fingerprint
from upnas.measure.gate import DeviceGate, StudyGates
from upnas.measure.instrument import Instrument
from upnas.measure.stages.table import measure_stage_table
from upnas.measure.timing.latency import DEFAULT_SETTINGS, LatencySettings, check_quiet
from upnas.models import build_model
from upnas.records import (
    Candidate,
    Constraint,
    Costs,
    PredictedLatency,
    StageTable,
    Target,
    TargetReference,
    TaskSignature,
)
from upnas.trial.spec import TrialSpec
from upnas.upsamplers import collapse, selectors

# Compiling the reference can take longer than measuring a candidate, and a worker measures many.
_MAX_INSTRUMENTS: Final = 8
_instruments: dict[tuple[Candidate, TaskSignature, Target], Instrument] = {}


def gates_of(spec: TrialSpec, first: DeviceGate) -> StudyGates:
    """The gates of all devices of a study.

    Args:
        spec: The study.
        first: The gate of the first target's device.
    """
    return StudyGates([target.device for target in spec.targets], first)


def measure_references(
    spec: TrialSpec, reference: nn.Module, gates: StudyGates
) -> tuple[TargetReference, ...]:
    """Time the reference on every target.

    Raises:
        TargetError: If this machine cannot serve a target, or other programs use its device in a
            strict study.
    """
    found = []
    for target in spec.targets:
        if spec.is_strict:
            check_quiet(target)
        found.append(_instrument(spec, target, gates, reference).time_reference(gates))
    return tuple(found)


def measure_stage_tables(spec: TrialSpec, gates: StudyGates) -> tuple[StageTable, ...]:
    """What every upsampler costs at every stage, on the targets that latencies are wanted of."""
    if not spec.stage_options:
        return ()
    return tuple(
        measure_stage_table(
            spec.signature,
            spec.stage_options,
            spec.reference,
            target,
            gates,
            deciding_input=spec.targets[0].input,
            machine=machine_fingerprint(target),
        )
        for target in spec.decisive_targets
    )


def candidate_costs(
    candidate: Candidate,
    model: nn.Module,
    spec: TrialSpec,
    gates: StudyGates,
    *,
    targets: Sequence[Target],
    predicted: Sequence[tuple[str, PredictedLatency]] = (),
) -> tuple[Costs, ...]:
    """The costs of the network that would ship.

    Args:
        candidate: What it is.
        model: Its network, trained or not.
        spec: The study.
        gates: Of its devices.
        targets: Where.
        predicted: Latencies by target that are not measured.
    """
    is_learned = bool(selectors(model))  # which arms ship is not in the candidate's key
    with gates.shared():
        device = next(model.parameters()).device
        shipped = collapse(model, torch.zeros(1, *spec.targets[0].input, device=device))
        # Trained in channels_last; the target says in which layout it is timed.
        shipped = shipped.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    known = dict(predicted)
    return tuple(
        _costs_on(
            target,
            candidate,
            shipped,
            spec,
            gates,
            predicted=known.get(target.name),
            cache=CostCache() if spec.uses_cache and not is_learned else None,
        )
        for target in targets
    )


def _costs_on(
    target: Target,
    candidate: Candidate,
    shipped: nn.Module,
    spec: TrialSpec,
    gates: StudyGates,
    *,
    predicted: PredictedLatency | None,
    cache: CostCache | None,
) -> Costs:
    wanted: dict[str, Any] = {
        "export_formats": tuple(c.equals for c in spec.constraints if c.equals is not None),
        "optional": spec.optional_costs,
    }
    if predicted is not None:
        return _instrument(spec, target, gates).predicted(shipped, predicted, gates, **wanted)
    calm = next(known for known in spec.references if known.target == target.name)
    settings = LatencySettings(is_strict=spec.is_strict)
    key = None
    if cache is not None:
        key = cost_key(
            candidate,
            spec.signature,
            target,
            reference=spec.reference,
            pinned_input=spec.targets[0].input,
            settings=f"{DEFAULT_SETTINGS!r} {wanted!r}",
        )
        found = cache.get(key)
        if found is not None and not (spec.is_strict and _was_disturbed(found)):
            return rebased(found, calm.latency_ms)
    instrument = _instrument(spec, target, gates)
    costs = instrument.measure(shipped, calm, gates, settings=settings, **wanted)
    if cache is not None and key is not None:
        cache.put(key, costs)
    return costs


def _was_disturbed(costs: Costs) -> bool:
    """Whether other programs used the device while a study measured that did not mind."""
    conditions = None if costs.latency is None else costs.latency.conditions
    return conditions is not None and disturbance(conditions) is not None


def _instrument(
    spec: TrialSpec, target: Target, gates: StudyGates, reference: nn.Module | None = None
) -> Instrument:
    """The instrument of a target, kept for this process."""
    key = (spec.reference, spec.signature, target)
    if key not in _instruments:
        if reference is None:
            with gates.shared():
                reference = build_model(spec.reference, spec.signature, load_pretrained=False)
        if len(_instruments) >= _MAX_INSTRUMENTS:  # of studies before, in a long-lived process
            _instruments.pop(next(iter(_instruments))).close()
        _instruments[key] = Instrument(reference, target)
    return _instruments[key]


def refusal(
    costs: tuple[Costs, ...], constraints: tuple[Constraint, ...]
) -> tuple[str, str] | None:
    """Why a candidate does not train: one word and a sentence; None if it does.

    Args:
        costs: On the decisive targets, the first one first.
        constraints: Of the study.
    """
    for known in costs:
        if known.unserved is not None:
            return "target", f"target {known.target} cannot run it: {known.unserved}"
    violation = violated(costs, constraints)
    return None if violation is None else ("constraint", violation)


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
        value = getattr(on_target, constraint.metric)
        if value is None:
            return f"{constraint.metric} cannot be measured on {name}"
        if constraint.max is not None and value > constraint.max:
            return f"{constraint.metric} {value:.4g} is above max {constraint.max:g} on {name}"
        if constraint.min is not None and value < constraint.min:
            return f"{constraint.metric} {value:.4g} is below min {constraint.min:g} on {name}"
    return None
