"""Everything that a candidate costs on one target, in one record."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from upnas.errors import TargetError
from upnas.measure.environment import available_cpus
from upnas.measure.export import probe_export
from upnas.measure.gate import DeviceGate
from upnas.measure.latency import DEFAULT_SETTINGS, LatencySettings, measure_latency
from upnas.measure.memory import num_parameters, peak_memory_bytes
from upnas.records import Costs, Target


def measure_costs(
    model: nn.Module,
    target: Target,
    *,
    reference: nn.Module,
    reference_ms: float,
    gate: DeviceGate,
    export_formats: Sequence[str] = (),
    settings: LatencySettings = DEFAULT_SETTINGS,
) -> Costs:
    """Measure latency, peak memory, parameters and exportability of a network.

    Works on copies in eval mode: neither network is changed, and they may lie on any device. The
    gate is held while the copies are timed, and not longer.

    Args:
        model: The candidate; takes (batch, *target.input).
        target: Where to measure.
        reference: The study's reference network; same input.
        reference_ms: Its own time on this target (see ``measure_reference``).
        gate: The gate of the target's device.
        export_formats: Formats to probe: ``"torch_export"``, ``"onnx"``.
        settings: Precision and effort of the latency.

    Raises:
        TargetError: If this machine cannot serve the target or probe a format.
    """
    check_target(target)
    input_shape = (target.batch, *target.input)
    exportable = {name: probe_export(model, input_shape, name) for name in export_formats}
    peak_bytes = peak_memory_bytes(model, input_shape)
    candidate, reference = (
        copy.deepcopy(network).to(target.device).eval() for network in (model, reference)
    )
    with gate.exclusive():
        latency = measure_latency(
            candidate, reference, target, reference_ms=reference_ms, settings=settings
        )
    return Costs(
        target=target.name,
        latency=latency,
        peak_memory_mib=peak_bytes / 2**20,
        num_parameters=num_parameters(model),
        exportable=tuple(exportable.items()),
    )


def check_target(target: Target) -> None:
    """Raise a TargetError if this machine cannot serve the target, saying what is missing."""
    if target.device == "cuda" and not torch.cuda.is_available():
        reason = (
            "this torch has no CUDA support"
            if torch.version.cuda is None
            else f"torch, built for CUDA {torch.version.cuda}, finds no usable GPU"
        )
        raise TargetError(
            f"Target {target.name!r}: device 'cuda' is not available: {reason} (torch "
            f"{torch.__version__}). Set `device: cpu`, or run on a machine with a CUDA GPU and "
            "its driver."
        )
    if target.threads > (cpus := available_cpus()):
        raise TargetError(
            f"Target {target.name!r}: threads: {target.threads}, but this process may use {cpus} "
            f"processor{'' if cpus == 1 else 's'} only. Set `threads` to 1..{cpus}."
        )
