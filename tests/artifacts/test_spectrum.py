from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from upnas.artifacts import radial_spectrum, spectrum_distance


def test_a_wave_is_at_its_distance() -> None:
    """Power a^2 / 2 per pixel, shared by two bins of the ring."""
    columns = torch.arange(32).double()
    wave = torch.cos(2 * math.pi * 5 * columns / 32).expand(1, 1, 24, 32)
    spectrum = radial_spectrum(0.5 + wave)
    assert spectrum.shape == (1, 12)
    # 5 / 32 cycles per px are 3.75 cycles over the shorter side of 24.
    assert spectrum.argmax().item() == 4 - 1
    rows, cols = np.fft.fftfreq(24)[:, None] * 24, np.fft.fftfreq(32) * 24
    num_bins = (np.rint(np.hypot(rows, cols)) == 4).sum()
    assert spectrum[0, 3].item() == pytest.approx(24 * 32 * 0.5 / num_bins)
    assert spectrum.sum().item() == pytest.approx(spectrum[0, 3].item())


def test_white_noise_is_flat() -> None:
    noise = torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    spectrum = radial_spectrum(noise).mean(0)
    torch.testing.assert_close(spectrum[4:], torch.ones_like(spectrum[4:]), rtol=0.15, atol=0.0)


def test_distance_closed_form() -> None:
    """Ten times the amplitude is a hundred times the power at every radius."""
    truth = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1
    assert spectrum_distance(truth, truth).tolist() == [0, 0]
    for image in (10 * truth, 10 * truth + 0.3):
        distance = spectrum_distance(image, truth)
        assert distance.tolist() == pytest.approx([math.log(100)] * 2, rel=0.02)
    torch.testing.assert_close(
        spectrum_distance(10 * truth, truth), spectrum_distance(truth, 10 * truth)
    )


def test_what_is_below_the_rounding_to_8_bits_is_no_signal() -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    noise = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert spectrum_distance(flat + 1e-5 * noise, flat).item() < 1e-3
    assert spectrum_distance(flat + 1e-1 * noise, flat).item() > 5


def test_images_that_do_not_fit_are_refused() -> None:
    image = torch.rand(1, 1, 16, 16)
    for images, truth in ((image, image[..., 1:]), (image[0], image[0]), (image.bool(), image)):
        with pytest.raises(ValueError, match=r"floating \(B, C, H, W\) of equal shapes"):
            spectrum_distance(images, truth)
    with pytest.raises(ValueError, match=r"H, W >= 2; got torch.float32 \(1, 1, 1, 16\)"):
        radial_spectrum(image[:, :, :1])
