"""Peak memory of a forward and of a training step, and the number of parameters.

Counted: the bytes of every tensor storage that is alive at the worst moment of one inference
forward or one training step, between two ATen operators: weights, buffers, the input and all
activations; in training also what is saved for the backward, gradients and the optimizer's state.
A view counts nothing, an in-place operator counts nothing, a tied weight counts once. Excluded:
scratch memory inside an operator's kernel (some convolutions), the allocator's rounding, the
process.

The numbers are exact and repeatable because nothing is measured: the network runs on fake
tensors, which have shapes and lifetimes but no data, and a dispatch mode adds up their storages.
Costs milliseconds (seconds in training for operators that loop over rows) and no memory, so a
candidate that does not fit into memory has a peak, too.

Dtype and memory layout are the network's own, and the input is given the same: the layout decides
which path some operators take, and with it what they allocate.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
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


def peak_memory_bytes(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    live: bool = False,
) -> int:
    """Return the peak of live tensor bytes of one inference forward (see the module).

    Args:
        model: The network; it is neither run nor changed, whatever mode it is in.
        input_shape: (B, C, H, W).
        dtype: Of the input; the weights are of that dtype already.
        memory_format: Of the input; the weights have it already.
        live: Run for real instead, on a copy, where the model lies. Gives the same number. Also
            used, with a note in the log, for networks that fake tensors cannot run, because what
            they compute depends on values or because an operator declares no output shape.
    """
    make_input = functools.partial(_zeros, tuple(input_shape), dtype, memory_format)
    return _peak(_inference_peak, model, make_input, live)


def training_peak_memory_bytes(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    live: bool = False,
) -> int:
    """Return the peak of live tensor bytes of one training step, as from the second step on.

    A step is what :class:`upnas.training.Trainer` does: forward, loss, gradients of the step before
    dropped, backward, gradients clipped by their norm, AdamW. Its two moments per parameter are
    there from the beginning, and its temporaries count as they are: for one parameter at a time on
    a CPU, for all of them on a GPU, where torch takes the ``foreach`` implementation.

    The loss is the mean of squares of the output: no target is counted, and one temporary of the
    output's size is. The penalty of selectors on their choice, some scalars, is left out.

    Args:
        model: The network; it is neither run nor changed, whatever mode it is in.
        input_shape: (B, C, H, W).
        dtype: Of the input; the weights are of that dtype already.
        memory_format: Of the input; the weights have it already. Networks train in channels_last.
        live: As in :func:`peak_memory_bytes`; torch's random state is left alone.

    Raises:
        ValueError: If no parameter can be trained.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameter to train.")
    make_input = functools.partial(_zeros, tuple(input_shape), dtype, memory_format)
    return _peak(_training_peak, model, make_input, live)


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers the parameters hold, shared ones counted once; buffers do not."""
    return sum(parameter.numel() for parameter in model.parameters())


def _zeros(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    device: torch.device,
) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=memory_format)


def _peak(
    run: Callable[[nn.Module, Tensor], int],
    model: nn.Module,
    make_input: Callable[[torch.device], Tensor],
    live: bool,
) -> int:
    """The peak of a run, on fake tensors where these can do it."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if not live:
        try:
            mode = FakeTensorMode(allow_non_fake_inputs=True)  # constants that are no buffers
            fake_model = _fake_copy(model, mode)
            with mode:
                return run(fake_model, make_input(device))
        except (
            DataDependentOutputException,
            DynamicOutputShapeException,
            UnsupportedOperatorException,
        ) as error:
            logger.info("Peak memory from a real run, as fake tensors cannot do it: %s", error)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return run(copy.deepcopy(model), make_input(device))


def _fake_copy(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy that holds fake tensors where the model holds real ones.

    Modules that keep something from their forward (a cached grid) must not keep fakes.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): mode.from_tensor(tensor) for tensor in tensors})


def _inference_peak(model: nn.Module, x: Tensor) -> int:
    tracker = _StorageTracker([*model.parameters(), *model.buffers(), x])
    # Not inference mode: there, composite operators reach the tracker whole, and the tensors
    # that they make on the way stay unseen.
    with torch.no_grad(), tracker:
        model.eval()(x)
    return tracker.take_peak()


def _training_peak(model: nn.Module, x: Tensor) -> int:
    """One step, and what it adds to the next: gradients until they are dropped, and AdamW's state.

    A second step would take twice the time to show the same.
    """
    parameters = list(model.train().parameters())
    # As torch chooses by itself, but for fake tensors.
    optimizer = torch.optim.AdamW(parameters, foreach=x.device.type == "cuda")
    tracker = _StorageTracker([*parameters, *model.buffers(), x])
    with tracker:
        with torch.no_grad():
            model(x)  # what modules keep from their first forward is there in every later one
        tracker.take_peak()
        with torch.enable_grad():
            loss = model(x).square().mean()
            in_forward = tracker.take_peak()
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, max_norm=1.0)
        in_backward = tracker.take_peak()
        without_state = tracker.live_bytes
        optimizer.step()  # makes the state
        state = tracker.live_bytes - without_state
        tracker.take_peak()
        optimizer.step()
        in_update = tracker.take_peak()
    gradients = _StorageTracker(p.grad for p in parameters if p.grad is not None).live_bytes
    return max(in_forward + gradients + state, in_backward + state, in_update)


class _StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages of all tensors that pass through an operator, while they live.

    Args:
        tensors: Counted from the beginning.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self._peak_bytes = 0
        self._sizes: dict[int, int] = {}  # storage address -> bytes
        for tensor in tensors:
            self.add(tensor)

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
        self._peak_bytes = max(self._peak_bytes, self.live_bytes)

    def take_peak(self) -> int:
        """The most bytes alive since the last call; counts from what is alive now from here on."""
        peak_bytes, self._peak_bytes = self._peak_bytes, self.live_bytes
        return peak_bytes

    def _remove(self, address: int) -> None:
        self.live_bytes -= self._sizes.pop(address)
