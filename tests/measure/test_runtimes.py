"""Sessions compute what the network computes, on every runtime."""

from __future__ import annotations

import copy
import time
from typing import Any, Final

import pytest
import torch
from models.helpers import SEGMENTATION, unet
from torch import Tensor, nn

from upnas.measure.export.numerics import output_error
from upnas.measure.runtimes import RUNTIMES, ExportedSession
from upnas.measure.runtimes.base import random_input
from upnas.measure.timing.interleave import conditions_of
from upnas.models import build_model
from upnas.records import RUNTIME_DTYPES, MemoryFormat, Target

from .runtime_helpers import ODD, TOLERANCES, decoder, eager_output, skip_if_missing

MEMORY_FORMATS: Final[tuple[MemoryFormat, ...]] = ("contiguous", "channels_last")


def name_of(target: Target) -> str:
    return f"{target.runtime}-{target.dtype}-{target.memory_format}"


def with_marks(target: Target) -> Any:
    """Two compiled cases are enough in every run; they take seconds."""
    brief = ("float32-contiguous", "bfloat16-channels_last")
    is_brief = target.runtime != "compile" or name_of(target).endswith(brief)
    marks = () if is_brief else (pytest.mark.slow,)
    return pytest.param(target, id=name_of(target), marks=marks)


ON_CPU = [
    with_marks(
        Target(name="a", input=ODD, runtime=runtime, dtype=dtype, memory_format=memory_format)
    )
    for runtime, dtypes in RUNTIME_DTYPES.items()
    for dtype in dtypes.get("cpu", ())
    for memory_format in MEMORY_FORMATS[: 2 if runtime in ("eager", "compile") else 1]
]
ON_GPU = [
    Target(name="a", input=ODD, runtime=runtime, dtype=dtype, device="cuda")
    for runtime, dtypes in RUNTIME_DTYPES.items()
    for dtype in dtypes.get("cuda", ())
]


@pytest.mark.parametrize("target", ON_CPU)
def test_a_session_gives_the_eager_output(target: Target) -> None:
    skip_if_missing(target)
    model = decoder()
    expected = eager_output(model, target)
    state = copy.deepcopy(model.state_dict())
    with RUNTIMES[target.runtime].session(model, target) as session:
        session.run()
        output = session.output()
        again = session.output()
    assert output.dtype == torch.float32
    assert output.is_contiguous()
    assert not output.is_inference()
    assert torch.equal(output, again)
    assert output.data_ptr() != again.data_ptr()
    assert output_error(output, expected) < TOLERANCES[target.dtype]
    if target.dtype == "float32":
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    else:  # it did compute in that dtype
        assert output_error(output, expected) > 1e-5
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime", "openvino"])
def test_a_candidate_gives_its_eager_output(runtime: Any) -> None:
    target = Target(name="a", input=(3, 33, 47), batch=2, runtime=runtime)
    skip_if_missing(target)
    check_candidate(target)


@pytest.mark.slow
def test_a_compiled_candidate_gives_its_eager_output() -> None:
    check_candidate(Target(name="a", input=(3, 33, 47), batch=2, runtime="compile"))


def check_candidate(target: Target) -> None:
    torch.manual_seed(0)
    model = build_model(unet("carafe", "subpixel"), SEGMENTATION).eval()
    with RUNTIMES[target.runtime].session(model, target) as session:
        torch.testing.assert_close(
            session.output(), eager_output(model, target), rtol=1e-4, atol=1e-4
        )
    assert isinstance(session, ExportedSession) == (target.runtime in ("onnxruntime", "openvino"))


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime", "openvino"])
def test_one_thread_computes_on_the_calling_thread(runtime: Any) -> None:
    # What runs_on_caller promises to the thread CPU clock.
    target = Target(name="a", input=(3, 96, 96), runtime=runtime)
    skip_if_missing(target)
    with RUNTIMES[runtime].session(decoder(), target) as session, conditions_of(target):
        assert session.runs_on_caller
        for _ in range(20):
            session.run()
        process, thread = time.process_time(), time.thread_time()
        for _ in range(60):
            session.run()
        process, thread = time.process_time() - process, time.thread_time() - thread
    assert thread > 0.8 * process


def test_a_network_in_training_mode_runs_in_eval_mode() -> None:
    target = Target(name="a", input=ODD)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).train()
    with RUNTIMES["eager"].session(model, target) as session:
        output = session.output()
    torch.testing.assert_close(output, random_input(target.input_shape), rtol=1e-4, atol=1e-4)
    assert model.training
    assert model[0].num_batches_tracked == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("target", ON_GPU, ids=name_of)
def test_a_session_on_a_gpu_gives_the_eager_output(target: Target) -> None:
    skip_if_missing(target)
    model = decoder()
    with RUNTIMES[target.runtime].session(model, target) as session:
        with conditions_of(target):
            session.run()
        output = session.output()
    tolerance = max(TOLERANCES[target.dtype], 2e-3)  # TF32
    assert output_error(output, eager_output(model, target)) < tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_graph_is_replayed_without_python() -> None:
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return x + 1

    target = Target(name="a", device="cuda", runtime="cuda_graph", input=ODD)
    with RUNTIMES["cuda_graph"].session(Counting(), target) as session:
        captured = len(calls)
        for _ in range(3):
            session.run()
        torch.testing.assert_close(session.output(), random_input(target.input_shape) + 1)
    assert len(calls) == captured
