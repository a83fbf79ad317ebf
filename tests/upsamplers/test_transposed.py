from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers import Transposed

from .helpers import num_parameters, perturb

Side = Literal[2, 4]
Init = Literal["tied", "bilinear", "default"]

SIDES = [(2, 2, 2), (2, 4, 4), (3, 2, 3), (3, 4, 5), (4, 2, 4), (4, 4, 8)]


def interior(y: Tensor, margin: int) -> Tensor:
    for axis in range(2, y.dim()):
        y = y.narrow(axis, margin, y.shape[axis] - 2 * margin)
    return y


def scattered(upsampler: Transposed, x: Tensor) -> Tensor:
    """Every pixel of (C, ...) adds its kernel to the output, one number at a time."""
    factors, sides = upsampler.factors, upsampler.conv.kernel_size
    assert upsampler.conv.bias is not None
    kernel = upsampler.conv.weight.movedim((0, 1), (-2, -1))
    x = x.movedim(0, -1)
    size = [s * side for s, side in zip(factors, x.shape[:-1], strict=True)]
    y = upsampler.conv.bias.expand(*size, -1).clone()
    for pixel in itertools.product(*map(range, x.shape[:-1])):
        for tap in itertools.product(*map(range, sides)):
            place = tuple(
                s * i + u - (side - s) // 2
                for i, u, s, side in zip(pixel, tap, factors, sides, strict=True)
            )
            if all(0 <= i < side for i, side in zip(place, size, strict=True)):
                y[place] += x[pixel] @ kernel[tap]
    return y.movedim(-1, 0)


@pytest.mark.parametrize(("scale_factor", "kernel_size", "side"), SIDES)
def test_scatters_every_pixel(scale_factor: int, kernel_size: Side, side: int) -> None:
    torch.manual_seed(0)
    upsampler = Transposed(3, 2, scale_factor=scale_factor, kernel_size=kernel_size).double()
    perturb(upsampler)
    assert upsampler.conv.kernel_size == (side, side)
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(upsampler(x)[0], scattered(upsampler, x[0]))


@pytest.mark.parametrize("kernel_size", [2, 4])
@pytest.mark.parametrize("factors", [(3, 2), (1, 2, 3)])
def test_scatters_along_every_axis(factors: tuple[int, ...], kernel_size: Side) -> None:
    torch.manual_seed(0)
    upsampler = Transposed(
        2, 3, scale_factor=factors, spatial_dims=len(factors), kernel_size=kernel_size
    ).double()
    perturb(upsampler)
    x = torch.randn(1, 2, *(2, 3, 2)[: len(factors)], dtype=torch.float64)
    torch.testing.assert_close(upsampler(x)[0], scattered(upsampler, x[0]))


@pytest.mark.parametrize("scale_factor", [2, 3])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kernel_size", [2, 4])
def test_bilinear_starts_as_interpolation(
    kernel_size: Side, spatial_dims: int, scale_factor: int
) -> None:
    s = scale_factor
    upsampler = Transposed(
        3, scale_factor=s, spatial_dims=spatial_dims, kernel_size=kernel_size, init="bilinear"
    )
    x = torch.randn(2, 3, *(5, 4, 6)[:spatial_dims])
    overlapping = "bilinear" if spatial_dims == 2 else "trilinear"
    mode = "nearest" if kernel_size == 2 else overlapping
    expected = F.interpolate(x, scale_factor=s, mode=mode)
    torch.testing.assert_close(interior(upsampler(x), s), interior(expected, s))


@pytest.mark.parametrize(("scale_factor", "kernel_size", "side"), SIDES)
def test_bilinear_that_changes_channels_interpolates_a_1x1_convolution(
    scale_factor: int, kernel_size: Side, side: int
) -> None:
    torch.manual_seed(0)
    upsampler = Transposed(
        16, 3, scale_factor=scale_factor, kernel_size=kernel_size, init="bilinear"
    )
    # Each of the s * s phases of the profile sums to one.
    mixing = upsampler.conv.weight.sum((2, 3)).T / scale_factor**2
    x = torch.randn(2, 16, 6, 5)
    mixed = F.conv2d(x, mixing[:, :, None, None])
    mode = "nearest" if kernel_size == 2 else "bilinear"
    expected = F.interpolate(mixed, scale_factor=scale_factor, mode=mode)
    y, expected = (interior(output, scale_factor) for output in (upsampler(x), expected))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("scale_factor", "kernel_size"), [(2, 2), (3, 2), (2, 4), (4, 4)])
def test_tied_starts_as_nearest_of_a_convolution(scale_factor: int, kernel_size: Side) -> None:
    """Of a 1x1 convolution, or of a 2x2 one, whose pixels lie between those of the input."""
    torch.manual_seed(0)
    s = scale_factor
    upsampler = Transposed(4, 3, scale_factor=s, kernel_size=kernel_size)
    x = torch.randn(2, 4, 6, 5)
    y = upsampler(x)
    if kernel_size == 4:
        y = interior(y, s // 2)
    weight = upsampler.conv.weight[:, :, ::s, ::s].transpose(0, 1).flip(2, 3)
    torch.testing.assert_close(y, F.interpolate(F.conv2d(x, weight), scale_factor=s))


@pytest.mark.parametrize(("scale_factor", "kernel_size", "side"), SIDES)
def test_only_the_default_starts_with_a_checkerboard(
    scale_factor: int, kernel_size: Side, side: int
) -> None:
    torch.manual_seed(0)
    ones = torch.ones(1, 16, 8, 8)
    inits: tuple[Init, ...] = ("tied", "bilinear", "default")
    spread = {}
    for init in inits:
        upsampler = Transposed(16, 3, scale_factor=scale_factor, kernel_size=kernel_size, init=init)
        y = interior(upsampler(ones), scale_factor)
        spread[init] = (y.std((2, 3)) / y.mean((2, 3)).abs()).max().item()
    assert spread["tied"] < 1e-5
    assert spread["bilinear"] < 1e-5
    assert spread["default"] > 0.05


@pytest.mark.parametrize("kernel_size", [2, 4])
@pytest.mark.parametrize("init", ["tied", "bilinear"])
def test_starts_with_unit_gain(init: Init, kernel_size: Side) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, 1, 1).expand(2, 64, 8, 8)
    y = interior(Transposed(64, 512, init=init, kernel_size=kernel_size)(x), 4)
    assert y.var().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(("spatial_dims", "norm"), [(2, nn.BatchNorm2d), (3, nn.BatchNorm3d)])
def test_norm_act_appends_batch_norm_and_relu(spatial_dims: int, norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    upsampler = Transposed(4, 3, spatial_dims=spatial_dims, norm_act=True)
    assert upsampler.conv.bias is None
    assert isinstance(upsampler.norm, norm)
    x = torch.randn(3, 4, *[5] * spatial_dims)
    z = upsampler.conv(x).transpose(0, 1).flatten(1)
    normal = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    y = upsampler(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(y, normal.clamp(min=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_uneven_kernels_are_refused(kernel_size: Any) -> None:
    with pytest.raises(ValueError, match=f"must be 2 .* or 4 .*got {kernel_size}"):
        Transposed(4, kernel_size=kernel_size)


@pytest.mark.parametrize(("scale_factor", "kernel_size", "side"), SIDES)
def test_counts(scale_factor: int, kernel_size: Side, side: int) -> None:
    upsampler = Transposed(5, 3, scale_factor=scale_factor, kernel_size=kernel_size)
    assert num_parameters(upsampler) == 15 * side**2 + 3
    assert upsampler.macs_per_pixel() == 15 * side**2
    volume = Transposed(5, 3, scale_factor=(1, 2, 2), spatial_dims=3, norm_act=True)
    assert num_parameters(volume) == 15 * math.prod((1, 4, 4)) + 2 * 3
    assert volume.macs_per_pixel() == 15 * math.prod((1, 4, 4))
