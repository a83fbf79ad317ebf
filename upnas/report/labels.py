"""Places the labels of a still picture so that they cover neither points nor one another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

#: Distances from the point that are tried, in points (1/72 inch), nearest first.
_DISTANCES: Final = (8.0, 14.0, 22.0, 32.0, 44.0)
_DIRECTIONS: Final = 12

Spot = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle by its corners, in points."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, spot: Spot, radius: float) -> Box:
        """A square, for a marker."""
        x, y = spot
        return cls(x - radius, y - radius, x + radius, y + radius)

    def overlap(self, other: Box) -> float:
        """Shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    @classmethod
    def between(cls, first: Spot, second: Spot, width: float) -> Box:
        """A horizontal or vertical line of a width."""
        (left, right), (bottom, top) = (sorted(ends) for ends in zip(first, second, strict=True))
        half = width / 2
        return cls(left - half, bottom - half, right + half, top + half)

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.right - self.left) * (self.top - self.bottom)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a label's centre goes, and whether it is far enough from its point for a line."""

    centre: Spot
    has_line: bool


def place_labels(
    anchors: Sequence[Spot], sizes: Sequence[Spot], *, frame: Box, obstacles: Iterable[Box] = ()
) -> list[Placed]:
    """Choose a place for each label, the first ones first.

    Every place around a point is scored by what it would cover and by its distance; the best one
    is taken. Greedy: good for some dozens of labels. All lengths are points (1/72 inch).

    Args:
        anchors: The points that the labels belong to.
        sizes: Width and height of each label.
        frame: What labels should stay inside of.
        obstacles: Markers and lines, which labels should not cover.
    """
    taken = list(obstacles)
    spots = list(itertools.product(_DISTANCES, range(_DIRECTIONS)))
    placed = []
    for anchor, size in zip(anchors, sizes, strict=True):
        reach = Box.around(anchor, _DISTANCES[-1] + max(size))
        near = [box for box in taken if box.overlap(reach)]
        boxes = [_box(anchor, size, distance, step) for distance, step in spots]
        costs = [
            _cost(box, near, frame) + 0.2 * distance
            for box, (distance, _) in zip(boxes, spots, strict=True)
        ]
        best = min(range(len(spots)), key=costs.__getitem__)
        box = boxes[best]
        taken.append(box)
        centre = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
        placed.append(Placed(centre, has_line=spots[best][0] > _DISTANCES[1]))
    return placed


def _box(anchor: Spot, size: Spot, distance: float, step: int) -> Box:
    """The label's rectangle with its nearest edge or corner at a distance from the point."""
    angle = math.pi / 4 + 2 * math.pi * step / _DIRECTIONS  # upper right first
    across, up = math.cos(angle), math.sin(angle)
    x = anchor[0] + across * (distance + size[0] / 2)
    y = anchor[1] + up * (distance + size[1] / 2)
    return Box(x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)


def _cost(box: Box, taken: Iterable[Box], frame: Box) -> float:
    return sum(box.overlap(other) for other in taken) + 4 * (box.area - box.overlap(frame))
