"""Export probes on networks that do and do not export."""

from __future__ import annotations

import importlib.util
import logging
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.errors import TargetError
from upnas.measure.export import probe as export
from upnas.measure.export.probe import NEEDED_PACKAGES, probe_export

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED_PACKAGES["onnx"]),
    reason="needs onnx, onnxscript and onnxruntime (pip install upnas[onnx])",
)
FORMATS = ["torch_export", pytest.param("onnx", marks=needs_onnx), "compile"]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.norm(self.conv(x)), scale_factor=2, mode="bilinear")
        return F.pixel_shuffle(y, 2)


class ReadsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x


class Prints(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("breaks the graph")  # noqa: T201
        return x * 2


class Apart(nn.Module):
    """Has a part that the compiler is to leave alone."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def part(self, x: Tensor) -> Tensor:
        return x * 2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.part(x)
        return y + 1


class Eigenvalues(nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        eigenvalues: Tensor = torch.linalg.eigvalsh(x + x.mT)
        return eigenvalues


class Random(nn.Module):
    """Exports, but the exported program returns something else."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_that_exports(format: str) -> None:
    net = Decoder().train()
    assert probe_export(net, (1, 3, 8, 8), format) == "ok"
    assert net.training
    assert net.norm.num_batches_tracked == 0


#: What torch says of a network that reads values, newest and oldest supported.
READS = r"Could not guard on data-dependent expression|Tensor\.item"


@pytest.mark.parametrize(
    ("format", "net", "why"),
    [
        ("torch_export", ReadsValues(), READS),
        pytest.param("onnx", Eigenvalues(), "aten._linalg_eigh", marks=needs_onnx),
        ("compile", ReadsValues(), READS),
        ("compile", Prints(), "print"),
        ("compile", Apart(), "torch.compiler.disable|marked as skipped"),
    ],
    ids=["torch_export", "onnx", "item", "print", "disabled"],
)
def test_a_network_that_does_not_export_says_why(format: str, net: nn.Module, why: str) -> None:
    reason = probe_export(net, (1, 3, 8, 8), format)
    assert re.search(why, reason)
    assert "\n" not in reason
    assert len(reason) < 300


def test_any_number_of_networks_compiles_in_one_process() -> None:
    """Dynamo gives up on code that it compiled often."""
    limit = torch._dynamo.config.recompile_limit
    outcomes = [
        probe_export(nn.Conv2d(1, n, 1), (1, 1, 4, 4), "compile") for n in range(1, limit + 3)
    ]
    assert set(outcomes) == {"ok"}


def test_a_network_that_does_not_fit_into_memory_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(model: nn.Module, x: Tensor) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(export, "EXPORTERS", {"compile": fail})
    with pytest.raises(MemoryError):
        probe_export(Decoder(), (1, 3, 8, 8), "compile")


@pytest.mark.parametrize("format", FORMATS)
def test_a_program_with_other_numbers_is_not_ok(format: str) -> None:
    assert "differs from the network by" in probe_export(Random(), (1, 3, 8, 8), format)


@pytest.mark.parametrize("format", FORMATS)
def test_exporters_are_silent(
    format: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    disabled = logging.root.manager.disable
    probe_export(Decoder(), (1, 3, 8, 8), format)
    probe_export(ReadsValues(), (1, 3, 8, 8), format)
    assert capfd.readouterr() == ("", "")
    # pytest listens to torch's structured trace, which reaches nobody else.
    assert [record for record in caplog.records if record.name != "torch.__trace"] == []
    assert logging.root.manager.disable == disabled


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    missing = ("onnx", "onnxruntime")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else real(name)
    )
    with pytest.raises(TargetError, match=r"needs onnx, .*onnxruntime.*pip install upnas\[onnx\]"):
        probe_export(Decoder(), (1, 3, 8, 8), "onnx")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(TargetError, match=r"'onx'\. Did you mean 'onnx'\? Available: torch_export"):
        probe_export(Decoder(), (1, 3, 8, 8), "onx")
