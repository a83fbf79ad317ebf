"""Whether a network can leave Python: torch.export, ONNX, and torch.compile in one graph.

A format counts as working ("ok") only if what came out of it runs, and returns the same numbers as
the network on a random input:

* ``torch_export``: ``torch.export`` makes a program of the network.
* ``onnx``: ``torch.onnx.export`` makes an ONNX model of that program, and ONNX Runtime runs it.
* ``compile``: ``torch.compile`` captures the forward in one graph, without graph breaks, and
  backend "aot_eager" runs that graph. Nothing is said about the code that another backend makes.

Probed: the forward in eval mode and without gradients, in float32, on the CPU, with one fixed input
size. Not probed: training, and symbolic sizes.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Hashable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from upnas.errors import TargetError, suggest_name
from upnas.measure.export.exporters import EXPORTERS, reason
from upnas.measure.export.families import family
from upnas.measure.export.onnx import quiet
from upnas.measure.runtimes import random_input
from upnas.measure.stages.places import OfOneInput
from upnas.upsamplers import Upsampler

#: The formats, and what each needs beyond the installed dependencies.
NEEDED_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"torch_export": (), "onnx": ("onnx", "onnxscript", "onnxruntime"), "compile": ()}
)
#: Largest accepted difference between exported program and network, absolute and relative.
TOLERANCE: Final = 1e-4

# What came of the probes of this process, by family and format.
_outcomes: dict[tuple[Hashable, str], str] = {}


def probe_candidate(
    model: nn.Module,
    input_shape: Sequence[int],
    formats: Sequence[str],
    *,
    reference: nn.Module,
) -> dict[str, str]:
    """Say whether a candidate exports, from probes of its parts.

    Each upsampler is probed alone, with the input (and guide) that it gets in the network, and the
    network around them as the reference. Both happen once per family (see :func:`family`) and
    format in this process, whatever the spatial size: a candidate of known families costs
    nothing. What a decoder does for some upsamplers only, such as averaging the image down to a
    guide, is in neither.

    A network without upsamplers, or another one around them than the reference's, is probed whole,
    every time.

    Args:
        model: The candidate that would ship: collapsed; left as it is, wherever it lies.
        input_shape: (B, C, H, W).
        formats: See :data:`NEEDED_PACKAGES`.
        reference: The study's reference network; takes the same input.

    Returns:
        For each format "ok", or why not: ``"stage 2 (DySample): reason"``, for the first stage in
        the order of execution (1 is the deepest), or ``"the network itself: reason"``.

    Raises:
        TargetError: If a format is unknown, or packages that it needs are not installed.
    """
    for format in formats:
        check_export(format)
    if not formats:
        return {}
    upsamplers = list(_outermost(model))
    around, of_reference = (family(net, without=(Upsampler,)) for net in (model, reference))
    if not upsamplers or around != of_reference:
        return {
            format: _blame("the network itself", probe_export(model, input_shape, format))
            for format in formats
        }
    families = [family(upsampler) for upsampler in upsamplers]
    is_known = all(_outcomes.get((known, f)) == "ok" for known in families for f in formats)
    stages = [] if is_known else _find_stages(model, input_shape)
    return {format: _outcome(stages, reference, input_shape, format) for format in formats}


def probe_export(model: nn.Module, example_shape: Sequence[int], format: str) -> str:
    """Export a network, run the result and compare.

    Args:
        model: The network; exported in eval mode, from a copy on the CPU.
        example_shape: (B, C, H, W).
        format: One of :data:`NEEDED_PACKAGES`.

    Returns:
        ``"ok"``, or in one line why it does not work.

    Raises:
        TargetError: If the format is unknown, or packages that it needs are not installed.
        MemoryError: If memory ran out, which says nothing about the network.
        torch.OutOfMemoryError: Likewise.
    """
    check_export(format)
    model = copy.deepcopy(model).cpu().eval()
    x = random_input(example_shape)
    with quiet(), torch.no_grad():
        expected = model(x)
        try:
            actual = EXPORTERS[format](model, x)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever an exporter raises is the answer
            return reason(error)
    if actual.shape != expected.shape:
        return f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    if not torch.allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE):
        return f"differs from the network by {(actual - expected).abs().max().item():.2g}"
    return "ok"


def check_export(format: str) -> None:
    """Raise a TargetError if this installation cannot probe a format, saying what is missing."""
    if format not in NEEDED_PACKAGES:
        raise TargetError(
            f"Unknown export format {format!r}.{suggest_name(format, NEEDED_PACKAGES)} "
            f"Available: {', '.join(NEEDED_PACKAGES)}."
        )
    missing = [name for name in NEEDED_PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise TargetError(
            f"Export format {format!r} needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed. "
            f"Run `pip install upnas[onnx]`, or leave {format!r} out of `exportable`."
        )


class _Stage(NamedTuple):
    """An upsampler, and what it was given in the network."""

    number: int
    upsampler: Upsampler
    shape: tuple[int, ...]
    size: tuple[int, int] | None

    def __str__(self) -> str:
        return f"stage {self.number} ({type(self.upsampler).__name__})"


def _outcome(
    stages: Sequence[_Stage], reference: nn.Module, input_shape: Sequence[int], format: str
) -> str:
    """The outcome of the first part that has another one than "ok"."""
    for stage in stages:
        alone = OfOneInput(stage.upsampler, stage.shape, stage.size)
        outcome = _once(family(stage.upsampler), alone, stage.shape, format)
        if outcome != "ok":
            return _blame(str(stage), outcome)
    outcome = _once(family(reference), reference, input_shape, format)
    return _blame("the network itself", outcome)


def _once(key: Hashable, module: nn.Module, shape: Sequence[int], format: str) -> str:
    if (key, format) not in _outcomes:
        _outcomes[key, format] = probe_export(module, shape, format)
    return _outcomes[key, format]


def _blame(part: str, outcome: str) -> str:
    return outcome if outcome == "ok" else f"{part}: {outcome}"


def _find_stages(model: nn.Module, input_shape: Sequence[int]) -> list[_Stage]:
    """The upsamplers of a copy of the network, in the order in which they run.

    Those that the decoder leaves out (deferred) have numbers, but are not in the list.
    """
    model = copy.deepcopy(model).cpu().eval()
    upsamplers = list(_outermost(model))
    stages: dict[Upsampler, _Stage] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, Upsampler)
        if module in stages:
            return
        before = upsamplers[: upsamplers.index(module)]
        number = 1 + len(stages) + sum(upsampler.deferred for upsampler in before)
        x: Tensor = args[0] if args else kwargs["x"]
        size = args[1] if len(args) > 1 else kwargs.get("size")
        stages[module] = _Stage(number, module, tuple(x.shape), size)

    hooks = [u.register_forward_pre_hook(note, with_kwargs=True) for u in upsamplers]
    with torch.no_grad():
        model(random_input(input_shape))
    for hook in hooks:
        hook.remove()
    return list(stages.values())


def _outermost(module: nn.Module) -> Iterator[Upsampler]:
    """The upsamplers that are no part of another one."""
    for child in module.children():
        if isinstance(child, Upsampler):
            yield child
        else:
            yield from _outermost(child)
