"""Whether this machine can serve a target, and if not, what is missing."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from upnas.errors import TargetError
from upnas.measure.environment import available_cpus
from upnas.measure.runtimes import RUNTIMES
from upnas.measure.runtimes.base import target_input, target_model
from upnas.records import Device, DType, MemoryFormat, Target


def check_target(target: Target) -> None:
    """Raise a TargetError if this machine cannot serve the target, with all that is missing."""
    missing = missing_for(target)
    if len(missing) == 1:
        raise TargetError(f"Target {target.name!r}: {missing[0]}")
    if missing:
        lines = "".join(f"\n  - {text}" for text in missing)
        raise TargetError(f"Target {target.name!r} cannot be served by this machine:{lines}")


def missing_for(target: Target) -> tuple[str, ...]:
    """Return everything that keeps this machine from serving a target; empty where it can.

    Each is what is missing and what to do about it. May take seconds the first time, as libraries
    are loaded and a GPU is woken up.
    """
    device = _device_fault(target.device)
    faults = [device, _threads_fault(target.threads)]
    if device is None:
        faults.append(_dtype_fault(target.device, target.dtype, target.memory_format))
    faults.append(RUNTIMES[target.runtime].missing(target))
    return tuple(fault for fault in faults if fault is not None)


def _device_fault(device: Device) -> str | None:
    if device == "cuda" and not torch.cuda.is_available():
        reason = (
            "this torch has no CUDA support"
            if torch.version.cuda is None
            else f"torch, built for CUDA {torch.version.cuda}, finds no usable GPU"
        )
        return (
            f"device 'cuda' is not available: {reason} (torch {torch.__version__}). "
            "Set `device: cpu`, or run on a machine with a CUDA GPU and its driver."
        )
    if device == "mps" and not torch.backends.mps.is_available():
        return (
            f"device 'mps' is not available: torch {torch.__version__} finds no Apple GPU. "
            "Set `device: cpu`, or run on a Mac with one."
        )
    return None


def _threads_fault(threads: int) -> str | None:
    if threads <= (cpus := available_cpus()):
        return None
    return (
        f"threads: {threads}, but this process may use {cpus} "
        f"processor{'' if cpus == 1 else 's'} only. Set `threads` to 1..{cpus}."
    )


class _Probe(nn.Module):
    """What decoders are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.transposed = nn.ConvTranspose2d(8, 8, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.interpolate(self.transposed(x), scale_factor=2.0, mode="bilinear")
        return F.grid_sample(F.pixel_shuffle(x, 2), x.new_zeros(1, 4, 4, 2), align_corners=False)


@cache
def _dtype_fault(device: Device, dtype: DType, memory_format: MemoryFormat) -> str | None:
    """Why torch on the device cannot compute in a dtype, found out by trying."""
    target = Target(
        name="probe", device=device, dtype=dtype, memory_format=memory_format, input=(3, 8, 8)
    )
    with torch.random.fork_rng(devices=()), torch.inference_mode():
        try:
            target_model(_Probe(), target)(target_input(target)).float().cpu()
        except Exception as error:  # whatever torch raises is the answer
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            return (
                f"dtype {dtype!r} in {memory_format} format does not work on device {device!r} "
                f"with torch {torch.__version__}: {reason}. Choose another `dtype`, "
                "`memory_format` or `device`."
            )
    return None
