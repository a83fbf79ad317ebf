"""Boundary scores on shapes whose answers are known, and against loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor

from upnas.artifacts import boundary_f1, boundary_iou, hausdorff_95, surface_dice


def disc(radius: float, row: float, column: float, side: int = 96) -> Tensor:
    """(1, 1, side, side)."""
    places = torch.arange(side).double()
    return (((places[:, None] - row) ** 2 + (places - column) ** 2) <= radius**2)[None, None]


def rectangle(top: int, left: int, bottom: int, right: int, side: int = 32) -> Tensor:
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    mask[..., top:bottom, left:right] = True
    return mask


def none_of(mask: Tensor) -> Tensor:
    return torch.zeros_like(mask[:, :1])


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_two_discs(shift: int) -> None:
    """Boundary points move by the shift at most, and 5 % of them by 0.997 of it or more."""
    one, other = disc(30, 48, 44), disc(30, 48, 44 + shift)
    distance = hausdorff_95(one, other, none_of(one)).item()
    assert distance == pytest.approx(shift, abs=0.2)
    assert hausdorff_95(other, one, none_of(one)).item() == distance
    assert surface_dice(one, other, none_of(one), shift).item() == 1
    assert surface_dice(one, other, none_of(one), 0).item() < 0.3


def test_a_ring_around_a_disc() -> None:
    one, other = disc(20, 48, 48), disc(25, 48, 48)
    assert hausdorff_95(one, other, none_of(one)).item() == pytest.approx(5, abs=0.5)


def test_the_larger_way_counts() -> None:
    """A far speck is no problem from the truth's side, but is from the prediction's."""
    truth = rectangle(4, 4, 8, 8)
    prediction = truth | rectangle(24, 4, 28, 8)
    # 12 boundary pixels each; those of the speck are 17 to 20 rows below row 7.
    assert hausdorff_95(prediction, truth, none_of(truth)).item() == pytest.approx(20, abs=0.1)
    assert hausdorff_95(truth, prediction, none_of(truth)).item() == pytest.approx(20, abs=0.1)
    assert surface_dice(prediction, truth, none_of(truth), 1).item() == pytest.approx(24 / 36)


def test_the_percentile_interpolates() -> None:
    """Lines of 1 px, 10 px long, 4 rows apart but for one pixel: 95 % of (0 x 9, 4)."""
    truth = rectangle(10, 5, 11, 15)
    prediction = rectangle(10, 5, 11, 14) | rectangle(14, 14, 15, 15)
    distances = [0.0] * 9 + [4.0]
    expected = max(np.percentile(distances, 95), np.percentile([0.0] * 9 + [1.0], 95))
    assert hausdorff_95(prediction, truth, none_of(truth)).item() == pytest.approx(expected)


@pytest.mark.parametrize("score", [boundary_f1, surface_dice, boundary_iou])
def test_empty_masks(score: object) -> None:
    assert callable(score)
    square, empty = rectangle(4, 4, 12, 12), rectangle(0, 0, 0, 0)
    assert score(empty, empty, none_of(empty)).item() == 1
    assert score(square, empty, none_of(empty)).item() == 0
    assert score(empty, square, none_of(empty)).item() == 0
    assert score(square, square, none_of(empty)).item() == 1


def test_distance_to_an_empty_mask_is_the_diagonal() -> None:
    square, empty = rectangle(4, 4, 12, 12), rectangle(0, 0, 0, 0)
    assert hausdorff_95(empty, empty, none_of(empty)).item() == 0
    for one, other in ((square, empty), (empty, square)):
        assert hausdorff_95(one, other, none_of(empty)).item() == math.hypot(32, 32)


@pytest.mark.parametrize("score", [boundary_f1, surface_dice, boundary_iou, hausdorff_95])
def test_everything_against_nothing_is_wrong(score: Callable[..., Tensor]) -> None:
    """Neither region has a boundary; only where they agree does that make them perfect."""
    wrong = math.hypot(32, 32) if score is hausdorff_95 else 0.0
    everything, nothing = rectangle(0, 0, 32, 32), rectangle(0, 0, 0, 0)
    assert score(everything, nothing, none_of(nothing)).item() == wrong
    assert score(nothing, everything, none_of(nothing)).item() == wrong
    inside = rectangle(8, 8, 24, 24)  # the one part that counts; no contour of either is seen
    assert score(inside, nothing, ~inside).item() == wrong


@pytest.mark.parametrize("score", [boundary_f1, surface_dice, boundary_iou, hausdorff_95])
def test_what_is_ignored_does_not_make_regions_disagree(score: Callable[..., Tensor]) -> None:
    perfect = 0.0 if score is hausdorff_95 else 1.0
    everything, nothing = rectangle(0, 0, 32, 32), rectangle(0, 0, 0, 0)
    inside = rectangle(8, 8, 24, 24)
    assert score(inside, inside, ~inside).item() == perfect
    assert score(nothing, nothing, everything).item() == perfect


@pytest.mark.parametrize("score", [boundary_f1, surface_dice, boundary_iou, hausdorff_95])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_masks_that_are_not_boolean_are_refused(
    score: Callable[..., Tensor], place: int, dtype: torch.dtype
) -> None:
    """``~`` of integers is not a mask: their scores were silently wrong."""
    masks = [rectangle(4, 4, 12, 12), rectangle(4, 4, 12, 12), rectangle(0, 0, 0, 0)]
    masks[place] = masks[place].to(dtype)
    with pytest.raises(ValueError, match=rf"mask\.bool\(\).*{dtype} \(1, 1, 32, 32\)"):
        score(*masks)


@pytest.mark.parametrize("score", [boundary_f1, surface_dice, boundary_iou, hausdorff_95])
def test_masks_whose_shapes_do_not_fit_are_refused(score: Callable[..., Tensor]) -> None:
    mask = rectangle(4, 4, 12, 12)
    none = none_of(mask)
    for masks in (
        (mask[0], mask[0], none[0]),
        (mask, mask[..., 1:], none),
        (mask, mask.expand(2, -1, -1, -1), none),
        (mask, mask, none[..., 1:]),
        (mask.expand(-1, 2, -1, -1), mask.expand(-1, 2, -1, -1), none.expand(-1, 2, -1, -1)),
    ):
        with pytest.raises(ValueError, match=r"\(B, K, H, W\) of equal shapes"):
            score(*masks)


def test_boundary_iou_closed_form() -> None:
    """10 x 10 squares with a 1 px band of 36 px, shifted by 2 columns.

    The two horizontal sides share 8 columns; of the vertical sides none coincide, but each ends in
    a horizontal side of the other square where those reach.
    """
    truth, prediction = rectangle(10, 10, 20, 20), rectangle(10, 12, 20, 22)
    score = boundary_iou(prediction, truth, none_of(truth), relative_width=0.01)
    assert score.item() == pytest.approx(16 / (72 - 16))


def test_the_image_border_is_a_contour_of_boundary_iou_alone() -> None:
    everything, most = rectangle(0, 0, 32, 32), rectangle(0, 0, 32, 32)
    most[..., 16, 16] = False
    nothing_ignored = none_of(everything)
    # The border band of 124 px is common; the hole adds its 8 neighbours to one band.
    score = boundary_iou(most, everything, nothing_ignored, relative_width=0.02)
    assert score.item() == pytest.approx(124 / 132)
    assert surface_dice(everything, everything, nothing_ignored).item() == 1
    assert surface_dice(most, everything, nothing_ignored).item() == 0


@pytest.mark.parametrize("relative_width", [0.02, 0.06, 0.1])
def test_boundary_iou_equals_erosions(relative_width: float) -> None:
    """The band is what d erosions by a 3 x 3 square take away, with zeros beyond the border."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand(2, 3, 2, 5, 6, generator=generator) > 0.5
    predicted, true = blocks.repeat_interleave(8, -2).repeat_interleave(8, -1)
    ignored = none_of(true)
    d = max(1, round(relative_width * math.hypot(40, 48)))
    scores = boundary_iou(predicted, true, ignored, relative_width)
    square = np.ones((3, 3), bool)
    for place in np.ndindex(3, 2):
        bands = [
            mask & ~binary_erosion(mask, square, iterations=d)
            for mask in (predicted[place].numpy(), true[place].numpy())
        ]
        expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
        assert scores[place].item() == pytest.approx(expected, rel=1e-12)


def test_ignored_pixels_make_no_boundary() -> None:
    """A square of which the right half is ignored equals one that goes on there."""
    ignored = rectangle(0, 16, 32, 32)
    truth, prediction = rectangle(8, 8, 24, 16), rectangle(8, 8, 24, 16)
    assert hausdorff_95(prediction, truth, ignored).item() == 0
    covered = rectangle(0, 0, 32, 16)  # all that counts
    assert surface_dice(covered, covered, ignored).item() == 1
    assert hausdorff_95(truth, covered, ignored).item() == math.hypot(32, 32)
    band = boundary_iou(covered, covered ^ rectangle(16, 0, 17, 1), ignored, 0.01).item()
    # The band of what counts: 16 + 16 + 30 border pixels, none towards the ignored half. Without
    # one of them, three pixels behind it are in the other band.
    assert band == pytest.approx(61 / 65)


def test_naive_surface_distances() -> None:
    generator = torch.Generator().manual_seed(3)
    blocks = torch.rand(2, 2, 2, 4, 4, generator=generator) > 0.5
    predicted, true = blocks.repeat_interleave(4, -2).repeat_interleave(4, -1)
    ignored = none_of(true)
    for place in np.ndindex(2, 2):
        sides = []
        for mask in (predicted[place].numpy(), true[place].numpy()):
            outside = np.pad(~mask, 1, constant_values=False)
            near = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
            sides.append(np.argwhere(mask & near))
        distances = np.linalg.norm(sides[0][:, None] - sides[1][None], axis=2)
        there, back = distances.min(1), distances.min(0)
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        within = (there <= 2).sum() + (back <= 2).sum()
        assert hausdorff_95(predicted, true, ignored)[place].item() == pytest.approx(expected)
        nsd = surface_dice(predicted, true, ignored, 2.0)[place].item()
        assert nsd == pytest.approx(within / (len(there) + len(back)))
