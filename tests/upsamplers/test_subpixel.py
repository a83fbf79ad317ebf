from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import LightSubPixel, SubPixel
from upnas.upsamplers.functional.shuffle import box_blur, pixel_shuffle

from .helpers import num_parameters, perturb

FACTORS = [(2, 2), (3, 3), (2, 3), (1, 2, 3), (2, 2, 2)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shuffled(z: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Shi et al., eq. 4: y[c, Y, X] = z[c s^2 + (Y mod s) s + X mod s, Y // s, X // s]."""
    size = [s * side for s, side in zip(factors, z.shape[1:], strict=True)]
    y = z.new_empty([z.shape[0] // math.prod(factors), *size])
    for c in range(y.shape[0]):
        for place in itertools.product(*map(range, size)):
            channel = c
            for at, s in zip(place, factors, strict=True):
                channel = channel * s + at % s
            source = tuple(at // s for at, s in zip(place, factors, strict=True))
            y[c, *place] = z[channel, *source]
    return y


def identity_(upsampler: SubPixel) -> None:
    """Make it resize every channel on its own, without its zero padding."""
    with torch.no_grad():
        upsampler.conv.weight.zero_()
        phases = upsampler.scale_factor**2
        for c in range(upsampler.channels):
            sub_pixels = slice(c * phases, (c + 1) * phases)
            upsampler.conv.weight[sub_pixels, c, 1, 1] = 1


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("kind", [SubPixel, LightSubPixel])
def test_is_a_convolution_and_the_periodic_shuffle(
    kind: type[SubPixel | LightSubPixel], factors: tuple[int, ...]
) -> None:
    upsampler = kind(2, 3, scale_factor=factors, spatial_dims=len(factors)).double()
    perturb(upsampler)
    x = torch.randn(1, 2, *(3, 2, 2)[: len(factors)], dtype=torch.float64)
    r = upsampler.conv.kernel_size[0] // 2
    padded = F.pad(x[0], [r] * 2 * len(factors))
    z = torch.zeros(upsampler.conv.out_channels, *x.shape[2:], dtype=torch.float64)
    for pixel in itertools.product(*map(range, x.shape[2:])):
        window = padded[:, *(slice(i, i + 2 * r + 1) for i in pixel)]
        for channel, weight in enumerate(upsampler.conv.weight):
            z[channel, *pixel] = (weight * window).sum()
    assert upsampler.conv.bias is not None
    z += upsampler.conv.bias.reshape(-1, *(1 for _ in factors))
    expected = shuffled(z, factors)
    if kind is LightSubPixel:
        expected = expected * (expected + 3).clamp(0, 6) / 6
    torch.testing.assert_close(upsampler(x)[0], expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("factors", FACTORS)
def test_pixel_shuffle_keeps_the_memory_format(
    factors: tuple[int, ...], channels_last: bool
) -> None:
    z = torch.randn(2, 3 * math.prod(factors), *(3, 4, 2)[: len(factors)])
    memory_format = torch.channels_last if len(factors) == 2 else torch.channels_last_3d
    if channels_last:
        z = z.contiguous(memory_format=memory_format)
    y = pixel_shuffle(z, factors)
    torch.testing.assert_close(y, torch.stack([shuffled(image, factors) for image in z]))
    expected = memory_format if channels_last else torch.contiguous_format
    assert y.is_contiguous(memory_format=expected)
    if len(factors) == 2 and len(set(factors)) == 1:
        assert torch.equal(y, F.pixel_shuffle(z, factors[0]))


def test_pixel_shuffle_needs_channels_for_every_sub_pixel() -> None:
    with pytest.raises(ValueError, match=r"by \(2, 3\) needs a multiple of 6 channels; got 9"):
        pixel_shuffle(torch.randn(1, 9, 2, 2), (2, 3))


def test_activations() -> None:
    x = torch.randn(2, 4, 5, 6)
    leaky = SubPixel(4, 3, activation="leaky_relu")
    plain = SubPixel(4, 3)
    plain.load_state_dict(leaky.state_dict())
    y = plain(x)
    torch.testing.assert_close(leaky(x), torch.where(y > 0, y, 0.2 * y))


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("kind", [SubPixel, LightSubPixel])
def test_starts_as_nearest_neighbour(
    kind: type[SubPixel | LightSubPixel], factors: tuple[int, ...]
) -> None:
    x = torch.randn(2, 4, *(5, 6, 4)[: len(factors)])
    y = kind(4, 3, scale_factor=factors, spatial_dims=len(factors))(x)
    low = y[..., *(slice(None, None, s) for s in factors)]
    torch.testing.assert_close(y, F.interpolate(low, scale_factor=tuple(map(float, factors))))
    assert low.std() > 0.1


@pytest.mark.parametrize("factors", [*FACTORS, (4, 4)])
def test_blur_starts_as_bilinear_interpolation(factors: tuple[int, ...]) -> None:
    """Borders included; nothing shifts."""
    x = torch.randn(2, 4, *(5, 6, 4)[: len(factors)])
    blurred = SubPixel(4, 3, scale_factor=factors, spatial_dims=len(factors), blur=True)
    plain = SubPixel(4, 3, scale_factor=factors, spatial_dims=len(factors))
    plain.load_state_dict(blurred.state_dict())
    low = plain(x)[..., *(slice(None, None, s) for s in factors)]
    mode = "bilinear" if len(factors) == 2 else "trilinear"
    expected = F.interpolate(low, scale_factor=tuple(map(float, factors)), mode=mode)
    torch.testing.assert_close(blurred(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_blur_has_unit_gain_at_the_border(scale_factor: int) -> None:
    """Zero padding would halve the top and left edges and quarter the corner."""
    upsampler = SubPixel(2, scale_factor=scale_factor, blur=True)
    identity_(upsampler)
    y = upsampler(torch.ones(1, 2, 4, 3))
    torch.testing.assert_close(y, torch.ones_like(y))


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_blur_does_not_shift(scale_factor: int) -> None:
    """Padding above and left alone would move the centroid by half an output pixel."""
    s = scale_factor
    upsampler = SubPixel(1, scale_factor=s, blur=True).double()
    identity_(upsampler)
    x = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    x[0, 0, 2, 4] = 1
    y = upsampler(x)[0, 0]
    position = torch.arange(7 * s, dtype=torch.float64)
    assert (y.sum(1) @ position / y.sum()).item() == pytest.approx(2 * s + (s - 1) / 2)
    assert (y.sum(0) @ position / y.sum()).item() == pytest.approx(4 * s + (s - 1) / 2)


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_blur_removes_any_checkerboard(scale_factor: int) -> None:
    """Whatever the weights have become: a constant input has no pattern in the interior."""
    s = scale_factor
    upsampler = SubPixel(4, 3, scale_factor=s, blur=True)
    perturb(upsampler, std=1.0)
    ones = torch.ones(1, 4, 6, 6)
    interior = (..., slice(2 * s, -2 * s), slice(2 * s, -2 * s))
    y = upsampler(ones)[interior]
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y), atol=1e-5, rtol=1e-5)
    upsampler.blur = False
    assert upsampler(ones)[interior].std((2, 3)).min() > 0.1


@pytest.mark.parametrize("factors", [(2, 3), (4, 1)])
def test_box_blur_averages_a_centred_window(factors: tuple[int, int]) -> None:
    """Half-covered pixels count half; beyond the border the last pixel goes on."""
    height, width = 5, 4
    x = torch.randn(1, 1, height, width, dtype=torch.float64)
    expected = torch.zeros(height, width, dtype=torch.float64)
    shares = [
        {d: min(d + 0.5, s / 2) - max(d - 0.5, -s / 2) for d in range(-(s // 2), s // 2 + 1)}
        for s in factors
    ]
    for i, j in itertools.product(range(height), range(width)):
        for (down, row_share), (right, column_share) in itertools.product(
            *(share.items() for share in shares)
        ):
            row, column = min(max(i + down, 0), height - 1), min(max(j + right, 0), width - 1)
            share = row_share * column_share / math.prod(factors)
            expected[i, j] += share * x[0, 0, row, column]
    torch.testing.assert_close(box_blur(x, factors)[0, 0], expected)


def test_published_costs_are_reproduced() -> None:
    """Six x2 modules with 256 channels: 14.2 M parameters, 34.4 GMACs at 14592 input pixels."""
    with torch.device("meta"):
        upsampler = SubPixel(256)
    assert 6 * num_parameters(upsampler) / 1e6 == pytest.approx(14.2, abs=0.05)
    assert 14592 * upsampler.macs_per_pixel() / 1e9 == pytest.approx(34.4, abs=0.05)


@pytest.mark.parametrize("factors", FACTORS)
def test_empty_batch(factors: tuple[int, ...]) -> None:
    n = len(factors)
    x = torch.zeros(0, 5, *(4,) * n)
    for kind in (SubPixel, LightSubPixel):
        y = kind(5, 3, scale_factor=factors, spatial_dims=n)(x)
        assert y.shape == (0, 3, *(4 * s for s in factors))


def test_counts() -> None:
    assert num_parameters(SubPixel(5, 3, scale_factor=3)) == (9 * 5 + 1) * 9 * 3
    assert SubPixel(5, 3, scale_factor=3).macs_per_pixel() == 9 * 5 * 9 * 3
    assert SubPixel(5, 3, scale_factor=2, blur=True).macs_per_pixel() == (9 * 5 + 9) * 4 * 3
    volume = SubPixel(5, 3, scale_factor=(1, 2, 3), spatial_dims=3, blur=True)
    assert num_parameters(volume) == (27 * 5 + 1) * 6 * 3
    assert volume.macs_per_pixel() == (27 * 5 + 1 * 3 * 3) * 6 * 3
    assert num_parameters(LightSubPixel(5, 3, scale_factor=3)) == (5 + 1) * 9 * 3
    assert LightSubPixel(5, 3, scale_factor=(2, 3)).macs_per_pixel() == 5 * 6 * 3
