"""A folder of the user's own images, checked completely when it is loaded.

::

    my_data/
      images/, masks/     for segmentation: files with the same stem, in any format Pillow reads
      hr/                 for super-resolution: the high-resolution images
      train.txt, val.txt, test.txt     one stem (file name without its ending) per line

A mask has one channel of class indices 0 .. classes - 1; 255 marks pixels that do not count. Images
are read as 8-bit RGB: grey is replicated and transparency dropped. All of them stay in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from upnas.errors import DataError, suggest_name
from upnas.records import Record
from upnas.tasks.base import SPLITS, Split
from upnas.tasks.crops import Bytes
from upnas.tasks.metrics import IGNORE

SPLIT_FILES: Final[Mapping[Split, str]] = {
    "train": "train.txt",
    "validation": "val.txt",
    "test": "test.txt",
}
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_IMAGE_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_MASK_MODES: Final = ("1", "L", "P")


class FolderConfig(Record):
    """``data: {type: folder, path: ...}``: the user's own images."""

    type: Literal["folder"] = "folder"
    path: str = Field(
        min_length=1,
        description="Folder with images/ and masks/ (segmentation) or hr/ (super-resolution) and "
        "train.txt, val.txt, test.txt; relative to the current folder.",
    )


def load_masked_images(
    config: FolderConfig, num_classes: int
) -> dict[Split, tuple[list[Bytes], list[Bytes]]]:
    """Load the images and masks of every split.

    Args:
        config: Where they are.
        num_classes: Labels must be below it, or 255.

    Returns:
        Per split, images (3, H, W) and masks (1, H, W), in the order of the split file.

    Raises:
        DataError: If a folder, a split file or an image is missing, cannot be read or does not
            fit; the message names the file.
    """
    stems = _load_stems(Path(config.path))
    image_files = _index(Path(config.path) / "images")
    mask_files = _index(Path(config.path) / "masks")
    splits: dict[Split, tuple[list[Bytes], list[Bytes]]] = {}
    for split in SPLITS:
        images, masks = [], []
        for stem in stems[split]:
            image_file = _find(stem, image_files, Path(config.path) / "images", split)
            mask_file = _find(stem, mask_files, Path(config.path) / "masks", split)
            images.append(_read_image(image_file))
            masks.append(_read_mask(mask_file, num_classes))
            if images[-1].shape[1:] != masks[-1].shape[1:]:
                raise DataError(
                    f"{mask_file}: the mask is {_size(masks[-1])} but its image {image_file.name} "
                    f"is {_size(images[-1])} (width x height). They must be equal."
                )
        splits[split] = images, masks
    _check_labels_occur(splits["train"][1], Path(config.path) / "masks")
    return splits


def load_images(config: FolderConfig) -> dict[Split, list[Bytes]]:
    """Load the images (3, H, W) of ``hr/`` of every split, in the order of the split file.

    Raises:
        DataError: As :func:`load_masked_images`.
    """
    stems = _load_stems(Path(config.path))
    folder = Path(config.path) / "hr"
    files = _index(folder)
    return {
        split: [_read_image(_find(stem, files, folder, split)) for stem in stems[split]]
        for split in SPLITS
    }


def _load_stems(root: Path) -> dict[Split, list[str]]:
    """Read the split files; no stem twice and no empty split."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (task.data.path, seen from {Path.cwd()}).")
    stems: dict[Split, list[str]] = {}
    seen: dict[str, str] = {}
    for split, name in SPLIT_FILES.items():
        file = root / name
        if not file.is_file():
            raise DataError(
                f"{file}: no such file. It lists the {split} images, one stem (file name without "
                "its ending) per line."
            )
        lines = file.read_text(encoding="utf-8").splitlines()
        stems[split] = [line.strip() for line in lines if line.strip()]
        if not stems[split]:
            raise DataError(f"{file}: lists no image. Every split needs at least one stem.")
        for stem in stems[split]:
            if stem in seen:
                raise DataError(
                    f"{file}: {stem!r} is already listed in {seen[stem]}. An image belongs to one "
                    "split, once: remove one of the two lines."
                )
            seen[stem] = name
    return stems


def _index(folder: Path) -> dict[str, Path]:
    """Image files of a folder by stem."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder. Segmentation data has images/ and masks/, "
            "super-resolution data has hr/."
        )
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in SUFFIXES:
            continue
        if file.stem in files:
            raise DataError(f"{file}: {files[file.stem].name} has the same stem. Rename one.")
        files[file.stem] = file
    return files


def _find(stem: str, files: Mapping[str, Path], folder: Path, split: Split) -> Path:
    if stem not in files:
        raise DataError(
            f"{folder}: no image with the stem {stem!r}, which {SPLIT_FILES[split]} lists."
            f"{suggest_name(stem, files)} Endings read: {', '.join(SUFFIXES)}."
        )
    return files[stem]


def _open(file: Path, modes: tuple[str, ...], expected: str) -> Image.Image:
    """Decode an image file whose pixels have one of Pillow's modes."""
    try:
        with Image.open(file) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # Pillow: SyntaxError = bad PNG
        raise DataError(f"{file}: not a readable image ({error}).") from error
    if image.mode not in modes:
        raise DataError(f"{file}: the pixels are {image.mode!r} (Pillow mode), not {expected}.")
    return image


def _read_image(file: Path) -> Bytes:
    image = _open(file, _IMAGE_MODES, "8-bit. Convert the image to 8-bit RGB or grey")
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def _read_mask(file: Path, num_classes: int) -> Bytes:
    expected = "8-bit in one channel. A mask holds class indices, not colours"
    mask = np.asarray(_open(file, _MASK_MODES, expected)).astype(np.uint8)[None]
    wrong = np.unique(mask[(mask >= num_classes) & (mask != IGNORE)])
    if wrong.size:
        raise DataError(
            f"{file}: label {wrong[0]} is out of range. With task.classes = {num_classes} a mask "
            f"may hold 0 to {num_classes - 1}, and {IGNORE} where a pixel does not count."
        )
    return mask


def _check_labels_occur(masks: list[Bytes], folder: Path) -> None:
    """Refuse masks that teach nothing, such as 0/255 ones whose foreground reads as ignored."""
    if all(np.all((mask == 0) | (mask == IGNORE)) for mask in masks):
        raise DataError(
            f"{folder}: the training masks hold no label but 0 and {IGNORE}, and {IGNORE} marks "
            "pixels that do not count. Save the foreground as 1."
        )


def _size(image: Bytes) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"
