"""Quality metrics, one number per image.

torchmetrics serves PSNR and SSIM. Its Dice and IoU know no ignored pixels, so those are here. What
upsampling does to boundaries, edges and the spectrum is measured by ``upnas.artifacts``, and here
only for the names that somebody asked for.

Segmentation metrics take class indices (B, H, W), 255 in the truth for pixels that do not count,
and the classes to average over: ``(1,)`` for a binary task (foreground only), all K otherwise. The
mean of an image is over those classes that occur in its prediction or truth (a macro mean); an
image in which none of them does, such as an empty mask left empty, is perfect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from upnas.artifacts import (
    band_psnr,
    boundary_f1,
    boundary_iou,
    edge_rise_width,
    hausdorff_95,
    lattice_energy_ratio,
    phase_variance_ratio,
    spectrum_distance,
    surface_dice,
)

IGNORE: Final = 255
MAX_PSNR_DB: Final = 100.0
_LATTICE_RATIOS: Final[Mapping[str, Callable[[Tensor, int], Tensor]]] = MappingProxyType(
    {"lattice_energy": lattice_energy_ratio, "phase_variance": phase_variance_ratio}
)


def segmentation_scores(
    prediction: Tensor,
    truth: Tensor,
    classes: Sequence[int],
    tolerance_px: float,
    *,
    also: Collection[str] = (),
    boundary_width: float = 0.02,
) -> dict[str, Tensor]:
    """Dice, IoU and boundary F1 of every image, and what else is asked for.

    Dice = 2 |P & T| / (|P| + |T|) and IoU = |P & T| / (|P| + |T| - |P & T|), where P and T are the
    pixels of a class in prediction and truth.

    Args:
        prediction: Class indices (B, H, W).
        truth: Class indices or 255 (B, H, W).
        classes: Classes to average over; see the module.
        tolerance_px: See :func:`upnas.artifacts.boundary_f1`; also that of ``nsd``.
        also: Of ``boundary_iou``, ``hd95`` (:func:`upnas.artifacts.hausdorff_95`) and ``nsd``
            (:func:`upnas.artifacts.surface_dice`), those to compute; other names do nothing.
        boundary_width: See :func:`upnas.artifacts.boundary_iou`.

    Returns:
        ``dice``, ``iou``, ``boundary_f1`` and what was asked for, each (B,) in double precision:
        ``hd95`` in pixels, the others in [0, 1].
    """
    ignored = (truth == IGNORE)[:, None]  # (B, 1, H, W)
    index = torch.tensor(classes, device=truth.device)[:, None, None]
    predicted = (prediction[:, None] == index) & ~ignored  # (B, K, H, W)
    true = truth[:, None] == index
    overlap = (predicted & true).sum((2, 3)).double()
    total = (predicted.sum((2, 3)) + true.sum((2, 3))).double()  # (B, K)
    occurs = total > 0
    regions = (predicted, true, ignored)
    scores = {
        "dice": _macro(2 * overlap / total, occurs),
        "iou": _macro(overlap / (total - overlap), occurs),
        "boundary_f1": _macro(boundary_f1(*regions, tolerance_px), occurs),
    }
    if "boundary_iou" in also:
        scores["boundary_iou"] = _macro(boundary_iou(*regions, boundary_width), occurs)
    if "hd95" in also:
        scores["hd95"] = _macro(hausdorff_95(*regions), occurs, perfect=0.0)
    if "nsd" in also:
        scores["nsd"] = _macro(surface_dice(*regions, tolerance_px), occurs)
    return scores


def _macro(scores: Tensor, occurs: Tensor, perfect: float = 1.0) -> Tensor:
    """Mean over the classes (B, K) that occur; a perfect score where none does."""
    total = torch.where(occurs, scores, 0.0).sum(1)
    count = occurs.sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), perfect)


def restoration_scores(
    images: Tensor, truth: Tensor, *, also: Collection[str] = ()
) -> dict[str, Tensor]:
    """PSNR and SSIM of every image, over all its channels and pixels, and what else is asked for.

    PSNR = -10 log10(mean squared error) dB, at most 100 dB, so that a perfect image (of a flat
    region, say) has a finite score. SSIM is that of Wang et al., IEEE TIP 2004, eq. 13
    (Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03), averaged over the channels
    and over the pixels whose window lies inside the image. https://doi.org/10.1109/TIP.2003.819861

    Args:
        images: Images (B, C, H, W) in [0, 1]; H, W >= 11.
        truth: Images (B, C, H, W) in [0, 1].
        also: Of ``band_psnr`` (at most 100 dB, too), ``edge_rise_width`` and ``spectrum_distance``,
            those to compute; see ``upnas.artifacts``. Other names do nothing.

    Returns:
        ``psnr`` in dB, ``ssim`` and what was asked for, each (B,).
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
    scores = {"psnr": psnr.clamp(max=MAX_PSNR_DB), "ssim": inside.mean((1, 2, 3))}
    if "band_psnr" in also:
        scores["band_psnr"] = band_psnr(images, truth).clamp(max=MAX_PSNR_DB)
    if "edge_rise_width" in also:
        scores["edge_rise_width"] = edge_rise_width(images, truth)
    if "spectrum_distance" in also:
        scores["spectrum_distance"] = spectrum_distance(images, truth)
    return scores


def lattice_scores(maps: Tensor, period: int, also: Collection[str]) -> dict[str, Tensor]:
    """Those of ``lattice_energy`` and ``phase_variance`` that are asked for, of every image.

    Args:
        maps: Logits or images (B, C, H, W), H, W >= 4 periods.
        period: Of the lattice in pixels; see ``upnas.artifacts``.
        also: The names; others do nothing.

    Returns:
        Each (B,) in [0, 1] and in double precision.
    """
    return {name: ratio(maps, period) for name, ratio in _LATTICE_RATIOS.items() if name in also}
