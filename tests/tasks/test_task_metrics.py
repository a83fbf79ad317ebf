"""Metrics against naive loops in double precision, and closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.segmentation import dice_score

from upnas.artifacts import (
    band_psnr,
    boundary_f1,
    boundary_iou,
    edge_rise_width,
    hausdorff_95,
    lattice_energy_ratio,
    spectrum_distance,
    surface_dice,
)
from upnas.tasks.metrics import (
    IGNORE,
    MAX_PSNR_DB,
    lattice_scores,
    restoration_scores,
    segmentation_scores,
)


def random_labels(seed: int, num_classes: int, *, ignore: bool) -> tuple[Tensor, Tensor]:
    """Blocky predictions and truths (3, 9, 11), so that regions have an inside."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (2, 3, 3, 4), generator=generator)
    labels = labels.repeat_interleave(3, 2).repeat_interleave(3, 3)[..., :11]
    prediction, truth = labels[0].clone(), labels[1].clone()
    noise = torch.rand(truth.shape, generator=generator)
    prediction[noise < 0.1] = 0
    if ignore:
        truth[noise > 0.85] = IGNORE
    return prediction, truth


def naive_boundary(region: np.ndarray, ignored: np.ndarray) -> list[tuple[int, int]]:
    height, width = region.shape
    edge = []
    for y in range(height):
        for x in range(width):
            neighbours = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(j, i) for j, i in neighbours if 0 <= j < height and 0 <= i < width]
            if region[y, x] and any(not region[n] and not ignored[n] for n in inside):
                edge.append((y, x))
    return edge


def naive_scores(
    prediction: np.ndarray, truth: np.ndarray, classes: tuple[int, ...], tolerance: float
) -> tuple[float, float, float]:
    """Dice, IoU and boundary F1 of one image, pixel by pixel."""
    scores = []
    ignored = truth == IGNORE
    for label in classes:
        p, t = (prediction == label) & ~ignored, truth == label
        if p.sum() + t.sum() == 0:
            continue
        overlap = sum(bool(a and b) for a, b in zip(p.flat, t.flat, strict=True))
        union = sum(bool(a or b) for a, b in zip(p.flat, t.flat, strict=True))
        edges, true_edges = naive_boundary(p, ignored), naive_boundary(t, ignored)
        if not edges and not true_edges:
            f1 = float(np.array_equal(p, t))
        elif not edges or not true_edges:
            f1 = 0.0
        else:
            hits = [any(math.dist(e, t) <= tolerance for t in true_edges) for e in edges]
            found = [any(math.dist(e, t) <= tolerance for e in edges) for t in true_edges]
            precision, recall = sum(hits) / len(hits), sum(found) / len(found)
            total = precision + recall
            f1 = 2 * precision * recall / total if total else 0.0
        scores.append((2 * overlap / (p.sum() + t.sum()), overlap / union, f1))
    if not scores:
        return 1.0, 1.0, 1.0
    dice, iou, f1 = np.mean(scores, axis=0)
    return float(dice), float(iou), float(f1)


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5, 2.5])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_segmentation_scores_equal_loops(num_classes: int, tolerance: float, ignore: bool) -> None:
    classes = (1,) if num_classes == 2 else tuple(range(num_classes))
    for seed in range(3):
        prediction, truth = random_labels(seed, num_classes, ignore=ignore)
        scores = segmentation_scores(prediction, truth, classes, tolerance)
        expected = [
            naive_scores(p.numpy(), t.numpy(), classes, tolerance)
            for p, t in zip(prediction, truth, strict=True)
        ]
        actual = torch.stack([scores["dice"], scores["iou"], scores["boundary_f1"]], dim=1)
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_dice_equals_torchmetrics_where_that_applies() -> None:
    prediction, truth = random_labels(0, 3, ignore=False)
    expected = dice_score(prediction, truth, num_classes=3, input_format="index", average="macro")
    scores = segmentation_scores(prediction, truth, range(3), 1.0)
    np.testing.assert_allclose(scores["dice"].numpy(), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0), (1, 1, 1.0)]
)
def test_empty_and_full_masks(predicted: int, true: int, expected: float) -> None:
    prediction, truth = torch.full((1, 5, 5), predicted), torch.full((1, 5, 5), true)
    scores = segmentation_scores(prediction, truth, (1,), 1.0)
    assert scores["dice"].item() == expected
    assert scores["iou"].item() == expected


def test_boundary_of_an_empty_mask() -> None:
    square = torch.zeros(1, 6, 6, dtype=torch.long)
    square[0, 2:4, 2:4] = 1
    empty = torch.zeros_like(square)
    for prediction, truth, expected in ((square, empty, 0.0), (empty, square, 0.0)):
        scores = segmentation_scores(prediction, truth, (1,), 1.0)
        assert scores["boundary_f1"].item() == expected
    assert segmentation_scores(empty, empty, (1,), 1.0)["boundary_f1"].item() == 1.0


def test_everything_against_nothing_is_wrong_by_every_score() -> None:
    """Neither has a boundary, which alone does not make them agree."""
    everything, nothing = torch.ones(1, 16, 16, dtype=torch.long), torch.zeros(1, 16, 16).long()
    also = ("boundary_iou", "hd95", "nsd")
    scores = segmentation_scores(everything, nothing, (1,), 1.0, also=also)
    assert scores.pop("hd95").item() == math.hypot(16, 16)
    assert {name: score.item() for name, score in scores.items()} == dict.fromkeys(scores, 0.0)


def test_a_shifted_square_matches_within_the_tolerance_only() -> None:
    truth, prediction = torch.zeros(2, 1, 1, 16, 16, dtype=torch.bool)
    truth[..., 4:10, 4:10] = True
    prediction[..., 4:10, 6:12] = True
    ignored = torch.zeros_like(truth)
    assert boundary_f1(prediction, truth, ignored, 2.0).item() == 1.0
    # 20 edge pixels each. Of the two horizontal sides columns 6-9 coincide and column 10 is 1 px
    # away (2 * 5 pixels); of column 6, the ends of its inner part touch those sides (2 pixels).
    assert boundary_f1(prediction, truth, ignored, 1.0).item() == pytest.approx(12 / 20)


def test_ignored_pixels_change_nothing() -> None:
    prediction, truth = random_labels(1, 3, ignore=True)
    other = torch.where(truth == IGNORE, (prediction + 1) % 3, prediction)
    scores = segmentation_scores(prediction, truth, range(3), 1.0)
    others = segmentation_scores(other, truth, range(3), 1.0)
    for name, values in scores.items():
        assert torch.equal(values, others[name])


def naive_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13 with an 11 x 11 Gaussian window, mean over windows and channels."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for x, y in zip(a, b, strict=True):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                u, v = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
                mu, nu = (weights * u).sum(), (weights * v).sum()
                var_u, var_v = (weights * (u - mu) ** 2).sum(), (weights * (v - nu) ** 2).sum()
                covariance = (weights * (u - mu) * (v - nu)).sum()
                numerator = (2 * mu * nu + 0.01**2) * (2 * covariance + 0.03**2)
                values.append(numerator / ((mu**2 + nu**2 + 0.01**2) * (var_u + var_v + 0.03**2)))
    return float(np.mean(values))


@pytest.mark.parametrize("channels", [1, 3])
def test_restoration_scores_equal_loops(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, channels, 14, 17, generator=generator)
    images = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    scores = restoration_scores(images, truth)
    for index in range(2):
        a, b = images[index].double().numpy(), truth[index].double().numpy()
        assert scores["ssim"][index].item() == pytest.approx(naive_ssim(a, b), abs=1e-5)
        expected = 10 * math.log10(1 / np.mean((a - b) ** 2))
        assert scores["psnr"][index].item() == pytest.approx(expected, abs=1e-4)


def test_psnr_closed_form_and_perfect_image() -> None:
    truth = torch.full((2, 3, 12, 12), 0.5)
    images = truth.clone()
    images[1] += 0.1
    scores = restoration_scores(images, truth)
    assert scores["psnr"].tolist() == pytest.approx([MAX_PSNR_DB, 20.0], abs=1e-4)
    assert scores["ssim"][0].item() == pytest.approx(1.0)


def test_a_single_image_keeps_its_axis() -> None:
    image = torch.rand(1, 3, 12, 12)
    assert {name: s.shape for name, s in restoration_scores(image, image).items()} == {
        "psnr": (1,),
        "ssim": (1,),
    }


def test_boundary_scores_are_means_over_the_classes_that_occur() -> None:
    prediction, truth = random_labels(1, 3, ignore=True)
    also = ("boundary_iou", "hd95", "nsd")
    classes = (0, 1, 2, 7)  # 7 occurs in none
    scores = segmentation_scores(prediction, truth, classes, 2.0, also=also, boundary_width=0.1)
    ignored = (truth == IGNORE)[:, None]
    index = torch.arange(3)[:, None, None]
    regions = ((prediction[:, None] == index) & ~ignored, truth[:, None] == index, ignored)
    occurs = (regions[0] | regions[1]).any(3).any(2)
    expected = {
        "boundary_iou": boundary_iou(*regions, 0.1),
        "hd95": hausdorff_95(*regions),
        "nsd": surface_dice(*regions, 2.0),
    }
    for name in also:
        mean = (expected[name] * occurs).sum(1) / occurs.sum(1)
        torch.testing.assert_close(scores[name], mean)


def test_an_empty_mask_left_empty_is_perfect() -> None:
    empty = torch.zeros(1, 16, 16, dtype=torch.long)
    also = ("boundary_iou", "hd95", "nsd")
    scores = segmentation_scores(empty, empty, (1,), 1.0, also=also)
    assert {name: scores[name].item() for name in also} == {
        "boundary_iou": 1.0,
        "hd95": 0.0,
        "nsd": 1.0,
    }


def test_only_what_is_asked_for_is_computed() -> None:
    prediction, truth = random_labels(0, 2, ignore=False)
    assert set(segmentation_scores(prediction, truth, (1,), 1.0)) == {"dice", "iou", "boundary_f1"}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    truth = images.flip(0)
    assert set(restoration_scores(images, truth)) == {"psnr", "ssim"}
    scores = restoration_scores(
        images, truth, also=("band_psnr", "edge_rise_width", "spectrum_distance", "other")
    )
    assert list(scores) == ["psnr", "ssim", "band_psnr", "edge_rise_width", "spectrum_distance"]
    assert torch.equal(scores["band_psnr"], band_psnr(images, truth))
    assert torch.equal(scores["edge_rise_width"], edge_rise_width(images, truth))
    assert torch.equal(scores["spectrum_distance"], spectrum_distance(images, truth))
    perfect = restoration_scores(images, images, also=("band_psnr",))
    assert perfect["band_psnr"].tolist() == [MAX_PSNR_DB] * 2
    assert lattice_scores(images, 2, ("psnr",)) == {}
    lattice = lattice_scores(images, 2, ("lattice_energy",))
    assert list(lattice) == ["lattice_energy"]
    assert torch.equal(lattice["lattice_energy"], lattice_energy_ratio(images, 2))
