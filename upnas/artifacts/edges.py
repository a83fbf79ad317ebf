"""How sharp and how exact an image is at the edges of the true one.

Edges are the crests of the gradient of the truth where it is strongest, found in its smoothed
channel mean. Gradients are central differences. Those do not respond to a pattern of period 2, but
other checkerboards count as sharpness: read these numbers beside the lattice energy ratio.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.artifacts._checks import check_images

#: How far from an edge its profile is read, to either side.
PROFILE_REACH_PX: Final = 8.0
_STEPS_PER_PX: Final = 4
#: A smaller rise is no edge: one grey level of 8 bits.
LEAST_RISE: Final = 1 / 255
#: Values that differ by less are equal: the rounding of float32.
_ROUNDING: Final = 1e-6
#: Standard deviation of the smoothing before edges are looked for.
_SMOOTHING_PX: Final = 1.0
#: Rows and columns to a neighbour at 0, 45, 90 and 135 degrees from the columns' axis.
_DIRECTIONS: Final = ((0, 1), (1, 1), (1, 0), (1, -1))


def edge_band(truth: Tensor, share: float = 0.1, reach_px: int = 1) -> Tensor:
    """The pixels around the strongest edges.

    Edges are found as Canny does (IEEE TPAMI 1986), without hysteresis: the image is smoothed
    (sigma 1 px), and of the pixels with the strongest gradient those remain whose two neighbours
    along it have no stronger one. A step between two columns is an edge on both, so its band has
    2 reach + 2 columns.

    Args:
        truth: Images (B, C, H, W).
        share: Fraction of the pixels of each image that can be edges, before they are thinned.
        reach_px: The band also holds the pixels at most so far from an edge along each axis.

    Returns:
        Boolean (B, H, W); without any pixel for an image that is constant or not finite.

    Raises:
        ValueError: If the images are not floating (B, C, H, W) of equal shapes, H, W >= 2.
    """
    check_images(truth)
    edges = _edges(_gradient(_smoothed(truth)), share)
    side = 2 * reach_px + 1
    return F.max_pool2d(edges.float(), side, stride=1, padding=reach_px) > 0


def band_psnr(images: Tensor, truth: Tensor, share: float = 0.1, reach_px: int = 1) -> Tensor:
    """PSNR over the band of the true edges, of all the channels there.

    Args:
        images: (B, C, H, W) in [0, 1].
        truth: (B, C, H, W) in [0, 1].
        share: See :func:`edge_band`.
        reach_px: See :func:`edge_band`.

    Returns:
        dB, (B,) in double precision; infinite without an error. A truth without edges is its own
        band.

    Raises:
        ValueError: If the images are not floating (B, C, H, W) of equal shapes, H, W >= 2.
    """
    check_images(images, truth)
    band = edge_band(truth, share, reach_px)
    band |= ~band.any(2).any(1)[:, None, None]
    error = (images.double() - truth.double()).square().mean(1)
    return -10 * torch.log10(_mean_over(error, band))


def edge_sharpness(images: Tensor, truth: Tensor, share: float = 0.1, reach_px: int = 1) -> Tensor:
    """Mean gradient magnitude over that of the truth, E|grad y_hat| / E|grad y|, on the edge band.

    Below 1 is blurred, above 1 sharper than the truth (ringing, checkerboard).

    Args:
        images: (B, C, H, W).
        truth: (B, C, H, W).
        share: See :func:`edge_band`.
        reach_px: See :func:`edge_band`.

    Returns:
        (B,) in double precision; 1 for a truth without edges.

    Raises:
        ValueError: If the images are not floating (B, C, H, W) of equal shapes, H, W >= 2.
    """
    check_images(images, truth)
    band = edge_band(truth, share, reach_px)
    sharpness, reference = (
        _mean_over(torch.linalg.vector_norm(_gradient(one), dim=1), band) for one in (images, truth)
    )
    return torch.where(reference == 0, 1.0, sharpness / reference)


def edge_rise_width(images: Tensor, truth: Tensor, share: float = 0.1) -> Tensor:
    """The mean distance in which the true edges rise from 10 % to 90 % in an image.

    At every edge pixel of the truth, the profile of the image is read along the truth's gradient
    (bilinear, 4 samples per px). It rises from the nearest minimum before the pixel to the nearest
    maximum behind it (as in Marziliano et al., ICIP 2002), at most 8 px to either side, and the
    width is the distance between 10 % and 90 % of that rise. A linear ramp over w <= 8 px has
    0.8 w. A plateau does not end the rise: a staircase, as nearest-neighbour enlargement makes of
    a ramp, is one edge, while flat ends add nothing to the distance. Where an edge rises by less
    than 1/255 it is missing and counts with the whole 16 px.

    Args:
        images: (B, C, H, W) in [0, 1].
        truth: (B, C, H, W) in [0, 1].
        share: See :func:`edge_band`.

    Returns:
        Pixels, (B,) in double precision; 0 for a truth without edges, NaN where the image or the
        truth is not finite.

    Raises:
        ValueError: If the images are not floating (B, C, H, W) of equal shapes, H, W >= 2.
    """
    check_images(images, truth)
    gradient = _gradient(_smoothed(truth))
    edges = _edges(gradient, share)
    grey = images.double().mean(1)
    widths = torch.zeros(len(grey), dtype=grey.dtype, device=grey.device)
    for index, mask in enumerate(edges):
        if mask.any():
            profiles = _profiles(grey[index], gradient[index][:, mask], mask.nonzero())
            widths[index] = _rise_widths(profiles).mean()
    # A truth that is not finite shows no edge, which must not pass for one that has none.
    finite = (images.isfinite() & truth.isfinite()).flatten(1).all(1)
    return torch.where(finite, widths, math.nan)


def _smoothed(images: Tensor) -> Tensor:
    """The mean over the channels (B, 1, H, W), after a Gaussian; borders are replicated."""
    grey = images.double().mean(1, keepdim=True)
    reach = math.ceil(3 * _SMOOTHING_PX)
    taps = torch.arange(-reach, reach + 1, dtype=grey.dtype, device=grey.device) / _SMOOTHING_PX
    kernel = (-(taps**2) / 2).softmax(0)
    padded = F.pad(grey, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def _gradient(images: Tensor) -> Tensor:
    """Of the mean over the channels: (B, 2, H, W), along rows (y) and columns (x), per px."""
    grey = images.double().mean(1)
    return torch.stack(torch.gradient(grey, dim=(1, 2)), dim=1)


def _edges(gradient: Tensor, share: float) -> Tensor:
    magnitude: Tensor = torch.linalg.vector_norm(gradient, dim=1)  # (B, H, W)
    threshold = magnitude.flatten(1).quantile(1 - share, dim=1)[:, None, None]
    return (magnitude >= threshold) & (magnitude > _ROUNDING) & _crests(gradient, magnitude)


def _crests(gradient: Tensor, magnitude: Tensor) -> Tensor:
    """Where neither neighbour along the gradient is stronger: non-maximum suppression (B, H, W)."""
    height, width = magnitude.shape[1:]
    padded = F.pad(magnitude, (1, 1, 1, 1))

    def neighbour(rows: int, columns: int) -> Tensor:
        return padded[:, 1 + rows :, 1 + columns :][:, :height, :width]

    stronger = [torch.maximum(neighbour(y, x), neighbour(-y, -x)) for y, x in _DIRECTIONS]
    angle = torch.atan2(gradient[:, 0], gradient[:, 1])
    direction = (angle / (math.pi / 4)).round().long() % len(_DIRECTIONS)
    along = torch.stack(stronger).gather(0, direction[None])[0]
    return magnitude + _ROUNDING >= along


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, H, W) over a mask; 0 where it is empty."""
    mean: Tensor = (values * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    return mean


def _profiles(grey: Tensor, gradient: Tensor, places: Tensor) -> Tensor:
    """An image (H, W) along N lines through pixels.

    Args:
        grey: The image.
        gradient: (2, N), the direction of each line.
        places: (N, 2), row and column of each pixel.

    Returns:
        (N, T), the pixel itself in the middle.
    """
    reach = int(PROFILE_REACH_PX * _STEPS_PER_PX)
    offsets = torch.arange(-reach, reach + 1, device=grey.device) / _STEPS_PER_PX
    direction = gradient / torch.linalg.vector_norm(gradient, dim=0)
    points = places[:, None] + offsets[:, None] * direction.T[:, None]  # (N, T, 2), y and x
    size = torch.tensor(grey.shape, device=grey.device)
    grid = ((2 * points + 1) / size - 1).flip(-1)  # to [-1, 1], x first
    profiles = F.grid_sample(
        grey[None, None], grid[None], padding_mode="border", align_corners=False
    )
    return profiles[0, 0]


def _rise_widths(profiles: Tensor) -> Tensor:
    """The 10-90 % widths in px of profiles (N, T) that rise through their middle."""
    middle = profiles.shape[1] // 2
    rises = (profiles.diff(dim=1) > -_ROUNDING).long()
    first = middle - rises[:, :middle].flip(1).cumprod(1).sum(1)
    last = middle + rises[:, middle:].cumprod(1).sum(1)
    low, high = _at(profiles, first), _at(profiles, last)
    step = torch.arange(profiles.shape[1], device=profiles.device)
    within = (step >= first[:, None]) & (step <= last[:, None])

    def reached(fraction: float) -> Tensor:
        """Where each profile reaches a fraction of its rise, in steps."""
        level = low + fraction * (high - low)
        after = (within & (profiles >= level[:, None])).int().argmax(1)
        before = (after - 1).clamp(min=0)
        start, end = _at(profiles, before), _at(profiles, after)
        return before + (level - start) / (end - start)

    width = (reached(0.9) - reached(0.1)) / _STEPS_PER_PX
    return torch.where(high - low < LEAST_RISE, 2 * PROFILE_REACH_PX, width)


def _at(profiles: Tensor, index: Tensor) -> Tensor:
    return profiles.gather(1, index[:, None])[:, 0]
