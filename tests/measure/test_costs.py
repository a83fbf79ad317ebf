from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from upnas.errors import TargetError
from upnas.measure import costs as costs_module
from upnas.measure.costs import check_target, measure_costs
from upnas.measure.environment import available_cpus
from upnas.measure.gate import DeviceGate
from upnas.measure.latency import LatencySettings
from upnas.measure.memory import peak_memory_bytes
from upnas.records import Costs, Target

TARGET = Target(name="laptop", input=(3, 16, 16), batch=2)
QUICK = LatencySettings(min_pairs=6, max_pairs=6, max_retries=0)


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Dropout())


def test_every_cost_is_in_the_record(tmp_path: Path) -> None:
    model, reference = net(8).train(), net(4).train()
    costs = measure_costs(
        model,
        TARGET,
        reference=reference,
        reference_ms=2.0,
        gate=DeviceGate("cpu", tmp_path),
        export_formats=("torch_export",),
        settings=QUICK,
    )
    assert costs.target == "laptop"
    assert len(costs.latency.samples_ms) == 6
    assert costs.latency.reference_ms == 2.0
    assert costs.peak_memory_mib * 2**20 == peak_memory_bytes(model, (2, 3, 16, 16))
    assert costs.num_parameters == 9 * 3 * 8 + 8 + 16
    assert dict(costs.exportable) == {"torch_export": "ok"}
    assert Costs.model_validate_json(costs.model_dump_json()) == costs
    assert model.training
    assert reference.training


def test_the_gate_is_held_while_timing_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = DeviceGate("cpu", tmp_path)
    with gate.exclusive():
        room = next(tmp_path.glob("*.room"))
    seen: list[tuple[str, bool]] = []

    def is_held() -> bool:
        descriptor = os.open(room, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    class Probe(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            timed = torch.is_inference_mode_enabled()
            seen.append(("timed" if timed else "not timed", is_held()))
            return x + 1

    measure_costs(
        Probe(),
        TARGET,
        reference=net(2),
        reference_ms=1.0,
        gate=gate,
        export_formats=(),
        settings=QUICK,
    )
    assert set(seen) == {("timed", True), ("not timed", False)}
    assert not is_held()


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    target = Target(name="server", device="cuda")
    with pytest.raises(TargetError, match=r"'server'.*'cuda' is not available.*device: cpu"):
        check_target(target)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(TargetError, match="no CUDA support"):
        check_target(target)


def test_more_threads_than_processors() -> None:
    cpus = available_cpus()
    check_target(Target(name="a", threads=cpus))
    with pytest.raises(TargetError, match=rf"threads: {cpus + 1}.*Set `threads` to 1\.\.{cpus}"):
        check_target(Target(name="a", threads=cpus + 1))


def test_an_impossible_target_is_refused_before_anything_runs(tmp_path: Path) -> None:
    target = Target(name="a", threads=available_cpus() + 1)
    with pytest.raises(TargetError):
        costs_module.measure_costs(
            net(2), target, reference=net(2), reference_ms=1.0, gate=DeviceGate("cpu", tmp_path)
        )
    assert not list(tmp_path.iterdir())
