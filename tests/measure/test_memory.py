"""Peak memory in closed form, and fake tensors against a real run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.helpers import SEGMENTATION, unet
from torch import Tensor, nn

from upnas.measure.memory.tensors import num_parameters, peak_memory_bytes
from upnas.models import build_model

from .helpers import skip_where_fakes_have_another_layout

FLOAT = 4  # bytes


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.cat([self.up(F.relu(self.down(x), inplace=True)), x], 1))
        return y


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        mixed, _ = self.attention(tokens, tokens, tokens)
        scores = F.scaled_dot_product_attention(mixed, tokens, tokens)
        return torch.reshape(scores.transpose(1, 2), x.shape)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        half = x * 0.5
        ctx.save_for_backward(x, half)
        y: Tensor = half * x * 2
        return y

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return 2 * x * grad[0]


class CustomFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Square.apply(x)
        return F.interpolate(y, scale_factor=2, mode="bicubic")


class Sampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(4, 8, 1)
        self.constant = torch.linspace(-1, 1, 8)  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        offset = F.pixel_shuffle(self.offset(x), 2)
        grid = torch.stack(torch.meshgrid(self.constant, self.constant, indexing="ij"), -1)
        grid = grid[None].expand(x.shape[0], -1, -1, -1)
        return F.grid_sample(x, grid + offset.mean(), align_corners=False)


class Caching(nn.Module):
    """Keeps a tensor from its first forward, as modules with coordinate grids do."""

    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None:
            self.grid = torch.ones_like(x)
        return x + self.grid


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x))
        return y


class Reassembly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        patches = F.unfold(x, 3, padding=1).view(b, c, 9, h, w)
        weights = torch.softmax(patches.sum(1), 1)
        return torch.einsum("bckhw,bkhw->bchw", patches, weights)


ZOO: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)]),
    "norm_in_place": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.GroupNorm(2, 8), nn.SiLU()
    ),
    "pixel_shuffle": lambda: nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2), nn.GELU()),
    "bilinear": lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Softmax(1)),
    "skip": Skip,
    "attention": Attention,
    "custom_function": CustomFunction,
    "grid_sample": Sampled,
    "caching": Caching,
    "tied": Tied,
    "reassembly": Reassembly,
    "parametrized": lambda: torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
}


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 4, 4)], ids=str)
@pytest.mark.parametrize("name", sorted(ZOO))
def test_fake_tensors_agree_with_a_real_run(name: str, shape: tuple[int, ...]) -> None:
    if name == "grid_sample" and shape[-1] != 4:
        shape = (1, 4, 4, 4)  # its constant grid fits a 4 x 4 input
    torch.manual_seed(0)
    net = ZOO[name]()
    fake = peak_memory_bytes(net, shape)
    assert fake == peak_memory_bytes(net, shape, live=True)
    assert fake == peak_memory_bytes(net, shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", ["carafe", "dysample", "fade", "freqfusion"])
def test_fake_tensors_agree_in_every_dtype_and_layout(
    name: str, memory_format: torch.memory_format, dtype: torch.dtype
) -> None:
    if memory_format is torch.channels_last:
        skip_where_fakes_have_another_layout(name)
    net = build_model(unet(name, name), SEGMENTATION)
    net = net.to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
    how: dict[str, Any] = {"dtype": dtype, "memory_format": memory_format}
    shape = (1, 3, 17, 24)
    assert peak_memory_bytes(net, shape, **how) == peak_memory_bytes(net, shape, **how, live=True)


def test_the_dtype_is_that_of_the_input() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU()).half()
    numel = 9 * 3 * 8 + 2 * 10 * 12 * (3 + 8 + 8)
    assert peak_memory_bytes(net, (2, 3, 10, 12), dtype=torch.float16) == 2 * numel


def test_the_layout_of_the_input_is_given() -> None:
    class Copies(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.contiguous() + 1

    numel = 4 * 8 * 8
    last = torch.channels_last
    assert peak_memory_bytes(Copies(), (1, 4, 8, 8)) == FLOAT * 2 * numel
    assert peak_memory_bytes(Copies(), (1, 4, 8, 8), memory_format=last) == FLOAT * 3 * numel


def test_chain_of_convolutions_in_closed_form() -> None:
    channels = (3, 8, 16, 4)
    net = nn.Sequential(*[nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(channels)])
    weights = sum(9 * a * b + b for a, b in itertools.pairwise(channels))
    # Worst moment: the second layer's input and output, with the network's input still held.
    activations = 2 * 10 * 12 * (3 + 8 + 16)
    assert peak_memory_bytes(net, (2, 3, 10, 12)) == FLOAT * (weights + activations)


def test_views_and_in_place_operators_are_free() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            return y.view(-1)[2:].relu_().mul_(2).unsqueeze(0)

    assert peak_memory_bytes(Net(), (1, 4, 8, 8)) == FLOAT * 2 * 4 * 8 * 8


def test_what_is_freed_no_longer_counts() -> None:
    class Net(nn.Module):
        def __init__(self, keep: bool) -> None:
            super().__init__()
            self.keep = keep

        def forward(self, x: Tensor) -> Tensor:
            kept = []
            for _ in range(5):
                x = x * 2
                if self.keep:
                    kept.append(x)
            return x

    numel = 4 * 8 * 8
    assert peak_memory_bytes(Net(keep=False), (1, 4, 8, 8)) == FLOAT * 3 * numel
    assert peak_memory_bytes(Net(keep=True), (1, 4, 8, 8)) == FLOAT * 6 * numel


def test_a_view_keeps_its_storage_alive() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            corner = F.interpolate(x, scale_factor=4.0)[..., :1, :1]
            return x + corner  # the large tensor is alive through its view

    numel = 4 * 8 * 8
    assert peak_memory_bytes(Net(), (1, 4, 8, 8)) == FLOAT * (1 + 16 + 1) * numel


def test_tied_weights_and_buffers_count_once() -> None:
    net = Tied()
    weights = 9 * 4 * 4 + 4 + 4
    assert num_parameters(net) == weights
    assert peak_memory_bytes(net, (1, 4, 2, 2)) == FLOAT * (weights + 3 * 16)
    norm = nn.BatchNorm2d(4)
    assert num_parameters(norm) == 8
    # Buffers: mean and variance (4 each), and one int64 counter.
    assert peak_memory_bytes(norm, (1, 4, 2, 2)) == FLOAT * (8 + 8 + 2 * 16) + 8


def test_the_temporaries_of_composite_operators_count() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.layer_norm(x, (8,))  # makes the mean and deviation of each row as well

    num_rows = 4 * 8
    assert peak_memory_bytes(Net(), (1, 4, 8, 8)) == FLOAT * (2 * 8 * num_rows + 2 * num_rows)


def test_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(Caching(), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for live in (False, True):
        peak_memory_bytes(net, (1, 4, 8, 8), live=live)
    assert net.training
    assert net[0].grid is None
    assert type(net[1].weight) is nn.Parameter
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_nothing_is_allocated() -> None:
    # 16 TiB of activations on any machine.
    net = nn.Conv2d(1, 1024, 1)
    assert peak_memory_bytes(net, (1024, 1, 2048, 2048)) > 2**44


def test_networks_that_read_values_run_for_real() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            return y * 2 if y.sum().item() > 0 else y

    numel = 4 * 8 * 8
    # Before the last operator ends: x, y and the product (the sum is freed by then).
    assert peak_memory_bytes(Net(), (1, 4, 8, 8)) == FLOAT * 3 * numel
