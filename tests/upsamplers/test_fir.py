from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import Bilinear, Fir, Nearest

#: (taps, s) -> the filter of one axis, by hand.
FILTERS: dict[tuple[int, int], list[float]] = {
    (2, 1): [1],
    (2, 2): [1, 1],
    (4, 2): [1 / 4, 3 / 4, 3 / 4, 1 / 4],
    (6, 2): [n / 16 for n in (1, 5, 10, 10, 5, 1)],
    (2, 3): [1, 1, 1],
    (4, 3): [n / 9 for n in (1, 3, 6, 7, 6, 3, 1)],
    (4, 1): [1],
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def upfirdn(x: Tensor, filters: list[list[float]], factors: tuple[int, ...], zeros: bool) -> Tensor:
    """Zero insertion and correlation, output pixel by output pixel."""
    beyond = 4
    pad = [beyond] * 2 * len(factors)
    x = F.pad(x, pad) if zeros else F.pad(x, pad, mode="replicate")
    x = x.movedim((0, 1), (-2, -1))  # (H, W, B, C)
    inserted = x.new_zeros(*(n * s for n, s in zip(x.shape, factors, strict=False)), *x.shape[-2:])
    inserted[tuple(slice(None, None, s) for s in factors)] = x
    sides = [(n - 2 * beyond) * s for n, s in zip(x.shape, factors, strict=False)]
    y = x.new_zeros(*sides, *x.shape[-2:])
    for place in itertools.product(*map(range, sides)):
        for taps in itertools.product(*(range(len(f)) for f in filters)):
            weight = math.prod(f[t] for f, t in zip(filters, taps, strict=True))
            source = tuple(
                i + beyond * s + (len(f) - s) // 2 - t
                for i, s, f, t in zip(place, factors, filters, taps, strict=True)
            )
            y[place] += weight * inserted[source]
    return y.movedim((-2, -1), (0, 1))


@pytest.mark.parametrize("padding", ["replicate", "zeros"])
@pytest.mark.parametrize(
    ("taps", "factors"),
    [(2, (2, 2)), (4, (2, 2)), (6, (2, 2)), (2, (3, 3)), (4, (3, 3)), (4, (1, 2)), (4, (2, 3, 1))],
    ids=str,
)
def test_is_zero_insertion_and_a_filter(taps: int, factors: tuple[int, ...], padding: str) -> None:
    x = torch.randn(1, 2, *(3, 2, 2)[: len(factors)], dtype=torch.float64)
    upsampler = Fir(
        2,
        scale_factor=factors,
        spatial_dims=len(factors),
        taps=taps,  # type: ignore[arg-type]
        padding=padding,  # type: ignore[arg-type]
    ).double()
    filters = [FILTERS[taps, s] for s in factors]
    expected = upfirdn(x, filters, factors, padding == "zeros")
    torch.testing.assert_close(upsampler(x), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (5, 4)], ids=str)
def test_four_taps_double_as_bilinear_also_at_the_border(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    kernel = (taps[:, None] * taps).expand(3, 1, 4, 4)
    continued = F.pad(x, [1] * 4, mode="replicate")
    transposed = F.conv_transpose2d(continued, kernel, stride=2, padding=3, groups=3)
    torch.testing.assert_close(Fir(3)(x), transposed)
    torch.testing.assert_close(Fir(3)(x), Bilinear(3)(x))


def test_is_not_bilinear_otherwise() -> None:
    x = torch.randn(2, 3, 5, 4)
    assert not torch.allclose(Fir(3, taps=6)(x), Bilinear(3)(x), atol=0.01)
    assert not torch.allclose(Fir(3, scale_factor=3)(x), Bilinear(3, scale_factor=3)(x), atol=0.01)


@pytest.mark.parametrize("scale_factor", [1, 2, 3, 4])
def test_two_taps_are_nearest(scale_factor: int) -> None:
    x = torch.randn(2, 3, 5, 4)
    y = Fir(3, scale_factor=scale_factor, taps=2)(x)
    torch.testing.assert_close(y, Nearest(3, scale_factor=scale_factor)(x))


@pytest.mark.parametrize("taps", [4, 6])
@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_never_overshoots_a_step(taps: int, scale_factor: int) -> None:
    step = torch.cat([torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)], dim=-1)
    y = Fir(1, scale_factor=scale_factor, taps=taps)(step)  # type: ignore[arg-type]
    assert y.min().item() >= 0
    assert y.max().item() <= 1 + 1e-6
    assert (y[0, 0, 0].diff() >= -1e-6).all()


def test_zeros_of_the_paper_darken_the_border() -> None:
    y = Fir(1, padding="zeros")(torch.ones(1, 1, 4, 4))[0, 0]
    assert y[0, 0].item() == 0.75**2
    assert y[0, 1:-1].tolist() == [0.75] * 6
    assert y[1:-1, 1:-1].eq(1).all()


@pytest.mark.parametrize(
    ("upsampler", "expected"),
    [
        (Fir(8), 16 * 8),
        (Fir(8, taps=6), 36 * 8),
        (Fir(8, scale_factor=3), 49 * 8),
        (Fir(8, scale_factor=(1, 2, 2), spatial_dims=3), 16 * 8),
    ],
    ids=str,
)
def test_counts_its_taps(upsampler: Fir, expected: int) -> None:
    assert upsampler.macs_per_pixel() == expected
    assert not upsampler.state_dict()


def test_odd_filters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"taps must be 2, 4 or 6, got 3.*shifts the content"):
        Fir(3, taps=3)  # type: ignore[arg-type]
