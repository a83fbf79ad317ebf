"""Runs an ONNX network in a process of its own; started by ``process_memory``, never imported.

Imports neither torch nor upnas: whatever is imported here is in the number.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_NUM_FORWARDS = 5  # runtimes plan their memory in the first and reuse it from the second on


def _onnxruntime(path: str, threads: int) -> tuple[Any, Callable[[Any], object]]:
    """The input's dtype, and what runs one forward."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[entry.type]
    return dtype, lambda x: session.run(None, {entry.name: x})


def _openvino(path: str, threads: int) -> tuple[Any, Callable[[Any], object]]:
    """Likewise."""
    core = importlib.import_module("openvino").Core()
    model = core.read_model(path)
    dtype = model.input(0).get_element_type().to_dtype()
    # Else it computes float32 networks in bfloat16 where the processor can.
    precision = "f16" if dtype == np.float16 else "f32"
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    return dtype, core.compile_model(model, "CPU", settings)


_RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}


def _peak_rss_kib() -> int:
    """The most memory that this process has held.

    Not ``resource.getrusage``: its ``ru_maxrss`` survives the exec that started this program, and
    before that the process was a copy of its parent, as large as that one. The kernel starts
    ``VmHWM`` anew with every program.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


def _main(runtime: str, path: str, threads: str, *shape: str) -> None:
    dtype, forward = _RUNTIMES[runtime](path, int(threads))
    # The pages of an array of zeros would not be there before they are written.
    x = np.full([int(side) for side in shape], 0.5, dtype)
    for _ in range(_NUM_FORWARDS):
        forward(x)
    sys.stdout.write(json.dumps({"peak_rss_kib": _peak_rss_kib()}) + "\n")


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except Exception as error:  # whatever a runtime raises is the answer
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        sys.stdout.write(json.dumps({"error": reason}) + "\n")
