"""ONNX Runtime, OpenVINO and TensorRT: programs, options, and what is missing."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from upnas.measure.export.numerics import output_error
from upnas.measure.export.onnx import export_onnx
from upnas.measure.runtimes import RUNTIMES, ExportedSession, onnx_runtime
from upnas.measure.runtimes import openvino as openvino_module
from upnas.measure.runtimes.base import random_input
from upnas.measure.runtimes.onnx_runtime import OnnxSession
from upnas.records import Target

from .runtime_helpers import (
    ODD,
    TOLERANCES,
    convolutions,
    decoder,
    eager_output,
    skip_if_missing,
)


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in names else real(name)
    )


@pytest.mark.parametrize(
    ("target", "package", "command"),
    [
        (Target(name="a", runtime="onnxruntime"), "onnxruntime", "pip install 'upnas[onnx]'"),
        (Target(name="a", runtime="openvino"), "openvino", "pip install 'upnas[openvino]'"),
        (Target(name="a", runtime="compile", device="cuda"), "triton", "pip install triton"),
    ],
    ids=lambda value: value.runtime if isinstance(value, Target) else None,
)
def test_a_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, target: Target, package: str, command: str
) -> None:
    hide(monkeypatch, package)
    missing = str(RUNTIMES[target.runtime].missing(target))
    assert f"needs {package}, which is not installed" in missing
    assert f"`{command}`" in missing


@pytest.fixture
def _onnx() -> None:
    skip_if_missing(Target(name="a", runtime="onnxruntime"))


@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_program_of_a_session_is_an_onnx_model(runtime: Any) -> None:
    target = Target(name="a", input=ODD, batch=2, runtime=runtime)
    skip_if_missing(target)
    with RUNTIMES[runtime].session(convolutions(), target) as session:
        assert isinstance(session, ExportedSession)
        model = importlib.import_module("onnx").load_from_string(session.program)
    (x,) = model.graph.input
    assert [side.dim_value for side in x.type.tensor_type.shape.dim] == [2, *ODD]
    assert {tuple(weights.dims) for weights in model.graph.initializer} == {(4, 3, 3, 3), (4,)}


@pytest.mark.usefixtures("_onnx")
def test_onnx_runtime_has_the_targets_threads_which_do_not_spin() -> None:
    target = Target(name="a", input=ODD, threads=2, runtime="onnxruntime")
    with RUNTIMES["onnxruntime"].session(convolutions(), target) as session:
        assert isinstance(session, OnnxSession)
        options = session._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.usefixtures("_onnx")
def test_a_network_without_an_onnx_program() -> None:
    class Eigenvalues(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values: Tensor = torch.linalg.eigvalsh(x + x.mT)
            return values

    target = Target(name="a", input=(3, 8, 8), runtime="onnxruntime")
    with (
        pytest.raises(Exception, match="ONNX"),
        RUNTIMES["onnxruntime"].session(Eigenvalues(), target),
    ):
        pass


@pytest.mark.usefixtures("_onnx")
def test_programs_in_half_precision_keep_their_numbers() -> None:
    # As for CUDA; here ONNX Runtime computes them on the CPU.
    target = Target(name="a", input=ODD)
    model, x = decoder(), random_input(target.input_shape)
    program = export_onnx(copy.deepcopy(model).half(), x.half())
    session = OnnxSession(program, x.half(), target, [("CPUExecutionProvider", {})])
    output = session.output()
    assert output.dtype == torch.float32
    assert output_error(output, eager_output(model, target)) < TOLERANCES["float16"]


@pytest.mark.usefixtures("_onnx")
def test_a_provider_that_cannot_be_loaded_is_not_replaced_by_another() -> None:
    runtime = importlib.import_module("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    x = torch.zeros(1, 3, 4, 4)
    program = export_onnx(convolutions(), x)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(RuntimeError, match="cannot load its CUDAExecutionProvider"),
    ):
        OnnxSession(program, x, Target(name="a"), [("CUDAExecutionProvider", {})])


@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize(
    ("runtime", "provider"),
    [("onnxruntime", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")],
)
def test_an_onnx_runtime_without_the_provider(
    monkeypatch: pytest.MonkeyPatch, runtime: Any, provider: str
) -> None:
    target = Target(name="a", device="cuda", runtime=runtime)
    onnxruntime = importlib.import_module("onnxruntime")
    onnx_runtime._provider_fault.cache_clear()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    missing = str(RUNTIMES[runtime].missing(target))
    assert f"has no {provider}, only CPUExecutionProvider" in missing
    assert "`pip install onnxruntime-gpu`" in missing
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    onnx_runtime._provider_fault.cache_clear()
    if not torch.cuda.is_available():  # else it would be loaded
        assert RUNTIMES[runtime].missing(target) is None
    onnx_runtime._provider_fault.cache_clear()


@pytest.mark.parametrize(("dtype", "flag"), [("float32", "0"), ("float16", "1")])
def test_tensorrt_may_use_half_precision_only_where_asked(dtype: Any, flag: str) -> None:
    runtime = RUNTIMES["tensorrt"]
    assert isinstance(runtime, onnx_runtime.OnnxRuntime)
    providers = runtime.providers(Target(name="a", device="cuda", dtype=dtype, runtime="tensorrt"))
    assert [name for name, _ in providers] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
    ]
    assert providers[0][1]["trt_fp16_enable"] == flag


def test_openvino_is_asked_what_the_processor_can(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(name="a", runtime="openvino", dtype="bfloat16")
    skip_if_missing(target.model_copy(update={"dtype": "float32"}))

    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return ["FP32", "FP16", "INT8"]

    monkeypatch.setattr(openvino_module, "_openvino", lambda: (None, Core()))
    missing = str(RUNTIMES["openvino"].missing(target))
    assert "no bfloat16 on this processor. Set `dtype` to float32 or float16" in missing
    half = target.model_copy(update={"dtype": "float16"})
    assert RUNTIMES["openvino"].missing(half) is None


QUIET = """
import sys
from torch import nn
from upnas.measure.runtimes import RUNTIMES
from upnas.records import Target
target = Target(name="a", input=(3, 8, 8), runtime="openvino")
with RUNTIMES["openvino"].session(nn.Conv2d(3, 4, 3), target) as session:
    session.output()
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("telemetry_stub"), telemetry_utils.tm
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


def test_openvino_tells_nobody(tmp_path: Path) -> None:
    skip_if_missing(Target(name="a", runtime="openvino"))
    done = subprocess.run(
        [sys.executable, "-c", QUIET],
        env={"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert list(tmp_path.rglob("*telemetry*")) == []  # its consent and client files
