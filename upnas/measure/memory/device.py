"""What torch's allocator on a GPU holds while a network runs.

Another quantity than ``peak_memory_mib``: it has the scratch memory of kernels (cuDNN, cuBLAS) and
the allocator's rounding, and in ``reserved`` what the allocator took from the driver and has not
handed out. The context and the loaded kernels of the process, some hundred MiB, are in neither.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from upnas.records import DeviceMemory


def device_memory(run: Callable[[], object], device: torch.device | str = "cuda") -> DeviceMemory:
    """Return the most memory that torch allocated and reserved on a GPU during one run.

    Everything that this process holds on the device is counted: leave nothing there but the
    network and its input, and run it once before, so that what it makes only once is there. The
    allocator's cache is emptied first, hence run it again before timing it.

    A CUDA graph was given its activations when it was captured. They are in ``reserved`` only.

    Args:
        run: One forward.
        device: A CUDA device; without an index, the current one.

    Raises:
        ValueError: If the device is none of CUDA.
    """
    if torch.device(device).type != "cuda":
        raise ValueError(f"Only torch's allocator on CUDA counts its memory, not on {device}.")
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return DeviceMemory(
        allocated_mib=torch.cuda.max_memory_allocated(device) / 2**20,
        reserved_mib=torch.cuda.max_memory_reserved(device) / 2**20,
    )
