from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from upnas.upsamplers import Transposed

from .helpers import num_parameters, perturb

Side = Literal[2, 4]

SIDES = [(2, 2, 2), (2, 4, 4), (3, 2, 3), (3, 4, 5), (4, 2, 4), (4, 4, 8)]


@pytest.mark.parametrize(("scale_factor", "kernel_size", "side"), SIDES)
def test_scatters_every_pixel(scale_factor: int, kernel_size: Side, side: int) -> None:
    torch.manual_seed(0)
    upsampler = Transposed(3, 2, scale_factor=scale_factor, kernel_size=kernel_size).double()
    perturb(upsampler)
    assert upsampler.conv.kernel_size == (side, side)
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64)
    height, width, border = scale_factor * 4, scale_factor * 3, (side - scale_factor) // 2
    expected = torch.zeros(2, height, width, dtype=torch.float64)
    expected += upsampler.conv.bias[:, None, None]  # type: ignore[index]
    for i in range(4):
        for j in range(3):
            for u in range(side):
                for v in range(side):
                    row, column = scale_factor * i + u - border, scale_factor * j + v - border
                    if 0 <= row < height and 0 <= column < width:
                        weight = upsampler.conv.weight[:, :, u, v]
                        expected[:, row, column] += x[0, :, i, j] @ weight
    torch.testing.assert_close(upsampler(x)[0], expected)


@pytest.mark.parametrize(("scale_factor", "kernel_size", "side"), SIDES)
def test_tied_starts_as_interpolation_of_a_1x1_convolution(
    scale_factor: int, kernel_size: Side, side: int
) -> None:
    torch.manual_seed(0)
    upsampler = Transposed(16, 3, scale_factor=scale_factor, kernel_size=kernel_size)
    # Each of the s * s phases of the profile sums to one.
    mixing = upsampler.conv.weight.sum((2, 3)).T / scale_factor**2
    x = torch.randn(2, 16, 6, 5)
    mixed = F.conv2d(x, mixing[:, :, None, None])
    mode = "nearest" if kernel_size == 2 else "bilinear"
    expected = F.interpolate(mixed, scale_factor=scale_factor, mode=mode)
    interior = (..., slice(scale_factor, -scale_factor), slice(scale_factor, -scale_factor))
    torch.testing.assert_close(upsampler(x)[interior], expected[interior], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("scale_factor", "kernel_size", "side"), SIDES)
def test_tied_has_no_checkerboard_and_default_has(
    scale_factor: int, kernel_size: Side, side: int
) -> None:
    torch.manual_seed(0)
    ones = torch.ones(1, 16, 8, 8)
    interior = (..., slice(scale_factor, -scale_factor), slice(scale_factor, -scale_factor))
    inits: tuple[Literal["tied", "default"], ...] = ("tied", "default")
    spread = {}
    for init in inits:
        upsampler = Transposed(16, 3, scale_factor=scale_factor, kernel_size=kernel_size, init=init)
        y = upsampler(ones)[interior]
        spread[init] = (y.std((2, 3)) / y.mean((2, 3)).abs()).max().item()
    assert spread["tied"] < 1e-5
    assert spread["default"] > 0.05


def test_starts_with_unit_gain() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, 1, 1).expand(2, 64, 8, 8)
    y = Transposed(64, 512)(x)[..., 4:-4, 4:-4]
    assert y.var().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_uneven_kernels_are_refused(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"must be 2 .* or 4 .*got {kernel_size}"):
        Transposed(4, kernel_size=kernel_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel_size", [2, 4])
def test_number_of_parameters(kernel_size: Side) -> None:
    assert num_parameters(Transposed(5, 3, kernel_size=kernel_size)) == 15 * kernel_size**2 + 3
