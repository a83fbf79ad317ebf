"""The GPU's own account, on a fake allocator and, where there is one, on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from upnas.measure.memory.device import device_memory
from upnas.measure.memory.tensors import peak_memory_bytes
from upnas.records import DeviceMemory


class FakeAllocator:
    """Counts as torch.cuda does: peaks since the last reset, and a cache until it is emptied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: int, cached: int):
        self.held, self.cached, self.pending = held, cached, 0
        self.peak_allocated = self.peak_reserved = 10**12  # of whatever ran before
        for name in ("synchronize", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "empty_cache", self.empty_cache)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak_allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: self.peak_reserved)

    def launch(self, nbytes: int) -> None:
        """A forward returns before it has run."""
        self.pending = nbytes

    def synchronize(self, device: object) -> None:
        nbytes, self.pending = self.pending, 0
        self.cached = max(self.cached, nbytes)
        self.peak_allocated = max(self.peak_allocated, self.held + nbytes)
        self.peak_reserved = max(self.peak_reserved, self.held + self.cached)

    def empty_cache(self) -> None:
        self.cached = 0

    def reset_peak_memory_stats(self, device: object) -> None:
        self.peak_allocated, self.peak_reserved = self.held, self.held + self.cached


def test_peaks_of_this_run_alone_in_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = FakeAllocator(monkeypatch, held=3 * 2**20, cached=100 * 2**20)
    allocator.launch(50 * 2**20)  # still running when the measurement starts
    memory = device_memory(lambda: allocator.launch(2 * 2**20))
    assert memory == DeviceMemory(allocated_mib=5, reserved_mib=5)


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="on CUDA counts its memory, not on cpu"):
        device_memory(lambda: None, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_gpu_holds_what_the_tensors_need() -> None:
    net = nn.Sequential(nn.Upsample(scale_factor=4), nn.ReLU()).cuda()
    x = torch.zeros(1, 16, 256, 256, device="cuda")

    def run() -> Tensor:
        with torch.inference_mode():
            y: Tensor = net(x)
        return y

    run()
    memory = device_memory(run)
    tensors_mib = peak_memory_bytes(net, tuple(x.shape)) / 2**20
    assert memory.allocated_mib == pytest.approx(tensors_mib, rel=0.02)
    assert memory.reserved_mib >= memory.allocated_mib
