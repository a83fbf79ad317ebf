"""Lattice energy, lattice peak and phase variance: closed forms, loops, untrained upsamplers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.artifacts import lattice_energy_ratio, lattice_peak_ratio, phase_variance_ratio
from upnas.upsamplers import BilinearConv1x1, NearestConv, SubPixel, Transposed


def cosine(side: int, per_row: float, per_column: float) -> Tensor:
    """(1, 1, side, side) with so many cycles per pixel."""
    places = torch.arange(side).double()
    phase = 2 * math.pi * (per_row * places[:, None] + per_column * places) + 0.3
    return torch.cos(phase)[None, None]


@pytest.mark.parametrize("period", [2, 3, 4])
def test_a_pure_lattice_pattern(period: int) -> None:
    for frequencies in ((1 / period, 0), (0, 1 / period), (1 / period, 1 / period)):
        y = 5 + cosine(16 * period, *frequencies)
        assert lattice_energy_ratio(y, period).item() == pytest.approx(1, abs=1e-12)
        assert phase_variance_ratio(y, period).item() == pytest.approx(1, abs=1e-12)
        assert lattice_peak_ratio(y, period).item() > 1e20


def test_a_pattern_of_another_frequency() -> None:
    y = cosine(64, 1 / 8, 1 / 16)
    assert lattice_energy_ratio(y, 2).item() < 1e-12
    assert phase_variance_ratio(y, 2).item() < 1e-12
    assert lattice_energy_ratio(y, 8).item() == pytest.approx(0, abs=1e-12)
    assert lattice_energy_ratio(y, 16).item() == pytest.approx(1, abs=1e-12)


def test_energies_of_two_patterns_add() -> None:
    """A lattice cosine at Nyquist (power a^2) beside a long wave (power b^2 / 2)."""
    columns = torch.arange(64).double()
    a, b = 0.5, 2.0
    y = (a * (-1) ** columns + b * torch.cos(2 * math.pi * columns / 8)).expand(1, 1, 64, 64)
    assert lattice_energy_ratio(y).item() == pytest.approx(a**2 / (a**2 + b**2 / 2))
    assert phase_variance_ratio(y).item() == pytest.approx(a**2 / (a**2 + b**2 / 2))


def test_phase_variance_misses_a_pattern_whose_sign_alternates() -> None:
    columns = torch.arange(64)
    y = ((-1.0) ** columns * torch.sign(columns - 31.5)).expand(1, 1, 64, 64)
    assert phase_variance_ratio(y).item() < 1e-12
    assert lattice_energy_ratio(y).item() > 0.2


@pytest.mark.parametrize("function", [lattice_energy_ratio, lattice_peak_ratio])
def test_white_noise_has_its_share_of_the_bins(function: Callable[[Tensor, int], Tensor]) -> None:
    y = torch.randn(16, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    shares = {2: 3 * 9 / 64**2, 4: 15 * 9 / 64**2}
    for period, share in shares.items():
        expected = share if function is lattice_energy_ratio else 1.0
        assert function(y, period).mean().item() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_constant_maps_have_nothing(value: float) -> None:
    y = torch.full((2, 3, 34, 37), value)
    for function in (lattice_energy_ratio, lattice_peak_ratio, phase_variance_ratio):
        assert function(y, 2).tolist() == [0, 0]


def test_a_nan_is_not_hidden() -> None:
    y = torch.full((1, 1, 32, 32), math.nan)
    for function in (lattice_energy_ratio, lattice_peak_ratio, phase_variance_ratio):
        assert math.isnan(function(y, 2).item())


@pytest.mark.parametrize("period", [2, 3])
def test_equal_to_loops(period: int) -> None:
    y = torch.rand(2, 3, 25, 31, generator=torch.Generator().manual_seed(1))
    height, width = 25 // period * period, 31 // period * period
    for image, energy, variance in zip(
        y.double().numpy(),
        lattice_energy_ratio(y, period),
        phase_variance_ratio(y, period),
        strict=True,
    ):
        at_lattice = total = between = within = 0.0
        for channel in image[:, :height, :width]:
            centred = channel - channel.mean()
            rows = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(height) / height)
            columns = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
            power = np.abs(np.fft.fft2(centred * rows[:, None] * columns)) ** 2
            total += power.sum()
            for a in range(period):
                for b in range(period):
                    phase = channel[a::period, b::period].mean()
                    between += (phase - channel.mean()) ** 2 / period**2
                    if (a, b) == (0, 0):
                        continue
                    for i in (-1, 0, 1):
                        for j in (-1, 0, 1):
                            row = (a * height // period + i) % height
                            column = (b * width // period + j) % width
                            at_lattice += power[row, column]
            within += channel.var()
        assert energy.item() == pytest.approx(at_lattice / total, rel=1e-9)
        assert variance.item() == pytest.approx(between / within, rel=1e-9)


def test_too_small_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"period 4 needs maps of at least 16 pixels a side"):
        lattice_energy_ratio(torch.zeros(1, 1, 15, 40), 4)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        lattice_peak_ratio(torch.zeros(1, 1, 31, 40), 4)


@pytest.mark.parametrize(
    "function", [lattice_energy_ratio, lattice_peak_ratio, phase_variance_ratio]
)
def test_maps_without_a_lattice_are_refused(function: Callable[[Tensor, int], Tensor]) -> None:
    maps = torch.rand(1, 1, 64, 64)
    for period in (1, 0, -2):
        with pytest.raises(ValueError, match=f"at least 2 pixels; got {period}"):
            function(maps, period)
    for odd in (maps[0], maps.byte(), maps[..., :1]):
        with pytest.raises(ValueError, match=r"floating \(B, C, H, W\)"):
            function(odd, 2)


def pink_input(seed: int) -> Tensor:
    """(1, 32, 64, 64) with a power spectrum of 1/f^2, unit variance and mean 1."""
    noise = torch.randn(1, 32, 64, 64, generator=torch.Generator().manual_seed(seed))
    frequency = torch.hypot(torch.fft.fftfreq(64)[:, None], torch.fft.fftfreq(64))
    frequency[0, 0] = math.inf
    x: Tensor = torch.fft.ifft2(torch.fft.fft2(noise) / frequency).real
    return 1 + x / x.std()


def transposed_k3() -> nn.Module:
    return nn.ConvTranspose2d(32, 32, 3, stride=2, padding=1, output_padding=1)


def subpixel_default() -> nn.Module:
    return nn.Sequential(nn.Conv2d(32, 128, 3, padding=1), nn.PixelShuffle(2))


def subpixel_default_bias() -> nn.Module:
    upsampler = SubPixel(32)
    assert upsampler.conv.bias is not None
    nn.init.uniform_(upsampler.conv.bias, -1 / math.sqrt(288), 1 / math.sqrt(288))
    return upsampler


# The table of random initialisations in UPSAMPLERS.md, section 4: LER, PVR, peak / local.
TABLE: dict[str, tuple[Callable[[], nn.Module], float, float, float]] = {
    "transposed k2": (lambda: Transposed(32, kernel_size=2, init="default"), 0.50, 0.37, 113),
    "transposed k3": (transposed_k3, 0.55, 0.39, 137),
    "transposed k4": (lambda: Transposed(32, kernel_size=4, init="default"), 0.52, 0.38, 122),
    "subpixel": (subpixel_default, 0.53, 0.39, 120),
    "subpixel, ICNR": (subpixel_default_bias, 7e-4, 5e-4, 2.8),
    "subpixel, ICNR, bias 0": (lambda: SubPixel(32), 2e-4, 0, 0.9),
    "nearest, 3x3": (lambda: NearestConv(32), 2e-4, 1e-5, 0.8),
    "bilinear, 1x1": (lambda: BilinearConv1x1(32), 1e-6, 0, 0.01),
}


def test_untrained_upsamplers_have_the_published_checkerboard() -> None:
    """Strong where the phases' kernels are unrelated, whatever the kernel's side; else none."""
    for name, (build, energy, variance, peak) in TABLE.items():
        rows = []
        for seed in range(2):
            torch.manual_seed(seed)
            with torch.no_grad():
                y = build()(pink_input(seed))
            functions = (lattice_energy_ratio, phase_variance_ratio, lattice_peak_ratio)
            rows.append([function(y).item() for function in functions])
        found = np.median(rows, axis=0)
        if energy > 0.4:
            np.testing.assert_allclose(found[:2], [energy, variance], atol=0.12, err_msg=name)
            assert found[2] > 0.25 * peak, name
        else:
            assert found[0] < 2 * energy, name
            assert found[1] < 1e-3, name
            assert found[2] < 3 * max(peak, 0.05), name


def test_default_bias_leaves_a_pattern_that_icnr_does_not_have() -> None:
    torch.manual_seed(0)
    x = torch.ones(1, 32, 16, 16)
    with torch.no_grad():
        default, icnr = (
            m(F.pad(x, (9, 9, 9, 9), mode="replicate"))
            for m in (subpixel_default_bias(), SubPixel(32))
        )
    inside = slice(18, -18)
    assert phase_variance_ratio(default[..., inside, inside]).item() == pytest.approx(1)
    assert icnr[..., inside, inside].flatten(2).std(2).max().item() < 1e-5
