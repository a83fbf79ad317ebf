"""ONNX Runtime, on the CPU and on CUDA."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from upnas.measure.export.onnx import export_onnx
from upnas.measure.runtimes.base import DTYPES, ExportedSession, Runtime, Session, random_input
from upnas.measure.runtimes.eager import plain
from upnas.records import RuntimeName, Target

# A provider of ONNX Runtime and its options.
Provider = tuple[str, dict[str, str]]
_ERRORS_ONLY: Final = 3


class OnnxSession(ExportedSession):
    """A session of ONNX Runtime whose input and output stay on the device.

    Args:
        program: The serialized ONNX model.
        x: The input, on the CPU, in the program's dtype.
        target: Device and threads.
        providers: In the order in which they may take parts of the program.

    Raises:
        RuntimeError: If the first provider cannot be loaded.
    """

    def __init__(self, program: bytes, x: Tensor, target: Target, providers: list[Provider]):
        super().__init__(program)
        # On a GPU the work is on a stream of ONNX Runtime, and a run returns when it has ended.
        self.runs_on_caller = target.device == "cpu"
        self._session = _load(program, providers, target.threads)
        device_id = 0 if target.device == "cpu" else torch.cuda.current_device()
        runtime = importlib.import_module("onnxruntime")
        self._input = runtime.OrtValue.ortvalue_from_numpy(x.numpy(), target.device, device_id)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._session.get_inputs()[0].name, self._input)
        output = self._session.get_outputs()[0].name
        self._binding.bind_output(output, target.device, device_id)

    @override
    def run(self) -> object:
        self._session.run_with_iobinding(self._binding)
        return None

    @override
    def output(self) -> Tensor:
        self.run()
        return plain(torch.from_numpy(self._binding.copy_outputs_to_cpu()[0]))


class OnnxRuntime(Runtime):
    """The network as an ONNX program, run by ONNX Runtime."""

    name: ClassVar[RuntimeName] = "onnxruntime"
    packages = ("onnx", "onnxscript", "onnxruntime")
    install = "pip install 'upnas[onnx]'"

    @override
    def missing(self, target: Target) -> str | None:
        return super().missing(target) or _provider_fault(self.providers(target)[0][0])

    def providers(self, target: Target) -> list[Provider]:
        """What runs the program; the first takes all that it can."""
        name = "CUDAExecutionProvider" if target.device == "cuda" else "CPUExecutionProvider"
        return [(name, {})]

    @contextmanager
    @override
    def session(self, model: nn.Module, target: Target) -> Iterator[Session]:
        dtype = DTYPES[target.dtype]
        x = random_input(target.input_shape).to(dtype)
        program = export_onnx(copy.deepcopy(model).to("cpu", dtype).eval(), x)
        yield OnnxSession(program, x, target, self.providers(target))


def _load(program: bytes, providers: list[Provider], threads: int) -> Any:
    """Make an ``onnxruntime.InferenceSession``.

    Raises:
        RuntimeError: If the first provider cannot be loaded; ONNX Runtime would use another.
    """
    runtime = importlib.import_module("onnxruntime")  # optional, and without types
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes processor time, from itself and from others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(program, options, providers=providers, enable_fallback=0)
    if (first := providers[0][0]) not in session.get_providers():
        raise RuntimeError(f"ONNX Runtime {runtime.__version__} cannot load its {first}")
    return session


@cache
def _provider_fault(name: str) -> str | None:
    """What keeps ONNX Runtime from using a provider. Loads it where there is a GPU."""
    runtime = importlib.import_module("onnxruntime")
    available = runtime.get_available_providers()
    if name not in available:
        return (
            f"the installed onnxruntime {runtime.__version__} has no {name}, only "
            f"{', '.join(available)}. Run `pip uninstall onnxruntime` and `pip install "
            "onnxruntime-gpu`, or choose another runtime."
        )
    if name == "CPUExecutionProvider" or not torch.cuda.is_available():
        return None
    try:
        _load(export_onnx(nn.ReLU(), torch.zeros(1, 1, 2, 2)), [(name, {})], 1)
    except Exception as error:  # of its libraries, by any name
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return (
            f"{reason}. Install the libraries of CUDA, cuDNN or "
            "TensorRT that this onnxruntime was built for, or choose another runtime."
        )
    return None
