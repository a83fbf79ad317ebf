"""Every mistake in a folder of images is a DataError that names the file."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from upnas.errors import DataError
from upnas.tasks import SegmentationConfig, SuperResolutionConfig, build_task
from upnas.tasks.folder import FolderConfig, load_images, load_masked_images


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 40 x 30 with a square as foreground, also as hr/."""
    rng = np.random.default_rng(0)
    for stem, split in (("a", "train"), ("b", "val"), ("c", "test")):
        image = rng.integers(256, size=(30, 40, 3), dtype=np.uint8)
        mask = np.zeros((30, 40), np.uint8)
        mask[5:20, 8:25] = 1
        save(tmp_path / "images" / f"{stem}.png", image)
        save(tmp_path / "masks" / f"{stem}.png", mask)
        save(tmp_path / "hr" / f"{stem}.png", image)
        (tmp_path / f"{split}.txt").write_text(f"{stem}\n")
    return tmp_path


def load(folder: Path, num_classes: int = 2) -> None:
    load_masked_images(FolderConfig(path=str(folder)), num_classes)


def test_images_and_masks_are_what_the_files_hold(folder: Path) -> None:
    images, masks = load_masked_images(FolderConfig(path=str(folder)), 2)["train"]
    expected = np.asarray(Image.open(folder / "images" / "a.png"))
    np.testing.assert_array_equal(images[0], expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(masks[0][0], np.asarray(Image.open(folder / "masks" / "a.png")))
    high = load_images(FolderConfig(path=str(folder)))
    np.testing.assert_array_equal(high["train"][0], images[0])


def test_grey_images_are_replicated_and_palette_masks_are_indices(folder: Path) -> None:
    grey = np.arange(1200, dtype=np.uint16).astype(np.uint8).reshape(30, 40)
    save(folder / "images" / "a.png", grey)
    palette = Image.fromarray((grey > 100).astype(np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(folder / "masks" / "a.png")
    images, masks = load_masked_images(FolderConfig(path=str(folder)), 2)["train"]
    np.testing.assert_array_equal(images[0], np.stack([grey] * 3))
    np.testing.assert_array_equal(masks[0][0], grey > 100)


def test_a_path_is_relative_to_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert len(load_images(FolderConfig(path=folder.name))["train"]) == 1


def test_missing_folder(folder: Path) -> None:
    with pytest.raises(DataError, match=re.escape(str(folder / "nowhere"))):
        load(folder / "nowhere")


@pytest.mark.parametrize("name", ["images", "masks"])
def test_missing_subfolder(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(DataError, match=re.escape(f"{folder / name}: no such folder")):
        load(folder)


def test_missing_hr_folder(folder: Path) -> None:
    (folder / "hr").rename(folder / "elsewhere")
    with pytest.raises(DataError, match="hr: no such folder"):
        load_images(FolderConfig(path=str(folder)))


@pytest.mark.parametrize("name", ["train.txt", "val.txt", "test.txt"])
def test_missing_and_empty_split_file(folder: Path, name: str) -> None:
    (folder / name).write_text("\n  \n")
    with pytest.raises(DataError, match=f"{re.escape(name)}: lists no image"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{re.escape(name)}: no such file"):
        load(folder)


@pytest.mark.parametrize("name", ["images", "masks"])
def test_stem_without_file_suggests_the_nearest(folder: Path, name: str) -> None:
    (folder / name / "b.png").rename(folder / name / "b_01.png")
    (folder / "val.txt").write_text("b\n")
    with pytest.raises(DataError, match=rf"{name}: no image with the stem 'b', which val\.txt"):
        load(folder)
    for other in ("images", "masks"):
        if other != name:
            (folder / other / "b.png").rename(folder / other / "b_01.png")
    (folder / "val.txt").write_text("b_02\n")
    with pytest.raises(DataError, match="Did you mean 'b_01'"):
        load(folder)


def test_stem_in_two_splits(folder: Path) -> None:
    (folder / "test.txt").write_text("c\na\n")
    with pytest.raises(DataError, match=r"test\.txt: 'a' is already listed in train\.txt"):
        load(folder)


def test_two_files_with_one_stem(folder: Path) -> None:
    (folder / "images" / "a.bmp").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: a\.bmp has the same stem"):
        load(folder)


def test_unreadable_and_truncated_image(folder: Path) -> None:
    whole = (folder / "images" / "c.png").read_bytes()
    for content in (b"no image", whole[: len(whole) // 2], b""):
        (folder / "images" / "c.png").write_bytes(content)
        with pytest.raises(DataError, match=r"c\.png: not a readable image"):
            load(folder)


def test_sixteen_bit_image_and_colour_mask(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "images" / "b.png"))
    save(folder / "masks" / "b.png", pixels)
    with pytest.raises(DataError, match=r"b\.png: the pixels are 'RGB'.*class indices"):
        load(folder)
    save(folder / "images" / "b.png", pixels[:, :, 0].astype(np.uint16) * 256)
    with pytest.raises(DataError, match=r"b\.png: the pixels are 'I;16'.*8-bit"):
        load(folder)


def test_sizes_differ(folder: Path) -> None:
    save(folder / "masks" / "b.png", np.zeros((30, 39), np.uint8))
    with pytest.raises(DataError, match=r"b\.png: the mask is 39 x 30 .* is 40 x 30"):
        load(folder)


def test_label_out_of_range(folder: Path) -> None:
    mask = np.full((30, 40), 255, np.uint8)
    mask[0, 0], mask[1, 1] = 3, 1
    save(folder / "masks" / "a.png", mask)
    load(folder, num_classes=4)
    with pytest.raises(DataError, match=r"a\.png: label 3 is out of range.*classes = 3"):
        load(folder, num_classes=3)


def test_masks_saved_as_0_and_255_are_refused(folder: Path) -> None:
    mask = np.asarray(Image.open(folder / "masks" / "a.png"))
    save(folder / "masks" / "a.png", mask * 255)
    with pytest.raises(DataError, match=r"masks: .* Save the foreground as 1"):
        load(folder)


def test_tasks_on_folders_pad_small_images(folder: Path) -> None:
    data = FolderConfig(path=str(folder))
    segmentation = build_task(SegmentationConfig(data=data, crop=48))
    inputs, targets = segmentation.train_batch(0, 0, 2)
    assert inputs.shape == (2, 3, 48, 48)
    assert (targets == 255).sum(dim=(1, 2)).tolist() == [48 * 48 - 30 * 40] * 2
    restoration = build_task(SuperResolutionConfig(data=data, crop=48, scale=4))
    inputs, targets = restoration.train_batch(0, 0, 2)
    assert inputs.shape == (2, 3, 12, 12)
    assert targets.shape == (2, 3, 48, 48)
    quality = restoration.trivial_quality("validation")
    assert quality["psnr"] > 5.0
    assert 0.0 < quality["ssim"] < 1.0


def test_evaluation_crops_without_a_label_are_left_out(folder: Path) -> None:
    mask = np.full((30, 40), 255, np.uint8)
    mask[:20, 5:20] = 1
    save(folder / "masks" / "b.png", mask)
    config = SegmentationConfig(data=FolderConfig(path=str(folder)), crop=16)
    task = build_task(config)
    sizes: list[int] = []

    def predict(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return inputs[:, :1]

    task.evaluate(predict, "validation")
    assert sizes == [1]  # of the two crops at columns 4 and 20 the right one has no label
    save(folder / "masks" / "b.png", np.full((30, 40), 255, np.uint8))
    build_task.cache_clear()
    with pytest.raises(DataError, match="validation split mark every pixel"):
        build_task(config)
