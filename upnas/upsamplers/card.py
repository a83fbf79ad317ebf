"""What a person should know before choosing an upsampler, gathered from its class."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch

from upnas.upsamplers.base import CatalogueError, Upsampler
from upnas.upsamplers.catalogue import build_upsampler, find_upsampler, parameters_model
from upnas.upsamplers.contract import reason_of

#: The place in a network that the numbers of a card are for.
EXAMPLE_CHANNELS: Final = 64
EXAMPLE_SCALE: Final = 2


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that an upsampler declares of itself.

    Attributes:
        name: In the catalogue, or its place.
        summary: First line of its documentation.
        paper: Where it comes from; "" for the common knowledge of the field.
        formula: Its definition.
        parameters: Its searchable parameters with their defaults.
        pitfalls: What goes wrong with it.
        learned: It has weights.
        guide: What it reads beside its input.
        dims: Numbers of spatial axes.
        scales: Scale factors in words.
        keeps_channels: It cannot change the number of channels.
        keeps_constants: A constant map stays constant, whatever the weights.
        not_onnx: Why it does not export to ONNX; None: it does.
        nondeterministic: Why its gradient is not deterministic on CUDA; None: it is.
        params_formula: Number of parameters for the defaults.
        macs_formula: Multiply-accumulates per input pixel for the defaults.
        example_scale: ``EXAMPLE_SCALE``, or the smallest factor where that is not allowed.
        num_parameters: With ``EXAMPLE_CHANNELS`` in and out and factor ``example_scale``.
        macs_per_pixel: Likewise.
    """

    name: str
    summary: str
    paper: str
    formula: str
    parameters: tuple[tuple[str, Any], ...]
    pitfalls: tuple[str, ...]
    learned: bool
    guide: Literal["none", "skip", "image"]
    dims: tuple[int, ...]
    scales: str
    keeps_channels: bool
    keeps_constants: bool
    not_onnx: str | None
    nondeterministic: str | None
    params_formula: str
    macs_formula: str
    example_scale: int
    num_parameters: int
    macs_per_pixel: int


def card_of(name: str) -> Card:
    """Gather the card of an upsampler.

    Raises:
        CatalogueError: If the name is unknown, or the upsampler cannot work there.
    """
    kind = find_upsampler(name)
    scale = min(kind.scales) if kind.scales and EXAMPLE_SCALE not in kind.scales else EXAMPLE_SCALE
    place = {"scale_factor": scale, "spatial_dims": min(kind.dims)}
    try:
        with torch.device("meta"):  # the number of weights, not their values
            example = build_upsampler(name, EXAMPLE_CHANNELS, **place)
    except ValueError as error:
        where = f"{EXAMPLE_CHANNELS} channels, scale_factor={scale}"
        raise CatalogueError(f"{name!r} at {where} raised {reason_of(error)}.") from error
    num_parameters = sum(parameter.numel() for parameter in example.parameters())
    summary, *_ = inspect.cleandoc(kind.__doc__ or "").splitlines() or [""]
    return Card(
        name=name,
        summary=summary,
        paper=kind.paper,
        formula=kind.formula,
        parameters=tuple(parameters_model(name)().model_dump().items()),
        pitfalls=kind.pitfalls,
        learned=num_parameters > 0,
        guide=kind.guide_source if kind.guided else "none",
        dims=tuple(sorted(kind.dims)),
        scales=_scales(kind),
        keeps_channels=kind.keeps_channels,
        keeps_constants=kind.keeps_constants,
        not_onnx=kind.not_onnx,
        nondeterministic=kind.nondeterministic,
        params_formula=kind.params_formula,
        macs_formula=kind.macs_formula,
        example_scale=scale,
        num_parameters=num_parameters,
        macs_per_pixel=example.macs_per_pixel(),
    )


def _scales(kind: type[Upsampler]) -> str:
    if kind.scales is not None:
        return ", ".join(map(str, sorted(kind.scales)))
    numbers = "real >= 1" if kind.fractional else "integer >= 1"
    return f"{numbers}, per axis" if kind.per_axis else numbers
