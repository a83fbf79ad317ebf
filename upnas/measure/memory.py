"""Peak memory of one forward, and the number of parameters.

Counted: the bytes of every tensor storage that is alive at the worst moment of one inference
forward, between two ATen operators: weights, buffers, the input and all activations. A view
counts nothing, an in-place operator counts nothing, a tied weight counts once. Excluded: scratch
memory inside an operator's kernel (some convolutions), the allocator's rounding, the process.

The numbers are exact and repeatable because nothing is measured: the network runs on fake
tensors, which have shapes and lifetimes but no data, and a dispatch mode adds up their storages.
Costs milliseconds and no memory, so a candidate that does not fit into memory has a peak, too.
"""

from __future__ import annotations

import copy
import itertools
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

logger = logging.getLogger(__name__)


def peak_memory_bytes(model: nn.Module, input_shape: Sequence[int], *, live: bool = False) -> int:
    """Return the peak of live tensor bytes of one inference forward (see the module).

    Args:
        model: The network; it is neither run nor changed, whatever mode it is in.
        input_shape: (B, C, H, W).
        live: Run for real instead, on a copy, where the model lies. Gives the same number. Also
            used, with a note in the log, for networks that fake tensors cannot run, because what
            they compute depends on values or because an operator declares no output shape.
    """
    if not live:
        try:
            return _fake_peak(model, tuple(input_shape))
        except (
            DataDependentOutputException,
            DynamicOutputShapeException,
            UnsupportedOperatorException,
        ) as error:
            logger.info("Peak memory from a real forward, as fake tensors cannot run it: %s", error)
    device = _device(model)
    return _tracked_peak(copy.deepcopy(model), torch.zeros(tuple(input_shape), device=device))


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers the parameters hold, shared ones counted once; buffers do not."""
    return sum(parameter.numel() for parameter in model.parameters())


def _fake_peak(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # constants that are no buffers
    # A copy that holds fake tensors where the model holds real ones: modules that keep something
    # from their forward (a cached grid) must not keep fakes.
    tensors = itertools.chain(model.parameters(), model.buffers())
    fake_model = copy.deepcopy(model, {id(tensor): mode.from_tensor(tensor) for tensor in tensors})
    with mode:
        return _tracked_peak(fake_model, torch.zeros(input_shape, device=_device(model)))


def _tracked_peak(model: nn.Module, x: Tensor) -> int:
    tracker = _StorageTracker()
    for tensor in itertools.chain(model.parameters(), model.buffers(), (x,)):
        tracker.add(tensor)
    # Not inference mode: there, composite operators reach the tracker whole, and the tensors
    # that they make on the way stay unseen.
    with torch.no_grad(), tracker:
        model.eval()(x)
    return tracker.peak_bytes


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class _StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages of all tensors that pass through an operator, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}  # storage address -> bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out

    def add(self, tensor: Tensor) -> None:
        """Count the tensor's storage, unless it is counted already, until it is freed."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._sizes:
            # Called when the last tensor on the storage is gone, not when this Python object is.
            weakref.finalize(storage, self._remove, address).atexit = False
            self._sizes[address] = 0
        self.live_bytes += storage.nbytes() - self._sizes[address]  # an operator may resize it
        self._sizes[address] = storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _remove(self, address: int) -> None:
        self.live_bytes -= self._sizes.pop(address)
