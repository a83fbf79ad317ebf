"""Resident memory of a fresh process, on ONNX programs of known size."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from upnas.errors import TargetError
from upnas.measure.memory import process as process_memory
from upnas.measure.memory.process import ProcessRuntime, process_peak_rss_mib

pytest.importorskip("onnx", reason="needs onnx (pip install upnas[onnx])")
from onnx import TensorProto, helper, numpy_helper

RUNTIMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}"),
    )
    for name in ("onnxruntime", "openvino")
]
SMALL = (1, 1, 8, 8)


def program(
    shape: tuple[int, ...], weights_mib: int = 0, element: int = TensorProto.FLOAT
) -> bytes:
    """Multiply the input with the sum of random weights."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weights = np.random.default_rng(0).random(1 + weights_mib * 2**20 // dtype.itemsize)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["weights"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["x", "sum"], ["y"]),
        ],
        "program",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
        [numpy_helper.from_array(weights.astype(dtype), "weights")],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_and_activations_are_in_the_peak(runtime: ProcessRuntime) -> None:
    small = process_peak_rss_mib(program(SMALL), SMALL, 1, runtime)
    heavy = process_peak_rss_mib(program(SMALL, weights_mib=64), SMALL, 1, runtime)
    wide_shape = (1, 1, 4096, 4096)  # 64 MiB
    wide = process_peak_rss_mib(program(wide_shape), wide_shape, 1, runtime)
    assert 20 < small < 300  # an interpreter, NumPy and the runtime; no torch
    assert heavy > small + 64
    assert wide > small + 2 * 60  # input and output


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_networks_in_half_precision_get_inputs_of_it(runtime: ProcessRuntime) -> None:
    small = process_peak_rss_mib(program(SMALL), SMALL, 1, runtime)
    shape = (1, 1, 4096, 4096)  # 32 MiB
    half = process_peak_rss_mib(program(shape, element=TensorProto.FLOAT16), shape, 1, runtime)
    assert half > small + 2 * 30


def test_a_fat_parent_is_not_in_the_peak() -> None:
    small = process_peak_rss_mib(program(SMALL), SMALL, 1)
    ballast = bytearray(b"x" * (256 * 2**20))
    assert process_peak_rss_mib(program(SMALL), SMALL, 1) < small + 32
    # The figure that would have had it.
    code = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) * 1024 > len(ballast)


def test_the_process_imports_neither_torch_nor_upnas(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(program(SMALL))
    child = process_memory._CHILD
    code = f"""
import json, runpy, sys
sys.argv = ["child", "onnxruntime", {str(path)!r}, "1", "1", "1", "8", "8"]
runpy.run_path({str(child)!r}, run_name="__main__")
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    result, modules = map(json.loads, done.stdout.splitlines())
    assert result["peak_rss_kib"] > 0
    assert {"numpy", "onnxruntime"} <= set(modules)
    assert not {"torch", "upnas"} & set(modules)


def test_what_a_runtime_says_of_a_network_that_it_cannot_run() -> None:
    with pytest.raises(TargetError, match=r"^onnxruntime cannot run the network: \w+: .*network"):
        process_peak_rss_mib(b"no program", SMALL, 1)


def test_another_shape_than_the_programs_is_named() -> None:
    with pytest.raises(TargetError, match="onnxruntime cannot run the network: InvalidArgument"):
        process_peak_rss_mib(program(SMALL), (1, 1, 4, 4), 1)


def test_a_process_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(TargetError, match=r"still running after 0\.01 s and was stopped"):
        process_peak_rss_mib(program(SMALL), SMALL, 1, timeout_s=0.01)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"was killed by SIGKILL \(out of memory\?\)\."),
        ("import os; os.abort()", r"was killed by SIGABRT\."),
        ("raise SystemExit('no arena')", "ended with exit status 1: no arena"),
        ("", "ended with exit status 0: no message"),
        ("print('hello')", "ended with exit status 0: no message"),
    ],
    ids=["killed", "aborted", "failed", "silent", "talkative"],
)
def test_a_process_that_dies_says_how(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text(code)
    monkeypatch.setattr(process_memory, "_CHILD", child)
    with pytest.raises(TargetError, match=f"with onnxruntime {message}"):
        process_peak_rss_mib(program(SMALL), SMALL, 1)


def test_what_a_runtime_prints_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text("print('hello'); print('{\"peak_rss_kib\": 2048}'); print('bye')")
    monkeypatch.setattr(process_memory, "_CHILD", child)
    assert process_peak_rss_mib(program(SMALL), SMALL, 1) == 2.0


def test_a_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"needs openvino, .*pip install 'upnas\[openvino\]'"):
        process_peak_rss_mib(b"", SMALL, 1, "openvino")


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(TargetError, match=r"'opencv'\. Did you mean 'openvino'\?.*onnxruntime"):
        process_memory.check_process_runtime("opencv")


def test_systems_without_proc_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_memory, "_STATUS", tmp_path / "status")
    with pytest.raises(TargetError, match="which only Linux has"):
        process_peak_rss_mib(b"", SMALL, 1)
