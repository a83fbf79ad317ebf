"""Costs without a study: candidates of a space, or any network, measured on one target."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from upnas.errors import SpaceError, TargetError, first_line
from upnas.measure.environment import describe_environment
from upnas.measure.export.probe import check_export
from upnas.measure.fingerprint import machine_fingerprint
from upnas.measure.gate import StudyGates
from upnas.measure.instrument import Instrument
from upnas.measure.reference import StandardReference
from upnas.measure.runtimes import random_input
from upnas.measure.stages.table import measure_stage_table
from upnas.measure.targets import check_target
from upnas.measure.timing.latency import LatencySettings, check_quiet
from upnas.models import build_model
from upnas.records import (
    OPTIONAL_COSTS,
    Candidate,
    Costs,
    Survey,
    SurveyEntry,
    Target,
)
from upnas.space import SearchSpace
from upnas.upsamplers import CatalogueError, collapse

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyOptions:
    """How a survey is made.

    Attributes:
        command: What the user typed, for the record.
        is_strict: Refuse while other programs use the device.
        export_formats: Formats to probe.
        optional: Which of ``OPTIONAL_COSTS`` to work out.
        predicts: Time every upsampler of the space at every stage as well.
        progress: Gets one line per network.
    """

    command: str
    is_strict: bool = False
    export_formats: Sequence[str] = ()
    optional: Sequence[str] = tuple(sorted(OPTIONAL_COSTS))
    predicts: bool = False
    progress: Progress = lambda _: None


def survey_candidates(
    space: SearchSpace,
    target: Target,
    candidates: Sequence[tuple[str, Candidate]],
    options: SurveyOptions,
) -> Survey:
    """Measure candidates of a space, in pairs with its all-bilinear network.

    Args:
        space: The search space.
        target: One of its targets.
        candidates: With their labels.
        options: See :class:`SurveyOptions`.

    Raises:
        SpaceError: If an upsampler cannot work at its stage, or has no such parameter.
        TargetError: If this machine cannot serve the target, or is busy where that is refused.
    """
    check_target(target)
    reference = dict(space.baselines())["all-bilinear"]
    first = space.targets[0].input  # decides what upsamplers that pick by resolution are

    def network(label: str, candidate: Candidate) -> nn.Module:
        try:
            model = build_model(candidate, space.task, load_pretrained=False)
        except (ValueError, CatalogueError) as error:
            raise SpaceError(f"{label}: {error}") from error
        return collapse(model, torch.zeros(1, *first)).eval()

    gates = StudyGates([target.device])
    with gates.shared():
        networks = [
            (label, candidate, network(label, candidate)) for label, candidate in candidates
        ]
        base = network("all-bilinear", reference)
    survey = _survey(base, "all-bilinear", target, networks, gates, options)
    if not options.predicts:
        return survey
    options.progress("timing every upsampler at every stage")
    table = measure_stage_table(
        space.task,
        [stage.options for stage in space.stages],
        reference,
        target,
        gates,
        deciding_input=first,
        machine=machine_fingerprint(target),
    )
    return survey.model_copy(update={"stage_table": table})


def survey_network(model: nn.Module, label: str, target: Target, options: SurveyOptions) -> Survey:
    """Measure any network that takes (batch, *target.input) and returns a tensor.

    Raises:
        TargetError: If the network does not do that, or this machine cannot serve the target, or is
            busy where that is refused.
    """
    check_target(target)
    gates = StudyGates([target.device])
    reference = StandardReference(target.input[0]).eval()
    networks = [(label, None, model.eval())]
    with gates.shared():
        _check_forward(model, label, target)
    return _survey(reference, "upnas standard", target, networks, gates, options)


def _survey(
    reference: nn.Module,
    reference_label: str,
    target: Target,
    networks: Sequence[tuple[str, Candidate | None, nn.Module]],
    gates: StudyGates,
    options: SurveyOptions,
) -> Survey:
    for format in options.export_formats:
        check_export(format)
    instrument = Instrument(reference, target)
    try:
        if options.is_strict:
            check_quiet(target)
        calm = instrument.time_reference(gates)
        entries = []
        for label, candidate, network in networks:
            costs = instrument.measure(
                network,
                calm,
                gates,
                export_formats=options.export_formats,
                optional=options.optional,
                settings=LatencySettings(is_strict=options.is_strict),
            )
            entries.append(SurveyEntry(label=label, candidate=candidate, costs=costs))
            options.progress(f"[{len(entries)}/{len(networks)}] {label}: {_outcome(costs)}")
    finally:
        instrument.close()
    return Survey(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=options.command,
        environment=describe_environment(Path.cwd()),
        target=target,
        reference=calm,
        reference_label=reference_label,
        entries=tuple(entries),
    )


def _check_forward(model: nn.Module, label: str, target: Target) -> None:
    """Run a stranger's network once as it is: what it raises then is no fault of the target."""
    exact = copy.deepcopy(model).float().cpu()
    try:
        with torch.inference_mode():
            output = exact(random_input(target.input_shape))
    except Exception as error:
        raise TargetError(
            f"{label} does not run on an input of {target.input_shape}: {first_line(error)}. "
            "Give it the input that it takes."
        ) from error
    if not isinstance(output, torch.Tensor):
        raise TargetError(
            f"{label} returned {type(output).__name__}, and a tensor was expected. Wrap it in a "
            "module whose forward returns the tensor that counts."
        )


def _outcome(costs: Costs) -> str:
    if costs.latency is None:
        return costs.unserved or "not measured"
    return f"{costs.latency.median_ms:.4g} ms, {costs.latency.verdict}"
