"""What the functions of this package refuse, since they would answer it with a wrong number."""

from __future__ import annotations

import torch
from torch import Tensor


def check_regions(predicted: Tensor, true: Tensor, ignored: Tensor) -> None:
    """Regions are boolean (B, K, H, W), ignored pixels (B, 1, H, W): ``~`` of integers is no mask.

    Raises:
        ValueError: If they are not.
    """
    masks = (predicted, true, ignored)
    boolean = all(mask.dtype == torch.bool for mask in masks)
    alike = true.ndim == 4 and predicted.shape == true.shape
    if not (boolean and alike and ignored.shape == true[:, :1].shape):
        raise ValueError(
            "regions must be boolean (B, K, H, W) of equal shapes, ignored pixels boolean "
            "(B, 1, H, W); mask.bool() makes a mask of 0 and 1 boolean. Got predicted "
            f"{_kind(predicted)}, true {_kind(true)}, ignored {_kind(ignored)}."
        )


def check_images(*images: Tensor) -> None:
    """Images and maps are floating (B, C, H, W) of equal shapes, H, W >= 2.

    Raises:
        ValueError: If they are not.
    """
    shape = images[0].shape
    alike = len(shape) == 4 and all(one.shape == shape for one in images)
    if not (alike and min(shape[2:]) >= 2 and all(one.is_floating_point() for one in images)):
        raise ValueError(
            "images must be floating (B, C, H, W) of equal shapes, H, W >= 2; got "
            f"{', '.join(map(_kind, images))}."
        )


def check_period(period: int) -> None:
    """A lattice has a period of at least 2 pixels.

    Raises:
        ValueError: If it has not.
    """
    if period < 2:
        raise ValueError(f"period must be at least 2 pixels; got {period}.")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
