"""Checkerboard that is there: patterns in images, logits or features with a period of s pixels.

Content has some energy at the lattice frequencies, too, and the replicas of nearest-neighbour
interpolation have more: compare candidates with each other, or with nearest, and not with zero.
Both ratios are of energies summed over the channels. A period-4 lattice holds that of period 2.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from upnas.artifacts._checks import check_images, check_period

#: Bins between two lattice frequencies that keep their 3 x 3 neighbourhoods apart.
MIN_SPACING: Final = 4
_RING: Final = (3, 4)  # distances in bins, beyond the main lobe of the Hann window
_MIN_RING_SPACING: Final = 2 * _RING[1]


def lattice_energy_ratio(maps: Tensor, period: int = 2) -> Tensor:
    """The share of the energy that is at the lattice's frequencies (LER).

    Maps lose their mean and get a periodic Hann window; of their power spectrum P, the ratio is

        sum over (a, b) != 0 of P(a H / s +- 1, b W / s +- 1) / sum of P,   0 <= a, b < s.

    A pattern with exactly that period has 1: the window spreads a line over 3 bins.

    Args:
        maps: (B, C, H, W), H, W >= 4 s; rows and columns beyond a multiple of s are left out.
        period: Period s of the lattice in pixels: the scale factor of the upsampling.

    Returns:
        (B,) in [0, 1]; 0 for constant maps.

    Raises:
        ValueError: If the maps are not floating (B, C, H, W), or hold too few periods, or s < 2.
    """
    cells = _cells(maps, period, MIN_SPACING)
    distance = _distance(cells)
    at_lattice = (cells[:, 1:] * (distance <= 1)).sum((1, 2, 3))
    return _ratio(at_lattice, cells.sum((1, 2, 3)))


def lattice_peak_ratio(maps: Tensor, period: int = 2) -> Tensor:
    """How far the lattice's frequencies stand out of their surroundings.

    Mean power in the 3 x 3 bins of a lattice frequency over the median in the ring of 3 to 4 bins
    around it, each summed over the lattice frequencies: about 1 where nothing stands out.

    Args:
        maps: (B, C, H, W), H, W >= 8 s; rows and columns beyond a multiple of s are left out.
        period: Period s of the lattice in pixels.

    Returns:
        (B,); 0 for constant maps, infinite for a pure lattice pattern.

    Raises:
        ValueError: If the maps are not floating (B, C, H, W), or hold too few periods, or s < 2.
    """
    cells = _cells(maps, period, _MIN_RING_SPACING)[:, 1:]
    distance = _distance(cells)
    peak = cells[..., distance <= 1].mean(2).sum(1)
    ring = cells[..., (distance >= _RING[0]) & (distance <= _RING[1])].median(2).values.sum(1)
    return _ratio(peak, ring)


def phase_variance_ratio(maps: Tensor, period: int = 2) -> Tensor:
    """Variance of the phases' means over the variance of all pixels (PVR).

    Phase p holds the pixels at place p within their block of s x s. Cheap; blind to a pattern
    whose sign alternates over the image.

    Args:
        maps: (B, C, H, W), H, W >= s; rows and columns beyond a multiple of s are left out.
        period: Period s in pixels.

    Returns:
        (B,) in [0, 1]; 0 for constant maps.

    Raises:
        ValueError: If the maps are not floating (B, C, H, W), or smaller than a period, or s < 2.
    """
    y = _centred(maps, period, min_periods=1)
    batch, channels, height, width = y.shape
    blocks = y.view(batch, channels, height // period, period, width // period, period)
    means = blocks.mean((2, 4))  # (B, C, s, s)
    return _ratio(means.square().mean((2, 3)).sum(1), y.square().mean((2, 3)).sum(1))


def _centred(maps: Tensor, period: int, min_periods: int) -> Tensor:
    """Maps without their mean, in whole periods; exactly zero where they are constant."""
    check_images(maps)
    check_period(period)
    height, width = (side // period * period for side in maps.shape[2:])
    if min(height, width) < min_periods * period:
        raise ValueError(
            f"a lattice of period {period} needs maps of at least {min_periods * period} pixels a "
            f"side; got {tuple(maps.shape[2:])}."
        )
    y = maps[..., :height, :width].double()
    y = y - y[..., :1, :1]
    return y - y.mean((2, 3), keepdim=True)


def _cells(maps: Tensor, period: int, min_periods: int) -> Tensor:
    """The power spectrum around each lattice frequency (B, s * s, H / s, W / s), DC first."""
    y = _centred(maps, period, min_periods)
    height, width = y.shape[2:]
    for axis, side in ((2, height), (3, width)):
        window = torch.hann_window(side, dtype=y.dtype, device=y.device)  # periodic
        y = y * window.view(-1, *(1,) * (3 - axis))
    power: Tensor = torch.fft.fft2(y).abs().square().sum(1)
    high, wide = height // period, width // period
    power = power.roll((high // 2, wide // 2), (1, 2))  # lattice frequencies to their cells' centre
    return power.view(-1, period, high, period, wide).transpose(2, 3).flatten(1, 2)


def _distance(cells: Tensor) -> Tensor:
    """Of every bin from the centre of its cell, in bins along the farther axis."""
    rows, columns = (
        (torch.arange(side, device=cells.device) - side // 2).abs() for side in cells.shape[2:]
    )
    return torch.maximum(rows[:, None], columns)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where((part == 0) & (whole == 0), 0.0, part / whole)
