"""Whether a network can leave Python: torch.export, and ONNX through the same graph.

A format counts as working only if the exported program runs and returns the same numbers as the
network on a random input. Probed with a fixed input size.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from upnas.errors import TargetError, suggest_name

#: The formats, and what each needs beyond the installed dependencies.
NEEDED_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"torch_export": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
)
#: Largest accepted difference between exported program and network, absolute and relative.
TOLERANCE: Final = 1e-4


def probe_export(model: nn.Module, example_shape: Sequence[int], format: str) -> str:
    """Export a network, run the result and compare.

    Args:
        model: The network; exported in eval mode, from a copy on the CPU.
        example_shape: (B, C, H, W).
        format: ``"torch_export"`` (``torch.export``) or ``"onnx"`` (``torch.onnx.export`` with
            ``dynamo=True``, run by ONNX Runtime on the CPU).

    Returns:
        ``"ok"``, or in one line why it does not work.

    Raises:
        TargetError: If the format is unknown, or packages that it needs are not installed.
    """
    check_export(format)
    model = copy.deepcopy(model).cpu().eval()
    x = torch.randn(tuple(example_shape), generator=torch.Generator().manual_seed(0))
    with _quiet(), torch.no_grad():
        expected = model(x)
        try:
            actual = _EXPORTERS[format](model, x)
        except Exception as error:  # whatever an exporter raises is the answer
            return _reason(error)
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


def _reason(error: BaseException) -> str:
    """The first line of the root cause: what wraps it says only which step failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    name, lines = type(error).__name__, str(error).strip().splitlines()
    return f"{name}: {lines[0][:200]}" if lines else name


def _run_torch_export(model: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = torch.export.export(model, (x,)).module()(x)
    return output


def _run_onnx(model: nn.Module, x: Tensor) -> Tensor:
    onnxruntime = importlib.import_module("onnxruntime")  # optional, and without types
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None  # with dynamo=True it always returns one
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(output)


_EXPORTERS: Final[Mapping[str, Callable[[nn.Module, Tensor], Tensor]]] = MappingProxyType(
    {"torch_export": _run_torch_export, "onnx": _run_onnx}
)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress, warnings and log lines to themselves; process-wide."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(disabled)
