"""OpenVINO on the CPU, from the network as an ONNX program."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from upnas.measure.export.onnx import export_onnx
from upnas.measure.runtimes.base import ExportedSession, Runtime, Session, random_input
from upnas.measure.runtimes.eager import plain
from upnas.records import DType, Target

_DEVICE: Final = "CPU"
# dtype -> what OpenVINO calls it as a hint, and among the capabilities of the processor.
_PRECISIONS: Final[Mapping[DType, tuple[str, str]]] = MappingProxyType(
    {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16"), "float16": ("f16", "FP16")}
)


class OpenVinoSession(ExportedSession):
    """An inference request with its input.

    Args:
        program: The serialized ONNX model, in float32.
        x: The input, float32 on the CPU.
        target: Threads, and the dtype that OpenVINO computes in.
    """

    def __init__(self, program: bytes, x: Tensor, target: Target):
        super().__init__(program)
        ov, core = _openvino()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": target.threads,
            "INFERENCE_PRECISION_HINT": _PRECISIONS[target.dtype][0],
            # Every process would choose the same processors.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core.compile_model(core.read_model(program), _DEVICE, options)
        self._x = x.numpy()  # shared with the request
        self._request = compiled.create_infer_request()
        self._request.set_input_tensor(ov.Tensor(self._x, shared_memory=True))

    @override
    def run(self) -> object:
        return self._request.infer(share_outputs=True)

    @override
    def output(self) -> Tensor:
        self.run()
        return plain(torch.from_numpy(self._request.get_output_tensor().data))


class OpenVino(Runtime):
    """OpenVINO's CPU plugin. Input and output are float32 whatever it computes in."""

    name = "openvino"
    packages = ("onnx", "onnxscript", "openvino")
    install = "pip install 'upnas[openvino]'"

    @override
    def missing(self, target: Target) -> str | None:
        return super().missing(target) or _dtype_fault(target.dtype)

    @contextmanager
    @override
    def session(self, model: nn.Module, target: Target) -> Iterator[Session]:
        x = random_input(target.input_shape)
        program = export_onnx(copy.deepcopy(model).to("cpu", torch.float32).eval(), x)
        yield OpenVinoSession(program, x, target)


def _dtype_fault(dtype: DType) -> str | None:
    """Why the processor has no such dtype. OpenVINO would silently take another."""
    _, core = _openvino()
    capabilities = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    if _PRECISIONS[dtype][1] in capabilities:
        return None
    served = [name for name, (_, word) in _PRECISIONS.items() if word in capabilities]
    return (
        f"runtime 'openvino' has no {dtype} on this processor. "
        f"Set `dtype` to {' or '.join(served)}, or choose another runtime."
    )


@cache
def _openvino() -> tuple[Any, Any]:
    """The package and its core, imported so that nothing is sent anywhere.

    Its import, and every conversion, is reported to its maker through openvino_telemetry; where
    that package cannot be imported, openvino takes a stand-in that does nothing.
    """
    name = "openvino_telemetry"
    hidden = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        ov = importlib.import_module("openvino")
    finally:
        del sys.modules[name]
        if hidden is not None:
            sys.modules[name] = hidden
    return ov, ov.Core()
