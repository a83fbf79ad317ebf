from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers.initialisation import (
    LEAKY_SLOPE,
    Nonlinearity,
    bilinear_,
    icnr_,
    kaiming_,
    tie_phases_,
)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, LEAKY_SLOPE),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("nonlinearity", ["linear", "relu", "leaky_relu"])
def test_kaiming_keeps_the_second_moment_through_the_activation(nonlinearity: Nonlinearity) -> None:
    conv = nn.Conv2d(64, 512, 3)
    kaiming_(conv, nonlinearity)
    y = ACTIVATIONS[nonlinearity](conv(torch.randn(4, 64, 8, 8)))
    assert y.square().mean().item() == pytest.approx(1, rel=0.05)
    assert conv.bias is not None
    assert not conv.bias.any()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_icnr_repeats_the_weights_of_every_channel(spatial_dims: int) -> None:
    conv = nn.Conv2d(5, 3 * 4, 3) if spatial_dims == 2 else nn.Conv3d(5, 3 * 4, 3)
    icnr_(conv, 4)
    groups = conv.weight.reshape(3, 4, -1)
    assert torch.equal(groups, groups[:, :1].expand_as(groups))
    assert groups[:, 0].std() > 0.5 / math.sqrt(5 * 3**spatial_dims)
    assert conv.bias is not None
    assert not conv.bias.any()


def test_icnr_with_pytorchs_bias_would_leave_a_checkerboard() -> None:
    """The reason for the zero bias: the deviation that UPSAMPLERS.md measures at 0.027."""

    def deviation(conv: nn.Conv2d) -> float:
        x = torch.randn(1, 32, 1, 1).expand(1, 32, 8, 8)
        y = F.pixel_shuffle(conv(x), 2)
        return (y.std((2, 3)) / y.square().mean().sqrt()).max().item()

    conv = nn.Conv2d(32, 32 * 4, 1)
    default_bias = conv.bias.clone()  # type: ignore[union-attr]
    icnr_(conv, 4)
    assert deviation(conv) < 1e-6
    conv.bias.data.copy_(default_bias)  # type: ignore[union-attr]
    assert deviation(conv) > 0.01


def phases(conv: nn.ConvTranspose2d, s: int) -> list[Tensor]:
    """The taps that each of the s * s phases of the output reads."""
    p = conv.padding[0]
    first = [(phase + int(p)) % s for phase in range(s)]
    return [conv.weight[:, :, row::s, column::s] for row in first for column in first]


@pytest.mark.parametrize(("side", "s"), [(2, 2), (4, 2), (3, 3), (4, 4), (8, 4)])
def test_tied_phases_have_one_sub_kernel(side: int, s: int) -> None:
    conv = nn.ConvTranspose2d(6, 5, side, stride=s, padding=(side - s) // 2)
    tie_phases_(conv)
    sub_kernels = phases(conv, s)
    assert len(sub_kernels) == s * s
    assert all(torch.equal(sub_kernel, sub_kernels[0]) for sub_kernel in sub_kernels)
    assert sub_kernels[0].shape == (6, 5, side // s, side // s)
    # The taps of the sub-kernel are independent numbers, not one profile.
    assert len(set(sub_kernels[0].flatten().tolist())) == sub_kernels[0].numel()
    assert conv.bias is not None
    assert not conv.bias.any()


@pytest.mark.parametrize("s", [1, 3, 5])
def test_tied_phases_of_an_odd_stride_have_one_gain(s: int) -> None:
    conv = nn.ConvTranspose2d(6, 5, 2 * s - 1, stride=s, padding=(s - 1) // 2)
    tie_phases_(conv)
    gains = [sub_kernel.sum((2, 3)) for sub_kernel in phases(conv, s)]
    for gain in gains:
        torch.testing.assert_close(gain, gains[0])


def test_bilinear_kernel() -> None:
    conv = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)
    bilinear_(conv)
    profile = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    expected = torch.eye(2)[:, :, None, None] * profile[:, None] * profile
    torch.testing.assert_close(conv.weight.data, expected)
    assert conv.bias is not None
    assert not conv.bias.any()


def test_bilinear_volume_of_mixed_factors() -> None:
    """An axis without overlap has a box, one with overlap a triangle."""
    conv = nn.ConvTranspose3d(1, 1, (1, 4, 5), stride=(1, 2, 3), padding=(0, 1, 1))
    bilinear_(conv)
    rows, columns = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4, torch.tensor([1.0, 2, 3, 2, 1]) / 3
    torch.testing.assert_close(conv.weight.data[0, 0, 0], rows[:, None] * columns)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_transposed_weights_keep_their_dtype(dtype: torch.dtype) -> None:
    conv = nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, dtype=dtype)
    for initialise in (tie_phases_, bilinear_):
        initialise(conv)
        assert conv.weight.dtype == dtype
        assert torch.isfinite(conv.weight).all()
