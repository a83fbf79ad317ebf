"""Peak memory of a training step: closed forms, and fake tensors against the trainer itself."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.helpers import SEGMENTATION, unet
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upnas.measure.memory.tensors import peak_memory_bytes, training_peak_memory_bytes
from upnas.models import build_model
from upnas.records import TaskSignature
from upnas.space import TrainingConfig
from upnas.tasks.base import Predict, Split, Task
from upnas.training import Trainer
from upnas.upsamplers import UPSAMPLERS, pin

from .helpers import skip_where_fakes_have_another_layout

FLOAT = 4  # bytes
SHAPE = (2, 3, 17, 24)


class MeanOfSquares(Task):
    """The loss that the peak is defined with, on zeros."""

    signature = TaskSignature(name="squares", in_channels=3, out_channels=1)
    metrics = ()

    def __init__(self, shape: tuple[int, ...]):
        self._batch = torch.zeros(shape).contiguous(memory_format=torch.channels_last)

    def steps_per_epoch(self, batch_size: int) -> int:
        return 1

    def train_batch(self, step: int, seed: int, batch_size: int) -> tuple[Tensor, Tensor]:
        return self._batch, torch.empty(0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().mean()

    def evaluate(self, predict: Predict, split: Split) -> dict[str, float]:
        return {}

    def trivial_quality(self, split: Split) -> dict[str, float]:
        return {}


class NoGate:
    def shared(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class NaiveTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums up all storages that are alive, after every operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self.storages[storage._cdata] = reference, storage.nbytes()
        self.storages = {
            address: (reference, nbytes)
            for address, (reference, nbytes) in self.storages.items()
            if not reference.expired()  # type: ignore[no-untyped-call]
        }
        self.peak_bytes = max(self.peak_bytes, sum(n for _, n in self.storages.values()))
        return out


def peak_of_a_trainers_second_step(net: nn.Module, shape: tuple[int, ...]) -> int:
    settings = TrainingConfig(device="cpu")
    trainer = Trainer(net, MeanOfSquares(shape), settings, total_steps=2, seed=0, gate=NoGate())
    with (tracker := NaiveTracker()):
        trainer.train_to(1)
        tracker.peak_bytes = 0
        trainer.train_to(2)
    return tracker.peak_bytes


@pytest.mark.parametrize("name", [name for name, kind in UPSAMPLERS.items() if 2 in kind.dims])
def test_fake_tensors_agree_with_the_trainer(name: str) -> None:
    skip_where_fakes_have_another_layout(name)
    net = build_model(unet(name, name), SEGMENTATION)
    pin(net, torch.zeros(1, 3, 33, 48))  # the arm that is not taken has no optimizer state
    net = net.to(memory_format=torch.channels_last)
    last = torch.channels_last
    fake = training_peak_memory_bytes(net, SHAPE, memory_format=last)
    assert fake == training_peak_memory_bytes(net, SHAPE, memory_format=last, live=True)
    if name != "selector":  # the trainer adds its penalty
        assert fake == peak_of_a_trainers_second_step(net, SHAPE)


@pytest.mark.parametrize("name", ["dysample", "fade"])
def test_fake_tensors_agree_with_a_real_step_in_bfloat16(name: str) -> None:
    net = build_model(unet(name, name), SEGMENTATION).bfloat16()
    fake = training_peak_memory_bytes(net, SHAPE, dtype=torch.bfloat16)
    assert fake == training_peak_memory_bytes(net, SHAPE, dtype=torch.bfloat16, live=True)
    assert fake < training_peak_memory_bytes(net.float(), SHAPE)


@pytest.mark.parametrize("num_layers", [2, 5, 9])
@pytest.mark.parametrize("live", [False, True])
def test_a_chain_in_closed_form(num_layers: int, live: bool) -> None:
    """What the backward has used is freed while it goes on: the peak is at its beginning."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            for _ in range(num_layers):
                y = F.relu(y)
            pooled: Tensor = y.mean((2, 3))
            return pooled

    activation = 2 * 4 * 16 * 16
    # The input and every layer's output, the gradient that comes in and the one that goes out; the
    # weight and its two moments, the step counter, the loss and its gradient of 1. The gradient of
    # the weight is not there yet, that of the step before is not there any more.
    floats = (1 + num_layers + 2) * activation + 3 * 16 + 1 + 2
    assert training_peak_memory_bytes(Chain(), (2, 4, 16, 16), live=live) == FLOAT * floats


@pytest.mark.parametrize("live", [False, True])
def test_two_large_layers_by_hand(live: bool) -> None:
    """Wide layers, one pixel: the peak is in the update."""
    net = nn.Sequential(nn.Conv2d(64, 32, 1, bias=False), nn.Conv2d(32, 48, 1, bias=False))
    first, second = 64 * 32, 32 * 48
    # Weights, gradients and two moments; for the second layer the root of the second moment and
    # its corrected copy, while torch's loop still holds that of the first layer; the input, two
    # step counters and the loss.
    floats = 4 * (first + second) + first + 2 * second + 64 + 2 + 1
    assert training_peak_memory_bytes(net, (1, 64, 1, 1), live=live) == FLOAT * floats


def test_the_gradients_of_the_step_before_are_there_in_the_forward() -> None:
    class Wide(nn.Module):
        """A large temporary in the forward only."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(100))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                hump = x.view(1).expand(10_000).clone()
            return self.scale * hump[:100].clone()

    # Weight, gradient and two moments, step counter, input, the temporary and what is cut from it.
    assert training_peak_memory_bytes(Wide(), (1, 1, 1, 1)) == FLOAT * (400 + 1 + 1 + 10_000 + 200)


def test_frozen_weights_have_neither_gradient_nor_state() -> None:
    net = nn.Sequential(nn.Conv2d(64, 64, 1, bias=False), nn.Conv2d(64, 1, 1, bias=False))
    trained = training_peak_memory_bytes(net, (1, 64, 1, 1))
    net[0].requires_grad_(False)
    frozen = training_peak_memory_bytes(net, (1, 64, 1, 1))
    assert frozen == training_peak_memory_bytes(net, (1, 64, 1, 1), live=True)
    # All that is left of the first layer is its weight.
    assert frozen < trained - FLOAT * 3 * 64 * 64
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="Sequential has no parameter to train"):
        training_peak_memory_bytes(net, (1, 64, 1, 1))


def test_what_modules_keep_is_there_from_the_beginning() -> None:
    class Caching(nn.Module):
        """Makes its grid behind the worst moment of the first step."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1)
            self.grid: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(F.interpolate(x, scale_factor=4.0).mean((2, 3), keepdim=True))
            if self.grid is None:
                self.grid = torch.ones(1, 1, 5, 5)
            return y * self.grid

    fake = training_peak_memory_bytes(Caching(), (1, 3, 8, 8))
    assert fake == peak_of_a_trainers_second_step(Caching(), (1, 3, 8, 8))


def test_networks_that_read_values_train_for_real() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.drop = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.drop(self.conv(x))
            return y * 2 if y.sum().item() > 0 else y

    net = Net()
    state = torch.get_rng_state()
    peak = training_peak_memory_bytes(net, (1, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert peak == peak_of_a_trainers_second_step(Net(), (1, 3, 8, 8))


def test_the_network_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for live in (False, True):
        training_peak_memory_bytes(net, (2, 3, 8, 8), live=live)
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(type(parameter) is nn.Parameter for parameter in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_works_where_gradients_are_off() -> None:
    net = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        inside = training_peak_memory_bytes(net, (1, 3, 8, 8))
    assert inside == training_peak_memory_bytes(net, (1, 3, 8, 8))


def test_nothing_is_allocated() -> None:
    net = nn.Conv2d(1, 1024, 1)
    shape = (1024, 1, 2048, 2048)
    assert training_peak_memory_bytes(net, shape) > peak_memory_bytes(net, shape) > 2**44


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", ["bilinear", "carafe", "dysample"])
def test_fake_tensors_agree_with_a_real_step_on_a_gpu(name: str) -> None:
    net = build_model(unet(name, name), SEGMENTATION).cuda()
    fake = training_peak_memory_bytes(net, SHAPE)
    assert fake == training_peak_memory_bytes(net, SHAPE, live=True)
