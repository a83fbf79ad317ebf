from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upnas.upsamplers import Bicubic, Bilinear, Nearest

SIZES = [(1, 1), (4, 3), (2, 7)]


def keys(distance: float, a: float = -0.75) -> float:
    """The cubic convolution kernel, Keys 1981, eq. 15 with a free."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    if d < 2:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return 0.0


def triangle(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def weights(kernel: str, size: int, scale_factor: int, align_corners: bool) -> Tensor:
    """The matrix of one axis, row by row from the definition; clamped at the border."""
    matrix = torch.zeros(scale_factor * size, size, dtype=torch.float64)
    for i in range(scale_factor * size):
        position = (i + 0.5) / scale_factor - 0.5
        if align_corners:
            position = i * (size - 1) / (scale_factor * size - 1)
        elif kernel == "bilinear":
            position = min(max(position, 0.0), size - 1.0)
        for tap in range(-3, size + 3):
            weight = (triangle if kernel == "bilinear" else keys)(position - tap)
            matrix[i, min(max(tap, 0), size - 1)] += weight
    return matrix


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale_factor", [2, 3])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("kind", "kernel"), [(Bilinear, "bilinear"), (Bicubic, "bicubic")])
def test_is_separable_convolution(
    kind: type[Bilinear], kernel: str, align_corners: bool, scale_factor: int, size: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    rows, columns = (weights(kernel, side, scale_factor, align_corners) for side in size)
    expected = rows @ x @ columns.T
    y = kind(3, scale_factor=scale_factor, align_corners=align_corners)(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale_factor", [2, 3])
def test_nearest_repeats_pixels(scale_factor: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    y = Nearest(3, scale_factor=scale_factor)(x)
    for i in range(y.shape[-2]):
        for j in range(y.shape[-1]):
            assert torch.equal(y[..., i, j], x[..., i // scale_factor, j // scale_factor])


def test_bicubic_overshoots_a_step_by_about_a_tenth() -> None:
    step = torch.cat([torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)], dim=-1)
    y = Bicubic(1)(step)
    assert y.max().item() == pytest.approx(1.105, abs=0.005)
    assert y.min().item() == pytest.approx(-0.105, abs=0.005)
