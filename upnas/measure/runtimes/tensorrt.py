"""TensorRT, through ONNX Runtime's provider for it."""

from __future__ import annotations

import contextlib
import importlib

from typing_extensions import override

from upnas.measure.runtimes.onnx_runtime import OnnxRuntime, Provider
from upnas.records import Target


class TensorRt(OnnxRuntime):
    """The network as an ONNX program, built by TensorRT; on CUDA itself what TensorRT has not."""

    name = "tensorrt"

    @override
    def providers(self, target: Target) -> list[Provider]:
        # The package keeps TensorRT's libraries where only its own import finds them; where they
        # are installed for the whole system, there is no need for it.
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorrt")
        half = "1" if target.dtype == "float16" else "0"
        return [
            ("TensorrtExecutionProvider", {"trt_fp16_enable": half}),
            ("CUDAExecutionProvider", {}),
        ]
