"""The photographs inside the scikit-image wheel: real data without a download.

Left out on purpose: ``retina`` (its vessels are filaments without a label), ``page`` and ``text``
(likewise), ``clock`` (blurred by motion) and what is no photograph.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import skimage.data

from upnas.records import Record
from upnas.tasks.base import Split
from upnas.tasks.crops import Bytes

#: Names of functions of ``skimage.data``. No scene is in two splits (of the stereo pair only the
#: left image is used), and every split has close-ups, dark and bright scenes, and texture.
PHOTOS: Final[Mapping[Split, tuple[str, ...]]] = MappingProxyType(
    {
        "train": (
            "astronaut",
            "brick",
            "camera",
            "cell",
            "coffee",
            "hubble_deep_field",
            "immunohistochemistry",
            "moon",
        ),
        "validation": ("chelsea", "coins", "gravel"),
        "test": ("grass", "rocket", "stereo_motorcycle"),
    }
)


class PhotosConfig(Record):
    """``data: {type: photos}``: 14 photographs from 303 x 384 to 872 x 1000 pixels."""

    type: Literal["photos"] = "photos"


@lru_cache(maxsize=3)
def load_photos(split: Split) -> tuple[Bytes, ...]:
    """Return the split's photographs as 8-bit RGB (3, H, W); grey ones have equal channels.

    The arrays are shared and read-only.
    """
    photos = []
    for name in PHOTOS[split]:
        pixels = getattr(skimage.data, name)()
        if name == "stereo_motorcycle":
            pixels = pixels[0]  # (left, right, disparity)
        if pixels.ndim == 2:
            pixels = np.stack([pixels] * 3, axis=2)
        photo = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        photo.flags.writeable = False
        photos.append(photo)
    return tuple(photos)
