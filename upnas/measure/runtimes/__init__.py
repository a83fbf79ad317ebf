"""What runs a network on a target: torch itself, its compilers, exported programs.

A new runtime is one file with a subclass of :class:`~upnas.measure.runtimes.base.Runtime`, one line
in :data:`RUNTIMES`, and in ``upnas.records`` one word in ``RuntimeName`` with its dtypes in
``RUNTIME_DTYPES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from upnas.measure.runtimes.base import ExportedSession, Runtime, Session, random_input
from upnas.measure.runtimes.compiled import Compiled
from upnas.measure.runtimes.cuda_graph import CudaGraph
from upnas.measure.runtimes.eager import Eager
from upnas.measure.runtimes.onnx_runtime import OnnxRuntime
from upnas.measure.runtimes.openvino import OpenVino
from upnas.measure.runtimes.tensorrt import TensorRt
from upnas.records import RuntimeName

RUNTIMES: Final[Mapping[RuntimeName, Runtime]] = MappingProxyType(
    {
        runtime.name: runtime
        for runtime in (
            Eager(),
            Compiled(),
            CudaGraph(),
            OnnxRuntime(),
            OpenVino(),
            TensorRt(),
        )
    }
)

__all__ = ["RUNTIMES", "ExportedSession", "Runtime", "Session", "random_input"]
