"""Quality metrics, one number per image.

torchmetrics serves PSNR and SSIM. Its Dice and IoU know no ignored pixels, so those are here,
next to boundary F1, which it lacks.

Segmentation metrics take class indices (B, H, W), 255 in the truth for pixels that do not count,
and the classes to average over: ``(1,)`` for a binary task (foreground only), all K otherwise. The
mean of an image is over those classes that occur in its prediction or truth (a macro mean); an
image in which none of them does, such as an empty mask left empty, scores 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE: Final = 255
MAX_PSNR_DB: Final = 100.0


def segmentation_scores(
    prediction: Tensor, truth: Tensor, classes: Sequence[int], tolerance_px: float
) -> dict[str, Tensor]:
    """Dice, IoU and boundary F1 of every image.

    Dice = 2 |P & T| / (|P| + |T|) and IoU = |P & T| / (|P| + |T| - |P & T|), where P and T are the
    pixels of a class in prediction and truth.

    Args:
        prediction: Class indices (B, H, W).
        truth: Class indices or 255 (B, H, W).
        classes: Classes to average over; see the module.
        tolerance_px: See :func:`boundary_f1`.

    Returns:
        ``dice``, ``iou`` and ``boundary_f1``, each (B,) in [0, 1] and in double precision.
    """
    ignored = (truth == IGNORE)[:, None]  # (B, 1, H, W)
    index = torch.tensor(classes, device=truth.device)[:, None, None]
    predicted = (prediction[:, None] == index) & ~ignored  # (B, K, H, W)
    true = truth[:, None] == index
    overlap = (predicted & true).sum((2, 3)).double()
    total = (predicted.sum((2, 3)) + true.sum((2, 3))).double()  # (B, K)
    occurs = total > 0
    return {
        "dice": _macro(2 * overlap / total, occurs),
        "iou": _macro(overlap / (total - overlap), occurs),
        "boundary_f1": _macro(boundary_f1(predicted, true, ignored, tolerance_px), occurs),
    }


def _macro(scores: Tensor, occurs: Tensor) -> Tensor:
    """Mean over the classes (B, K) that occur; 1 where none does."""
    total = torch.where(occurs, scores, 0.0).sum(1)
    count = occurs.sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0)


def boundary_f1(
    predicted: Tensor, true: Tensor, ignored: Tensor, tolerance_px: float = 1.0
) -> Tensor:
    """F1 of boundary pixels that have a partner within a tolerance (Csurka et al., BMVC 2013).

    Precision is the share of predicted boundary pixels with a true boundary pixel within
    ``tolerance_px`` (Euclidean, between pixel centres), recall the converse, and F1 their harmonic
    mean. A boundary pixel belongs to the region and has a 4-neighbour that does not; the image's
    border and ignored pixels make no boundary. Where neither region has a boundary the score is
    1, where only one has it is 0. http://www.bmva.org/bmvc/2013/Papers/paper0032/paper0032.pdf

    Args:
        predicted: Regions, boolean (B, K, H, W), without ignored pixels.
        true: Regions, boolean (B, K, H, W), without ignored pixels.
        ignored: Pixels that do not count, boolean (B, 1, H, W).
        tolerance_px: Largest distance of a match.

    Returns:
        (B, K) in double precision.
    """
    edges, true_edges = _boundary(predicted, ignored), _boundary(true, ignored)
    num_edges, num_true_edges = edges.sum((2, 3)).double(), true_edges.sum((2, 3)).double()
    precision = (edges & _near(true_edges, tolerance_px)).sum((2, 3)) / num_edges
    recall = (true_edges & _near(edges, tolerance_px)).sum((2, 3)) / num_true_edges
    f1 = 2 * precision * recall / (precision + recall)  # NaN for 0 / 0
    return torch.where(num_edges + num_true_edges == 0, 1.0, f1.nan_to_num(0.0))


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


def restoration_scores(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """PSNR and SSIM of every image, over all its channels and pixels.

    PSNR = -10 log10(mean squared error) dB, at most 100 dB, so that a perfect image (of a flat
    region, say) has a finite score. SSIM is that of Wang et al., IEEE TIP 2004, eq. 13
    (Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03), averaged over the channels
    and over the pixels whose window lies inside the image. https://doi.org/10.1109/TIP.2003.819861

    Args:
        images: Images (B, C, H, W) in [0, 1]; H, W >= 11.
        truth: Images (B, C, H, W) in [0, 1].

    Returns:
        ``psnr`` in dB and ``ssim``, each (B,).
    """
    # Not at the top: torchmetrics.image takes a second to import and segmentation needs none of it.
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    psnr = peak_signal_noise_ratio(images, truth, 1.0, reduction="none", dim=(1, 2, 3))
    # Its own mean counts windows over a reflected border; the full map lets us leave them out.
    _, ssim = structural_similarity_index_measure(
        images, truth, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = ssim[:, :, 5:-5, 5:-5]
    return {"psnr": psnr.clamp(max=MAX_PSNR_DB), "ssim": inside.mean((1, 2, 3))}
