import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from upnas.tasks.base import SPLITS
from upnas.tasks.filaments import (
    Capsules,
    FilamentsConfig,
    draw_filaments,
    make_filaments,
    signed_distance,
)

SMALL = FilamentsConfig(num_train=6, num_validation=4, num_test=4)


def naive_distance(capsules: Capsules, y: float, x: float) -> float:
    """Distance of a point to the union of capsules, one at a time."""
    distances = []
    for start, end, radius in zip(capsules.start, capsules.end, capsules.radius, strict=True):
        point, axis = np.array([y, x]) - start, end - start
        length2 = axis @ axis
        along = 0.0 if length2 == 0 else min(1.0, max(0.0, point @ axis / length2))
        distances.append(np.linalg.norm(point - along * axis) - radius)
    return float(min(distances))


def test_signed_distance_equals_loops_over_all_capsules() -> None:
    side = 20
    capsules = draw_filaments(np.random.default_rng(3), FilamentsConfig(), side)
    distance = signed_distance(capsules, side)
    expected = np.array(
        [[naive_distance(capsules, y, x) for x in range(side)] for y in range(side)]
    )
    near = expected < 0.5 - 1e-9
    assert 0.05 < (expected <= 0).mean() < 0.6
    np.testing.assert_allclose(distance[near], expected[near], atol=1e-9)
    assert np.all(distance[~near] > 0.5 - 1e-6)


@given(
    start=st.tuples(st.floats(-1, 9), st.floats(-1, 9)),
    step=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    radius=st.floats(0, 3),
)
def test_one_capsule_anywhere_is_seen_as_far_as_it_shows(
    start: tuple[float, float], step: tuple[float, float], radius: float
) -> None:
    begin = np.array([start])
    capsule = Capsules(begin, begin + np.array([step]), np.array([radius]))
    distance = signed_distance(capsule, 9)
    expected = np.array([[naive_distance(capsule, y, x) for x in range(9)] for y in range(9)])
    near = expected < 0.5 - 1e-9
    np.testing.assert_allclose(distance[near], expected[near], atol=1e-5)
    assert np.all(distance[~near] > 0.5 - 1e-5)


def test_coverage_is_the_area_inside() -> None:
    """The clipped distance that is drawn agrees with 16 x 16 samples per pixel of a capsule."""
    capsules = Capsules(np.array([[4.3, 3.1]]), np.array([[9.8, 12.6]]), np.array([1.4]))
    coverage = np.clip(0.5 - signed_distance(capsules, 16), 0, 1)
    offsets = (np.arange(16) + 0.5) / 16 - 0.5
    fine = np.add.outer(np.arange(16), offsets).ravel()
    inside = np.array([[naive_distance(capsules, y, x) <= 0 for x in fine] for y in fine])
    area = inside.reshape(16, 16, 16, 16).mean(axis=(1, 3))
    assert np.abs(coverage - area).max() < 0.12  # an edge at 45 degrees, the round ends
    assert coverage.sum() == pytest.approx(area.sum(), rel=0.01)


def test_a_disc_and_nothing() -> None:
    disc = Capsules(np.array([[5.0, 5.0]]), np.array([[5.0, 5.0]]), np.array([2.0]))
    y, x = np.mgrid[:11, :11]
    expected = np.hypot(y - 5, x - 5) - 2
    distance = signed_distance(disc, 11)
    near = expected < 0.5
    np.testing.assert_allclose(distance[near], expected[near], atol=1e-9)
    nothing = Capsules(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    assert np.all(np.isinf(signed_distance(nothing, 4)))


def test_capsules_beyond_the_border_do_not_wrap_around() -> None:
    outside = Capsules(np.array([[4.0, -1.0]]), np.array([[4.0, -0.5]]), np.array([1.0]))
    inside = signed_distance(outside, 8) <= 0
    assert inside.sum() == 1  # pixel (4, 0), 0.5 px from the end of the segment
    assert inside[4, 0]


def test_filaments_are_continuous_and_have_the_asked_widths() -> None:
    config = FilamentsConfig(num_filaments=(2, 2), num_branches=(2, 2), width_px=(1.5, 3.0))
    capsules = draw_filaments(np.random.default_rng(0), config, 64)
    lengths = np.linalg.norm(capsules.end - capsules.start, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
    assert capsules.radius.min() >= 0.75
    assert capsules.radius.max() <= 1.5
    joined = np.all(np.isclose(capsules.start[1:], capsules.end[:-1]), axis=1)
    assert np.sum(~joined) == 2 * 3 - 1  # a jump between the 6 curves only
    # Every branch starts on a point of another curve.
    firsts = capsules.start[1:][~joined]
    on_curve = [np.isclose(capsules.start, first).all(axis=1).sum() > 1 for first in firsts]
    assert sum(on_curve) == 4


def test_equal_settings_give_equal_images_and_other_seeds_others() -> None:
    first = make_filaments(SMALL, 32)
    make_filaments.cache_clear()
    again = make_filaments(SMALL, 32)
    other = make_filaments(SMALL.model_copy(update={"data_seed": 1}), 32)
    for split in SPLITS:
        images = (first[split].inputs, again[split].inputs, other[split].inputs)
        for a, b, c in zip(*images, strict=True):
            assert np.array_equal(a, b)
            assert not np.array_equal(a, c)
    masks = [mask.tobytes() for split in SPLITS for mask in first[split].targets]
    assert len(set(masks)) == len(masks) == 14


@pytest.mark.parametrize("side", [64, 128])
def test_class_balance_is_sane(side: int) -> None:
    for split, crops in make_filaments(FilamentsConfig(), side).items():
        shares = [mask.mean() for mask in crops.targets]
        assert 0.03 < np.mean(shares) < 0.15, split
        assert min(shares) > 0.003, split


def test_without_distractors_the_image_shows_the_mask() -> None:
    """On a flat background without noise the foreground is a constant colour away from it."""
    config = SMALL.model_copy(
        update={"texture": 0.0, "noise": 0.0, "num_blobs": (0, 0), "contrast": (0.3, 0.3)}
    )
    crops = make_filaments(config, 48)["train"]
    for image, mask in zip(crops.inputs, crops.targets, strict=True):
        luminance = image.mean(axis=0)
        background = np.median(luminance[mask[0] == 0])
        difference = np.abs(luminance - background)
        assert difference.max() == pytest.approx(0.3 * 255, abs=1.5)
        # Coverage is at least a half exactly on the mask (2 levels for the rounding to 8 bits).
        assert difference[mask[0] == 1].min() > 0.15 * 255 - 2
        assert difference[mask[0] == 0].max() < 0.15 * 255 + 2


def test_blobs_look_like_filaments_and_are_background() -> None:
    config = SMALL.model_copy(
        update={"num_filaments": (0, 0), "num_blobs": (4, 4), "texture": 0.0, "noise": 0.0}
    )
    crops = make_filaments(config, 48)["train"]
    assert all(mask.sum() == 0 for mask in crops.targets)
    assert all(image.std(axis=(1, 2)).max() > 2 for image in crops.inputs)


def test_a_reversed_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="the smallest value comes first"):
        FilamentsConfig(width_px=(3.0, 1.0))
