"""What takes a network out of Python, and runs what came out of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from upnas.measure.export.onnx import export_onnx


def _torch_export(model: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = torch.export.export(model, (x,)).module()(x)
    return output


def _onnx(model: nn.Module, x: Tensor) -> Tensor:
    onnxruntime = importlib.import_module("onnxruntime")  # optional, and without types
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(
        export_onnx(model, x), options, providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(output)


def _compile(model: nn.Module, x: Tensor) -> Tensor:
    def forward(x: Tensor) -> Tensor:
        result: Tensor = model(x)
        return result

    # Dynamo counts compilations by code object, and refuses the ninth: each probe has its own.
    forward.__code__ = forward.__code__.replace()
    # Graph breaks would be compiled around, and other failures run as if they were none.
    with torch._dynamo.config.patch(suppress_errors=False):
        return torch.compile(forward, fullgraph=True, backend="aot_eager", dynamic=False)(x)


#: Format -> what exports a network in eval mode for an input on the CPU, and returns its output.
EXPORTERS: Final[Mapping[str, Callable[[nn.Module, Tensor], Tensor]]] = MappingProxyType(
    {"torch_export": _torch_export, "onnx": _onnx, "compile": _compile}
)


def reason(error: BaseException) -> str:
    """One line about the root cause: what wraps it says only which step failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    first, second = lines[0], next(iter(lines[1:]), "")
    if second.startswith("Explanation: "):  # Dynamo's first line is only the kind of graph break
        first = f"{first}: {second.removeprefix('Explanation: ')}"
    return f"{type(error).__name__}: {first[:200]}"
