from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import BilinearConv1x1, NearestConv, UNetBlock, Upsampler

from .helpers import num_parameters, perturb

FACTORS = [(2, 2), (3, 3), (1, 4), (2, 2, 2), (1, 2, 3)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pair(
    kind: type[Upsampler], factors: tuple[int, ...], parameter: str, values: tuple[str, str]
) -> tuple[Upsampler, Upsampler]:
    """Two settings with the same state dict, in float64."""
    place: dict[str, Any] = {"scale_factor": factors, "spatial_dims": len(factors)}
    first, second = (kind(4, 3, **(place | {parameter: value})).double() for value in values)
    perturb(first)
    second.load_state_dict(first.state_dict())
    return first, second


def gradients(upsampler: Upsampler, x: Tensor) -> list[Tensor]:
    """Of a fixed loss, with respect to the input and every parameter."""
    x = x.clone().requires_grad_()
    y = upsampler(x)
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().reshape(y.shape)
    return list(torch.autograd.grad((y * direction).sum(), [x, *upsampler.parameters()]))


def volume(factors: tuple[int, ...]) -> Tensor:
    return torch.randn(2, 4, *(5, 3, 4)[: len(factors)], dtype=torch.float64)


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_the_convolution_may_come_first(factors: tuple[int, ...]) -> None:
    first, last = pair(BilinearConv1x1, factors, "order", ("conv_first", "upsample_first"))
    x = volume(factors)
    mode = "bilinear" if len(factors) == 2 else "trilinear"
    size = first.upsampled_size(x)
    assert isinstance(first, BilinearConv1x1)
    expected = first.conv(F.interpolate(x, size=size, mode=mode))
    torch.testing.assert_close(first(x), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(last(x), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients(first, x), gradients(last, x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_the_fused_form_is_the_same_function_in_training_too(factors: tuple[int, ...]) -> None:
    fused, plain = pair(NearestConv, factors, "form", ("fused", "plain"))
    x = volume(factors)
    repeated = x
    for axis, s in enumerate(factors, start=2):
        repeated = repeated.repeat_interleave(s, axis)
    assert isinstance(fused, NearestConv)
    torch.testing.assert_close(fused(x), fused.conv(repeated))
    torch.testing.assert_close(plain(x), fused.conv(repeated))
    torch.testing.assert_close(gradients(fused, x), gradients(plain, x))


@pytest.mark.parametrize("scale_factor", [2, 3])
def test_nearest_conv_is_its_equation(scale_factor: int) -> None:
    upsampler = NearestConv(2, 3, scale_factor=scale_factor).double()
    perturb(upsampler)
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64)
    height, width = (scale_factor * side for side in x.shape[2:])
    weight, bias = upsampler.conv.weight, upsampler.conv.bias
    assert bias is not None
    y = bias[:, None, None].repeat(1, height, width)
    for i in range(height):
        for j in range(width):
            for k in range(3):
                for m in range(3):
                    row, column = i + k - 1, j + m - 1
                    if 0 <= row < height and 0 <= column < width:
                        pixel = x[0, :, row // scale_factor, column // scale_factor]
                        y[:, i, j] += weight[:, :, k, m] @ pixel
    torch.testing.assert_close(upsampler(x)[0], y)


@pytest.mark.parametrize("dims", [2, 3])
def test_unet_block_normalises_and_rectifies(dims: int) -> None:
    upsampler = UNetBlock(4, 6, spatial_dims=dims)
    x = torch.randn(3, 4, *(5, 6, 3)[:dims])
    mode, conv = ("bilinear", F.conv2d) if dims == 2 else ("trilinear", F.conv3d)
    interpolated = F.interpolate(x, scale_factor=2, mode=mode, align_corners=False)
    z = conv(interpolated, upsampler.conv.weight, padding=1)
    pixels = (0, *range(2, 2 + dims))
    mean, variance = z.mean(pixels, keepdim=True), z.var(pixels, unbiased=False, keepdim=True)
    normal = (z - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(upsampler(x), normal.clamp(min=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (NearestConv, 9 * 5 * 3 + 3),
        (BilinearConv1x1, 5 * 3 + 3),
        (UNetBlock, 9 * 5 * 3 + 2 * 3),
    ],
)
def test_number_of_parameters(kind: type[NearestConv], expected: int) -> None:
    assert num_parameters(kind(5, 3)) == expected


@pytest.mark.parametrize(
    ("upsampler", "expected"),
    [
        (NearestConv(5, 3), 16 * 5 * 3),
        (NearestConv(5, 3, scale_factor=3), 25 * 5 * 3),
        (NearestConv(5, 3, form="plain"), 4 * 9 * 5 * 3),
        (NearestConv(5, 3, scale_factor=(1, 2, 2), spatial_dims=3), 3 * 4 * 4 * 5 * 3),
        (NearestConv(5, 3, scale_factor=(1, 2, 2), spatial_dims=3, form="plain"), 4 * 27 * 15),
        (BilinearConv1x1(5, 3), 5 * 3 + 4 * 4 * 3),
        (BilinearConv1x1(5, 3, order="upsample_first"), 4 * (4 * 5 + 5 * 3)),
        (BilinearConv1x1(5, 3, spatial_dims=3), 5 * 3 + 8 * 8 * 3),
        (UNetBlock(5, 3), 4 * (4 * 5 + 9 * 5 * 3)),
        (UNetBlock(5, 3, spatial_dims=3), 8 * (8 * 5 + 27 * 5 * 3)),
    ],
    ids=str,
)
def test_counts_its_multiplications(upsampler: Upsampler, expected: int) -> None:
    assert upsampler.macs_per_pixel() == expected


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", [NearestConv, BilinearConv1x1])
def test_starts_with_unit_gain(kind: type[NearestConv], dims: int) -> None:
    """White features keep their variance through the initial convolution."""
    upsampler = kind(64, 256, spatial_dims=dims)
    white = torch.randn(4, 64, *(8, 8, 8)[:dims])
    interior = upsampler.conv(white)[(..., *(slice(1, -1),) * dims)]
    assert interior.var().item() == pytest.approx(1, rel=0.1)
