import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upnas.tasks.crops import Augmentation, CropSet, pad_to_side, transform


def numbered(height: int, width: int) -> np.ndarray:
    """An image (1, H, W) whose pixel value is its own position."""
    return np.arange(height * width, dtype=np.uint8).reshape(1, height, width)


def test_the_eight_symmetries_differ_and_keep_the_pixels() -> None:
    image = numbered(3, 3)
    images = [transform(image, symmetry) for symmetry in range(8)]
    assert len({i.tobytes() for i in images}) == 8
    assert all(np.array_equal(np.sort(i.ravel()), image.ravel()) for i in images)
    np.testing.assert_array_equal(transform(image, 1), image[:, :, ::-1])
    np.testing.assert_array_equal(transform(image, 2), image[:, ::-1, :])
    np.testing.assert_array_equal(transform(image, 4), image.transpose(0, 2, 1))


def test_padding_reflects_or_fills() -> None:
    image = numbered(2, 4)
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    np.testing.assert_array_equal(pad_to_side(image, 3)[0], expected)
    np.testing.assert_array_equal(pad_to_side(image, 3, fill=255)[0, 2], [255] * 4)
    assert pad_to_side(image, 2) is image


@given(
    sizes=st.lists(st.tuples(st.integers(4, 13), st.integers(4, 13)), min_size=1, max_size=4),
    limit=st.integers(1, 12),
)
def test_tiles_are_disjoint_and_evenly_spread(sizes: list[tuple[int, int]], limit: int) -> None:
    # The two channels of a target say which image and which pixel a value comes from.
    images, positions = [], []
    for index, (height, width) in enumerate(sizes):
        images.append(np.full((1, height, width), index, np.uint8))
        positions.append(numbered(height, width))
    crops = CropSet(tuple(images), tuple(positions), side=4)
    inputs, targets = crops.tiles(limit)
    per_image = [(h // 4) * (w // 4) for h, w in sizes]
    assert crops.num_tiles == sum(per_image)
    assert len(inputs) == min(limit, sum(per_image))
    counts = np.bincount(inputs[:, 0, 0, 0], minlength=len(sizes))
    # An image has fewer tiles than another only where it has no more, or by the last round.
    for count, available in zip(counts, per_image, strict=True):
        assert count == available or count >= counts.max() - 1
    for index in range(len(sizes)):
        pixels = targets[inputs[:, 0, 0, 0] == index].ravel()
        assert len(np.unique(pixels)) == len(pixels)
    again = crops.tiles(limit)
    np.testing.assert_array_equal(targets, again[1])


def test_samples_reach_every_position_and_stay_aligned() -> None:
    image = numbered(6, 7)
    doubled = image.repeat(2, axis=1).repeat(2, axis=2)
    crops = CropSet((image,), (doubled,), side=4, scale=2)
    inputs, targets = crops.sample(np.random.default_rng(0), 2000, "dihedral")
    np.testing.assert_array_equal(inputs.repeat(2, axis=2).repeat(2, axis=3), targets)
    assert len({crop.min() for crop in inputs}) == 3 * 4  # the corner with the lowest number
    assert len({crop.tobytes() for crop in inputs}) == 3 * 4 * 8


@pytest.mark.parametrize(("augmentation", "expected"), [("none", 1), ("mirror", 2)])
def test_augmentation_limits_the_symmetries(augmentation: Augmentation, expected: int) -> None:
    image = numbered(4, 4)
    crops = CropSet((image,), (image,), side=4)
    inputs, _ = crops.sample(np.random.default_rng(0), 64, augmentation)
    seen = {crop.tobytes() for crop in inputs}
    assert seen == {transform(image, symmetry).tobytes() for symmetry in range(expected)}
