"""Square crops of image pairs: random ones to train on, a fixed grid to evaluate on.

Images are kept as 8-bit arrays (C, H, W), as in their files: a quarter of float32's memory, and
the conversion of one batch is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Augmentation = Literal["none", "mirror", "dihedral"]


def pad_to_side(image: Bytes, side: int, fill: int | None = None) -> Bytes:
    """Enlarge an image (C, H, W) to at least ``side`` in both axes, at the bottom and right.

    Args:
        image: The image; returned as it is where it is large enough.
        side: Smallest height and width of the result.
        fill: Value of the new pixels; None reflects the image at its border.
    """
    missing = [(0, max(0, side - length)) for length in image.shape[1:]]
    if not any(after for _, after in missing):
        return image
    if fill is None:
        return np.pad(image, [(0, 0), *missing], mode="reflect")
    return np.pad(image, [(0, 0), *missing], constant_values=fill)


def transform(image: Bytes, symmetry: int) -> Bytes:
    """Apply one of the eight symmetries of the square to (C, H, W).

    Bit 0 mirrors left-right, bit 1 up-down, bit 2 then swaps height and width.
    """
    if symmetry & 1:
        image = image[:, :, ::-1]
    if symmetry & 2:
        image = image[:, ::-1, :]
    return image.swapaxes(1, 2) if symmetry & 4 else image


NUM_SYMMETRIES: dict[Augmentation, int] = {"none": 1, "mirror": 2, "dihedral": 8}


@dataclass(frozen=True)
class CropSet:
    """Pairs of aligned images that square crops are taken from.

    Attributes:
        inputs: Images (C, H, W), every one at least ``side`` in both axes.
        targets: Images (K, scale * H, scale * W), one per input.
        side: Side of an input crop in pixels.
        scale: Target side / input side.
    """

    inputs: tuple[Bytes, ...]
    targets: tuple[Bytes, ...]
    side: int
    scale: int = 1

    @property
    def num_tiles(self) -> int:
        """How many crops fit side by side, summed over the images."""
        return sum(math.prod(length // self.side for length in i.shape[1:]) for i in self.inputs)

    def sample(
        self, rng: np.random.Generator, count: int, augmentation: Augmentation
    ) -> tuple[Bytes, Bytes]:
        """Draw random crops: images with equal probability, positions and symmetries uniformly."""
        images = rng.integers(len(self.inputs), size=count)
        positions = rng.random((count, 2))
        symmetries = rng.integers(NUM_SYMMETRIES[augmentation], size=count)
        corners = []
        for image, position in zip(images, positions, strict=True):
            height, width = self.inputs[image].shape[1:]
            top = int(position[0] * (height - self.side + 1))
            left = int(position[1] * (width - self.side + 1))
            corners.append((int(image), top, left))
        return self._cut(corners, symmetries)

    def tiles(self, limit: int) -> tuple[Bytes, Bytes]:
        """Cut at most ``limit`` crops from a centred grid without overlap, always the same ones.

        Where the grid holds more, every image gives equally many (up to one) at positions drawn
        once for all; the last, incomplete round goes to images drawn likewise.
        """
        rng = np.random.default_rng(0)
        ranked: list[tuple[int, int, tuple[int, int, int]]] = []
        for turn, image in enumerate(rng.permutation(len(self.inputs))):
            size = self.inputs[image].shape[1:]
            tops, lefts = (_grid(length, self.side) for length in size)
            corners = [(int(image), top, left) for top in tops for left in lefts]
            order = rng.permutation(len(corners))
            ranked += [(rank, turn, corners[index]) for rank, index in enumerate(order)]
        chosen = sorted(corner for _, _, corner in sorted(ranked)[:limit])
        return self._cut(chosen, np.zeros(len(chosen), dtype=np.int64))

    def _cut(
        self, corners: Sequence[tuple[int, int, int]], symmetries: npt.NDArray[np.int64]
    ) -> tuple[Bytes, Bytes]:
        """Copy the crops at (image, top, left) into two batches."""
        side, target_side = self.side, self.side * self.scale
        shape = (len(corners), self.inputs[0].shape[0], side, side)
        target_shape = (len(corners), self.targets[0].shape[0], target_side, target_side)
        inputs, targets = np.empty(shape, np.uint8), np.empty(target_shape, np.uint8)
        for index, (image, top, left) in enumerate(corners):
            crop = self.inputs[image][:, top : top + side, left : left + side]
            inputs[index] = transform(crop, symmetries[index])
            top, left = top * self.scale, left * self.scale
            crop = self.targets[image][:, top : top + target_side, left : left + target_side]
            targets[index] = transform(crop, symmetries[index])
        return inputs, targets


def _grid(length: int, side: int) -> range:
    """Starts of the crops that fit side by side into ``length``, centred."""
    count = length // side
    margin = (length - count * side) // 2
    return range(margin, margin + count * side, side)
