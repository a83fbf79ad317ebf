"""Peak resident memory of a process that runs an exported network.

Runtimes such as ONNX Runtime own their memory, and tensors of torch say nothing about it. So a
fresh process, without torch, loads the network from a file, runs some forwards and reports its
high-water mark (``VmHWM``). That is the whole process: the Python interpreter, NumPy and the
runtime's own code, the weights (often twice while loading), arenas and scratch memory. It is what
a deployment in Python pays, and it is not comparable with ``peak_memory_mib``. It repeats to a
fraction of a MiB with one thread.

Half precision does not always save: on a CPU, ONNX Runtime computes many operators in float32 and
keeps their inputs in both.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from upnas.errors import TargetError, suggest_name

ProcessRuntime = Literal["onnxruntime", "openvino"]

#: The runtimes, and what installs each.
INSTALL: Final = MappingProxyType(
    {
        "onnxruntime": "pip install 'upnas[onnx]'",
        "openvino": "pip install 'upnas[openvino]'",
    }
)
_CHILD: Final = Path(__file__).with_name("process_child.py")
_STATUS: Final = Path("/proc/self/status")


def process_peak_rss_mib(
    onnx_model: bytes,
    input_shape: Sequence[int],
    threads: int,
    runtime: ProcessRuntime = "onnxruntime",
    *,
    timeout_s: float = 120.0,
) -> float:
    """Return the high-water mark of a fresh process that loads and runs a network, in MiB.

    Takes a second or two; hold the device's gate in shared mode.

    Args:
        onnx_model: The exported network; its only input is float32 or float16.
        input_shape: (B, C, H, W).
        threads: Compute threads of the runtime.
        runtime: On the CPU in either case.
        timeout_s: After which the process is killed.

    Raises:
        TargetError: If the runtime is unknown or not installed, cannot run the network, takes too
            long or is killed, or the system does not tell how much memory a process takes.
    """
    check_process_runtime(runtime)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(onnx_model)
        sides = [str(side) for side in input_shape]
        # -P: the folder of the script is not searched for the modules that it imports.
        command = [sys.executable, "-P", str(_CHILD), runtime, str(path), str(threads), *sides]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise TargetError(
                f"A process that runs the network with {runtime} was still running after "
                f"{timeout_s:g} s and was stopped. Choose a smaller input."
            ) from None
    return _read_result(done, runtime)


def check_process_runtime(runtime: str) -> None:
    """Raise a TargetError if the memory of a runtime's process cannot be measured here."""
    if runtime not in INSTALL:
        raise TargetError(
            f"Unknown runtime {runtime!r}.{suggest_name(runtime, INSTALL)} The memory of a process "
            f"is measured with: {', '.join(INSTALL)}."
        )
    if importlib.util.find_spec(runtime) is None:
        raise TargetError(
            f"process_peak_rss_mib needs {runtime}, which is not installed. "
            f"Run `{INSTALL[runtime]}`."
        )
    if not _STATUS.exists():
        raise TargetError(
            f"process_peak_rss_mib needs {_STATUS}, which only Linux has. Leave it out here."
        )


def _read_result(done: subprocess.CompletedProcess[str], runtime: str) -> float:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        raise TargetError(
            f"A process that ran the network with {runtime} was killed by {name}{hint}."
        )
    # A runtime may print, too.
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode > 0 or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TargetError(
            f"A process that ran the network with {runtime} ended with exit status "
            f"{done.returncode}: {last[:200]}"
        )
    result = json.loads(lines[-1])
    if "error" in result:
        raise TargetError(f"{runtime} cannot run the network: {result['error']}")
    return float(result["peak_rss_kib"]) / 1024
