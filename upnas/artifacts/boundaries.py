"""How well the boundaries of regions agree.

Regions are boolean (B, K, H, W), one mask per class, without the pixels that do not count;
``ignored`` (B, 1, H, W) marks those. Boundary F1, Hausdorff distance and surface Dice read
boundary pixels: those of the region with a 4-neighbour that counts and is not of the region. The
image's border and ignored pixels make no boundary there, since the region may go on behind them.
Two regions without a boundary can be everything and nothing: they score as perfect if they agree on
all the pixels that count, and as wrong if they do not.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from upnas.artifacts._checks import check_regions


def boundary_f1(
    predicted: Tensor, true: Tensor, ignored: Tensor, tolerance_px: float = 1.0
) -> Tensor:
    """F1 of boundary pixels that have a partner within a tolerance (Csurka et al., BMVC 2013).

    Precision is the share of predicted boundary pixels with a true boundary pixel within
    ``tolerance_px`` (Euclidean, between pixel centres), recall the converse, and F1 their harmonic
    mean. Where neither region has a boundary the score is 1 if they agree on the pixels that count,
    else 0; where only one has it is 0.
    http://www.bmva.org/bmvc/2013/Papers/paper0032/paper0032.pdf

    Args:
        predicted: Regions, boolean (B, K, H, W), without ignored pixels.
        true: Regions, boolean (B, K, H, W), without ignored pixels.
        ignored: Pixels that do not count, boolean (B, 1, H, W).
        tolerance_px: Largest distance of a match.

    Returns:
        (B, K) in double precision.

    Raises:
        ValueError: If a mask is not boolean or the shapes do not fit.
    """
    check_regions(predicted, true, ignored)
    edges, true_edges = _boundary(predicted, ignored), _boundary(true, ignored)
    num_edges, num_true_edges = edges.sum((2, 3)).double(), true_edges.sum((2, 3)).double()
    precision = (edges & _near(true_edges, tolerance_px)).sum((2, 3)) / num_edges
    recall = (true_edges & _near(edges, tolerance_px)).sum((2, 3)) / num_true_edges
    f1 = 2 * precision * recall / (precision + recall)  # NaN for 0 / 0
    agree = _agree(predicted, true, ignored).double()
    return torch.where(num_edges + num_true_edges == 0, agree, f1.nan_to_num(0.0))


def surface_dice(
    predicted: Tensor, true: Tensor, ignored: Tensor, tolerance_px: float = 1.0
) -> Tensor:
    """The share of both boundaries that is within a tolerance of the other one (NSD).

    Nikolov et al., 2018, https://arxiv.org/abs/1809.04430, section 4.4: (pixels of the predicted
    boundary near the true one + the converse) / pixels of both. Differs from the authors' code:
    counts boundary pixels instead of lengths of a contour. Where neither region has a boundary the
    score is 1 if they agree on the pixels that count, else 0; where only one has it is 0.

    Args:
        predicted: Regions, boolean (B, K, H, W), without ignored pixels.
        true: Regions, boolean (B, K, H, W), without ignored pixels.
        ignored: Pixels that do not count, boolean (B, 1, H, W).
        tolerance_px: Largest Euclidean distance between pixel centres.

    Returns:
        (B, K) in [0, 1] in double precision.

    Raises:
        ValueError: If a mask is not boolean or the shapes do not fit.
    """
    check_regions(predicted, true, ignored)
    edges, true_edges = _boundary(predicted, ignored), _boundary(true, ignored)
    matched = (edges & _near(true_edges, tolerance_px)).sum((2, 3))
    matched = matched + (true_edges & _near(edges, tolerance_px)).sum((2, 3))
    total = edges.sum((2, 3)) + true_edges.sum((2, 3))
    agree = _agree(predicted, true, ignored).double()
    return torch.where(total == 0, agree, matched.double() / total)


def hausdorff_95(predicted: Tensor, true: Tensor, ignored: Tensor) -> Tensor:
    """The 95th percentile of the distances between two boundaries, the larger of both ways (HD95).

    Euclidean between pixel centres, percentiles with linear interpolation. Where neither region
    has a boundary and they agree on the pixels that count, the distance is 0. Where they do not
    agree, or only one has a boundary, it is the image's diagonal, which no distance exceeds.

    Args:
        predicted: Regions, boolean (B, K, H, W), without ignored pixels.
        true: Regions, boolean (B, K, H, W), without ignored pixels.
        ignored: Pixels that do not count, boolean (B, 1, H, W).

    Returns:
        Pixels, (B, K) in double precision.

    Raises:
        ValueError: If a mask is not boolean or the shapes do not fit.
    """
    check_regions(predicted, true, ignored)
    agree = _agree(predicted, true, ignored).cpu().numpy()
    edges = _boundary(predicted, ignored).cpu().numpy()
    true_edges = _boundary(true, ignored).cpu().numpy()
    distances = np.zeros(edges.shape[:2])
    for place in itertools.product(*map(range, distances.shape)):
        if edges[place].any() and true_edges[place].any():
            distances[place] = _percentile_distance(edges[place], true_edges[place])
        elif edges[place].any() or true_edges[place].any() or not agree[place]:
            distances[place] = math.hypot(*true.shape[2:])
    return torch.from_numpy(distances).to(true.device)


def boundary_iou(
    predicted: Tensor, true: Tensor, ignored: Tensor, relative_width: float = 0.02
) -> Tensor:
    """IoU of the parts of two regions that are close to their own contours.

    Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562, eq. 2. As in the authors' code, the
    close part is what d erosions by a 3 x 3 square take away, d the given share of the image's
    diagonal, at least 1 px, and the image's border is a contour. Ignored pixels are none.

    Args:
        predicted: Regions, boolean (B, K, H, W), without ignored pixels.
        true: Regions, boolean (B, K, H, W), without ignored pixels.
        ignored: Pixels that do not count, boolean (B, 1, H, W).
        relative_width: d / diagonal; the paper's 0.02.

    Returns:
        (B, K) in [0, 1] in double precision. Where both bands are empty, 1 if the regions agree on
        the pixels that count, else 0.

    Raises:
        ValueError: If a mask is not boolean or the shapes do not fit.
    """
    check_regions(predicted, true, ignored)
    distance = max(1, round(relative_width * math.hypot(*true.shape[2:])))
    band, true_band = (_inner_band(region, ignored, distance) for region in (predicted, true))
    overlap = (band & true_band).sum((2, 3)).double()
    union = (band | true_band).sum((2, 3))
    return torch.where(union == 0, _agree(predicted, true, ignored).double(), overlap / union)


def _agree(predicted: Tensor, true: Tensor, ignored: Tensor) -> Tensor:
    """Whether two regions are the same on all the pixels that count (B, K)."""
    return ~((predicted ^ true) & ~ignored).flatten(2).any(2)


def _boundary(region: Tensor, ignored: Tensor) -> Tensor:
    """Pixels of the region with a 4-neighbour outside it that counts."""
    outside = F.pad(~(region | ignored), (1, 1, 1, 1))  # what lies beyond the border is not outside
    vertical = outside[:, :, :-2, 1:-1] | outside[:, :, 2:, 1:-1]
    horizontal = outside[:, :, 1:-1, :-2] | outside[:, :, 1:-1, 2:]
    return region & (vertical | horizontal)


def _near(pixels: Tensor, distance_px: float) -> Tensor:
    """All pixels within a Euclidean distance of the given ones (dilation by a disc)."""
    height, width = pixels.shape[2:]
    reach = math.floor(distance_px)
    padded = F.pad(pixels, (reach,) * 4)
    near = torch.zeros_like(pixels)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy**2 + dx**2 <= distance_px**2:
                top, left = reach + dy, reach + dx
                near |= padded[:, :, top : top + height, left : left + width]
    return near


def _inner_band(region: Tensor, ignored: Tensor, distance: int) -> Tensor:
    """Pixels of the region that ``distance`` erosions by a 3 x 3 square take away."""
    outside = F.pad((~(region | ignored)).float(), (distance,) * 4, value=1.0)
    side = 2 * distance + 1
    for kernel in ((side, 1), (1, side)):  # a square is the product of two lines
        outside = F.max_pool2d(outside, kernel, stride=1)
    return region & (outside > 0)


def _percentile_distance(edges: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]) -> float:
    there = distance_transform_edt(~others)[edges]
    back = distance_transform_edt(~edges)[others]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))
