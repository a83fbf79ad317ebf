"""Labels of still pictures stay clear of points and of one another."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upnas.report.labels import Box, Placed, place_labels

FRAME = Box(0, 0, 400, 300)


def box_of(place: Placed, size: tuple[float, float]) -> Box:
    x, y = place.centre
    return Box(x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)


def test_overlap_and_area() -> None:
    assert Box(0, 0, 2, 3).area == 6
    assert Box(0, 0, 2, 3).overlap(Box(1, 1, 5, 5)) == 2
    assert Box(0, 0, 1, 1).overlap(Box(2, 0, 3, 1)) == 0
    assert Box.around((5, 5), 2) == Box(3, 3, 7, 7)
    assert Box.between((4, 1), (1, 1), width=2) == Box(0, 0, 5, 2)


def test_neighbours_get_labels_apart() -> None:
    anchors = [(200.0 + 6 * i, 150.0) for i in range(6)]
    sizes = [(20.0, 10.0)] * 6
    markers = [Box.around(anchor, 5) for anchor in anchors]
    boxes = [
        box_of(place, size)
        for place, size in zip(
            place_labels(anchors, sizes, frame=FRAME, obstacles=markers), sizes, strict=True
        )
    ]
    for first, second in itertools.combinations([*boxes, *markers[:1]], 2):
        assert first.overlap(second) == pytest.approx(0, abs=1e-9)


def test_a_label_in_the_corner_stays_inside() -> None:
    size = (60.0, 10.0)
    for corner in itertools.product((2.0, 398.0), (2.0, 298.0)):
        (place,) = place_labels([corner], [size], frame=FRAME)
        assert box_of(place, size).overlap(FRAME) == pytest.approx(600)


def test_a_far_label_has_a_line_and_a_near_one_has_none() -> None:
    size = (30.0, 10.0)
    (near,) = place_labels([(200.0, 150.0)], [size], frame=FRAME)
    wall = [Box.around((200.0, 150.0), 35)]
    (far,) = place_labels([(200.0, 150.0)], [size], frame=FRAME, obstacles=wall)
    assert (near.has_line, far.has_line) == (False, True)
    assert box_of(far, size).overlap(wall[0]) < 20


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), max_size=12))
def test_no_label_covers_its_own_point(anchors: list[tuple[float, float]]) -> None:
    size = (25.0, 10.0)
    for anchor, place in zip(
        anchors, place_labels(anchors, [size] * len(anchors), frame=FRAME), strict=True
    ):
        assert box_of(place, size).overlap(Box.around(anchor, 1)) == 0
