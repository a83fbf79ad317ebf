"""Whether an image has the frequencies of the true one."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from upnas.artifacts._checks import check_images

#: Power of the rounding to 8 bits, per pixel and channel: what is below is no signal.
_NOISE_FLOOR: Final = 1 / (12 * 255**2)


def radial_spectrum(images: Tensor) -> Tensor:
    """Mean power at each distance from zero frequency (azimuthal average).

    Durall et al., CVPR 2020, https://arxiv.org/abs/2003.01826, eq. 2, of the mean over the
    channels; power is per pixel. Distances k = 1, 2, ... min(H, W) / 2 are in cycles over the
    shorter side, rounded; the mean of the image (k = 0) and the corners beyond are left out.

    Args:
        images: (B, C, H, W).

    Returns:
        (B, min(H, W) // 2) in double precision.

    Raises:
        ValueError: If the images are not floating (B, C, H, W), H, W >= 2.
    """
    check_images(images)
    grey = images.double().mean(1)
    power = torch.fft.fft2(grey, norm="ortho").abs().square().flatten(1)
    height, width = grey.shape[1:]
    rows, columns = (
        torch.fft.fftfreq(side, dtype=grey.dtype, device=grey.device) for side in (height, width)
    )
    shorter = min(height, width)
    distance = (torch.hypot(rows[:, None], columns) * shorter).round().long().flatten()
    num_bins = int(distance.max()) + 1
    total = power.new_zeros(len(power), num_bins).index_add_(1, distance, power)
    mean: Tensor = total / distance.bincount(minlength=num_bins)
    return mean[:, 1 : shorter // 2 + 1]


def spectrum_distance(images: Tensor, truth: Tensor) -> Tensor:
    """Mean over the radii k of |log A(k) of the image - log A(k) of the truth|.

    The sum of UpConv (Durall et al., CVPR 2020, https://arxiv.org/abs/2003.01826) divided by the
    number of radii, so that sizes compare; A is :func:`radial_spectrum` plus the power of 8-bit
    rounding.

    Args:
        images: (B, C, H, W) in [0, 1].
        truth: (B, C, H, W) in [0, 1].

    Returns:
        (B,) in double precision; 0 for equal spectra, log 10 = 2.3 for tenfold power throughout.

    Raises:
        ValueError: If the images are not floating (B, C, H, W) of equal shapes, H, W >= 2.
    """
    check_images(images, truth)
    spectrum, reference = (
        torch.log(radial_spectrum(one) + _NOISE_FLOOR) for one in (images, truth)
    )
    return (spectrum - reference).abs().mean(1)
