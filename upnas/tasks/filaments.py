"""Embedded segmentation data: thin branching filaments drawn over photographs.

Every filament is a chain of capsules (segments with a radius), so its signed distance is known in
closed form and the mask is exact at the pixel: a pixel is foreground if its centre is inside. The
image shows the anti-aliased coverage instead, as a camera would. How sharply a decoder puts thin
structures back at full resolution is what tells upsamplers apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from upnas.records import Record
from upnas.tasks.base import SPLITS, Split
from upnas.tasks.crops import Bytes, CropSet, pad_to_side, transform
from upnas.tasks.photos import load_photos

Floats = npt.NDArray[np.float64]
Number = TypeVar("Number", int, float)


def _ordered(bounds: tuple[Number, Number]) -> tuple[Number, Number]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the smallest value comes first; got {list(bounds)}.")
    return bounds


FloatRange = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_ordered)]
CountRange = Annotated[tuple[NonNegativeInt, NonNegativeInt], AfterValidator(_ordered)]


class FilamentsConfig(Record):
    """``data: {type: filaments}``: how the images are drawn. Ranges are [smallest, largest]."""

    type: Literal["filaments"] = "filaments"
    data_seed: NonNegativeInt = Field(0, description="Fixes every image; not the trial's seed.")
    num_train: PositiveInt = 96
    num_validation: PositiveInt = 48
    num_test: PositiveInt = 48
    num_filaments: CountRange = Field((2, 4), description="Main curves per image.")
    num_branches: CountRange = Field((1, 3), description="Side curves per main curve.")
    width_px: FloatRange = Field((1.0, 2.5), description="Widths; a curve tapers between two.")
    num_blobs: CountRange = Field(
        (0, 3), description="Discs of the filaments' colour that are background."
    )
    contrast: FloatRange = Field(
        (0.3, 0.6), description="Difference to the background, black to white = 1."
    )
    texture: float = Field(
        0.5, ge=0, le=1, description="Contrast of the photograph kept; 0 = only its mean colour."
    )
    noise: float = Field(0.03, ge=0, le=0.5, description="Standard deviation; white = 1.")


@dataclass(frozen=True, slots=True)
class Capsules:
    """S segments with a radius each; a segment of length 0 is a disc.

    Coordinates are (y, x) in pixels; the centre of the top left pixel is (0, 0).
    """

    start: Floats  # (S, 2)
    end: Floats  # (S, 2)
    radius: Floats  # (S,)


def signed_distance(capsules: Capsules, side: int) -> Floats:
    """Signed distance of every pixel centre to the union of capsules, negative inside.

    Args:
        capsules: The shapes; short ones are quick, as only their neighbourhood is visited.
        side: Height and width of the image.

    Returns:
        (side, side); exact wherever it is below 0.5, larger or infinite elsewhere.
    """
    distance = np.full(side * side, np.inf)
    if len(capsules.radius) == 0:
        return distance.reshape(side, side)
    axis = capsules.end - capsules.start  # (S, 2)
    middle = np.rint((capsules.start + capsules.end) / 2)  # (S, 2)
    # A pixel below 0.5 is in each coordinate less than half the length + radius + 0.5 from the
    # middle, so less than that + 1 from the rounded one: an integer of at most the ceiling.
    reach = int(np.ceil(np.hypot(*axis.T).max() / 2 + capsules.radius.max()))
    offsets = np.arange(-reach, reach + 1)
    y, x = middle[:, :1] + offsets, middle[:, 1:] + offsets  # (S, N)
    from_start_y = (y - capsules.start[:, :1])[:, :, None]  # (S, N, 1)
    from_start_x = (x - capsules.start[:, 1:])[:, None, :]  # (S, 1, N)
    axis_y, axis_x = axis[:, 0, None, None], axis[:, 1, None, None]
    length2 = np.maximum(axis_y**2 + axis_x**2, 1e-12)
    along = np.clip((from_start_y * axis_y + from_start_x * axis_x) / length2, 0.0, 1.0)
    gap = np.hypot(from_start_y - along * axis_y, from_start_x - along * axis_x)  # (S, N, N)
    gap -= capsules.radius[:, None, None]
    inside = ((y >= 0) & (y < side))[:, :, None] & ((x >= 0) & (x < side))[:, None, :]
    pixels = (y[:, :, None] * side + x[:, None, :])[inside].astype(np.intp)
    np.minimum.at(distance, pixels, gap[inside])
    return distance.reshape(side, side)


@dataclass(frozen=True, slots=True)
class _Curve:
    """Points 1 px apart with heading (radians) and radius at each."""

    points: Floats  # (N, 2)
    heading: Floats  # (N,)
    radius: Floats  # (N,)


def _curve(
    rng: np.random.Generator, start: Floats, heading: float, length: int, radii: tuple[float, float]
) -> _Curve:
    """A smooth curve: its heading is a sum of slow waves with random phases."""
    t = np.linspace(0.0, 1.0, max(length, 2))
    waves = [
        rng.uniform(0.1, 1.0) / k * (np.sin(np.pi * k * t + phase) - np.sin(phase))
        for k, phase in enumerate(rng.uniform(0, 2 * np.pi, 3), start=1)
    ]
    headings = heading + np.sum(waves, axis=0)
    steps = np.stack([np.sin(headings), np.cos(headings)], axis=1)
    points = start + np.cumsum(steps, axis=0) - steps[0]
    return _Curve(points, headings, np.linspace(*radii, len(t)))


def _filament(rng: np.random.Generator, config: FilamentsConfig, side: int) -> list[_Curve]:
    """A main curve through the image and branches that leave it or one another."""
    thin = config.width_px[0] / 2
    radii = rng.uniform(*config.width_px, 2) / 2
    main = _curve(
        rng,
        start=np.zeros(2),
        heading=rng.uniform(0, 2 * np.pi),
        length=int(side * rng.uniform(0.7, 1.3)),
        radii=(radii.max(), radii.min()),
    )
    anchor = rng.uniform(0.1, 0.9, 2) * side  # where the middle of the curve comes to lie
    shift = anchor - main.points[len(main.points) // 2]
    curves = [_Curve(main.points + shift, main.heading, main.radius)]
    for _ in range(rng.integers(*config.num_branches, endpoint=True)):
        parent = curves[rng.integers(len(curves))]
        at = int(rng.uniform(0.2, 0.8) * len(parent.points))
        radius = max(thin, parent.radius[at] * rng.uniform(0.6, 0.9))
        curves.append(
            _curve(
                rng,
                start=parent.points[at],
                heading=parent.heading[at] + rng.choice((-1, 1)) * rng.uniform(0.5, 1.1),
                length=int(len(parent.points) * rng.uniform(0.3, 0.6)),
                radii=(radius, max(thin, radius * rng.uniform(0.5, 1.0))),
            )
        )
    return curves


def draw_filaments(rng: np.random.Generator, config: FilamentsConfig, side: int) -> Capsules:
    """Draw the capsules of one image: one per pixel of length, so the taper has no steps."""
    num_filaments = rng.integers(*config.num_filaments, endpoint=True)
    curves = [c for _ in range(num_filaments) for c in _filament(rng, config, side)]
    if not curves:
        return Capsules(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    return Capsules(
        start=np.concatenate([curve.points[:-1] for curve in curves]),
        end=np.concatenate([curve.points[1:] for curve in curves]),
        radius=np.concatenate([curve.radius[:-1] for curve in curves]),
    )


def _draw_blobs(rng: np.random.Generator, config: FilamentsConfig, side: int) -> Capsules:
    """Discs as wide as the filaments or twice that."""
    count = rng.integers(*config.num_blobs, endpoint=True)
    centre = rng.uniform(0, side, (count, 2))
    return Capsules(centre, centre, rng.uniform(*config.width_px, count))


def _background(rng: np.random.Generator, photos: tuple[Bytes, ...], side: int) -> Floats:
    """A random crop (3, side, side) of a photograph, in [0, 1]."""
    photo = pad_to_side(photos[rng.integers(len(photos))], side)
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[1:])
    crop = photo[:, top : top + side, left : left + side]
    return transform(crop, int(rng.integers(8))) / 255.0


def _image(
    rng: np.random.Generator, config: FilamentsConfig, photos: tuple[Bytes, ...], side: int
) -> tuple[Bytes, Bytes]:
    """One image (3, side, side) and its mask (1, side, side)."""
    distance = signed_distance(draw_filaments(rng, config, side), side)
    blobs = signed_distance(_draw_blobs(rng, config, side), side)
    coverage = np.clip(0.5 - np.minimum(distance, blobs), 0.0, 1.0)
    background = _background(rng, photos, side)
    mean = background.mean(axis=(1, 2), keepdims=True)
    background = mean + config.texture * (background - mean)
    # Dark on bright and bright on dark: no global threshold finds both, and little is clipped.
    sign = -1.0 if mean.mean() > 0.45 else 1.0
    tint = rng.uniform(0.6, 1.0, (3, 1, 1))
    shift = sign * rng.uniform(*config.contrast) * tint / tint.mean()
    image = background + coverage * shift + config.noise * rng.standard_normal(background.shape)
    pixels = np.rint(255.0 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
    return pixels, (distance <= 0.0)[None].astype(np.uint8)


@lru_cache(maxsize=4)
def make_filaments(config: FilamentsConfig, side: int) -> Mapping[Split, CropSet]:
    """Draw the three splits, each over its own photographs.

    Args:
        config: What to draw; equal settings give equal images (with one version of NumPy).
        side: Height and width of every image.
    """
    counts = (config.num_train, config.num_validation, config.num_test)
    splits: dict[Split, CropSet] = {}
    for index, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        rng = np.random.default_rng((config.data_seed, index))
        pairs = [_image(rng, config, load_photos(split), side) for _ in range(count)]
        images, masks = zip(*pairs, strict=True)
        splits[split] = CropSet(tuple(images), tuple(masks), side)
    return splits
