"""Targets that this machine cannot serve are refused, with everything that is missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from upnas.errors import TargetError
from upnas.measure import targets as targets_module
from upnas.measure.environment import available_cpus
from upnas.measure.runtimes import RUNTIMES
from upnas.measure.targets import check_target, missing_for
from upnas.records import Target


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    target = Target(name="server", device="cuda")
    with pytest.raises(TargetError, match=r"'server'.*'cuda' is not available.*device: cpu"):
        check_target(target)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "built for CUDA 13.0, finds no usable GPU" in missing_for(target)[0]
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(TargetError, match="no CUDA support"):
        check_target(target)


def test_mps_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (missing,) = missing_for(Target(name="mac", device="mps"))
    assert missing.startswith("device 'mps' is not available")
    assert "Set `device: cpu`" in missing


def test_more_threads_than_processors() -> None:
    cpus = available_cpus()
    check_target(Target(name="a", threads=cpus))
    with pytest.raises(TargetError, match=rf"threads: {cpus + 1}.*Set `threads` to 1\.\.{cpus}"):
        check_target(Target(name="a", threads=cpus + 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_cpu_serves_every_dtype_in_eager_mode(dtype: Any, memory_format: Any) -> None:
    assert missing_for(Target(name="a", dtype=dtype, memory_format=memory_format)) == ()


def test_a_dtype_that_torch_cannot_compute_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'\nand a trace")

    monkeypatch.setattr(targets_module._Probe, "forward", refuse)
    # Past the cache: what an earlier test found out is not this torch.
    fault = targets_module._dtype_fault.__wrapped__
    monkeypatch.setattr(targets_module, "_dtype_fault", fault)
    with pytest.raises(TargetError) as caught:
        check_target(Target(name="phone", dtype="float16"))
    message = str(caught.value)
    assert message.startswith("Target 'phone': dtype 'float16' in contiguous format does not work")
    assert "not implemented for 'Half'. Choose another `dtype`" in message
    assert "trace" not in message


def test_asking_leaves_the_random_numbers_alone() -> None:
    state = torch.random.get_rng_state()
    targets_module._dtype_fault.__wrapped__("cpu", "float32", "contiguous")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_all_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(name="server", device="cuda", runtime="tensorrt", threads=available_cpus() + 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        type(RUNTIMES["tensorrt"]), "missing", lambda self, target: "no TensorRT. Install it."
    )
    device, threads, runtime = missing_for(target)
    assert "'cuda' is not available" in device
    assert threads.startswith(f"threads: {target.threads}")
    assert runtime == "no TensorRT. Install it."
    with pytest.raises(TargetError) as caught:
        check_target(target)
    head, *lines = str(caught.value).splitlines()
    assert head == "Target 'server' cannot be served by this machine:"
    assert lines == [f"  - {text}" for text in (device, threads, runtime)]
