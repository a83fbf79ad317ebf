from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from upnas.tasks import SuperResolutionConfig, build_task
from upnas.tasks.folder import FolderConfig
from upnas.tasks.photos import load_photos
from upnas.tasks.super_resolution import luma, shrink


@pytest.mark.parametrize("scale", [2, 4])
def test_inputs_are_the_shrunk_targets(scale: Literal[2, 4]) -> None:
    """Away from the crop's border, shrinking the target crop gives the input crop."""
    task = build_task(SuperResolutionConfig(scale=scale))
    inputs, targets = task.train_batch(0, 0, 6)
    assert inputs.shape == (6, 3, 64 // scale, 64 // scale)
    assert targets.shape == (6, 3, 64, 64)
    for tensor in (inputs, targets):
        assert tensor.dtype == torch.float32
        assert 0 <= tensor.min() <= tensor.max() <= 1
    small = F.interpolate(
        targets, scale_factor=1 / scale, mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    error = 255 * (small - inputs)[:, :, 3:-3, 3:-3].abs()
    # Pillow rounds and clamps to 8 bits after each axis. One pixel off, the mean would be 7.
    assert error.mean().item() < 0.5
    assert error.max().item() < 4


def test_shrink_equals_the_bicubic_formula() -> None:
    """Keys' cubic with a = -0.5, stretched by the scale (anti-aliasing), on one axis."""
    line = load_photos("train")[0][:, 100:101, 40:72]
    image = np.ascontiguousarray(line.repeat(2, axis=1))
    actual = shrink(image, 2)[:, 0]

    def cubic(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

    for index in range(2, 14):
        centre = 2 * index + 0.5
        weights = np.array([cubic((x - centre) / 2) for x in range(32)])
        expected = (image[:, 0] * weights).sum(axis=1) / weights.sum()
        np.testing.assert_allclose(actual[:, index], expected.clip(0, 255), atol=1.01)


def test_the_truth_scores_best_and_bicubic_is_trivial() -> None:
    task = build_task(SuperResolutionConfig(max_eval_crops=12))
    trivial = task.trivial_quality("validation")

    def bicubic(inputs: Tensor) -> Tensor:
        size = (inputs.shape[2] * 2, inputs.shape[3] * 2)
        return F.interpolate(inputs, size, mode="bicubic", antialias=True, align_corners=False)

    assert task.evaluate(bicubic, "validation") == pytest.approx(trivial)
    nearest = task.evaluate(lambda x: F.interpolate(x, scale_factor=2), "validation")
    assert trivial["psnr"] > nearest["psnr"] + 0.5
    assert trivial["ssim"] > nearest["ssim"]
    black = task.evaluate(lambda x: torch.zeros(len(x), 3, 64, 64), "validation")
    assert black["psnr"] < 15.0


def write_ramp(folder: Path) -> np.ndarray:
    """One picture, a horizontal ramp of 32 x 32, in all three splits."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None] * 5, (32, 32, 3))
    (folder / "hr").mkdir()
    for stem, split in (("a", "train"), ("b", "val"), ("c", "test")):
        Image.fromarray(np.ascontiguousarray(ramp)).save(folder / "hr" / f"{stem}.png")
        (folder / f"{split}.txt").write_text(stem)
    return ramp


def test_metrics_clamp_and_cut_the_border(tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path)
    truth = torch.from_numpy(ramp.transpose(2, 0, 1) / 255.0).float()[None]
    config = SuperResolutionConfig(data=FolderConfig(path=str(tmp_path)), crop=32)
    task = build_task(config)
    border_only = truth + 1.0
    border_only[:, :, 2:-2, 2:-2] = truth[:, :, 2:-2, 2:-2]
    assert task.evaluate(lambda x: border_only, "test")["psnr"] == 100.0
    border_only[:, :, 2, 2] += 0.1
    assert task.evaluate(lambda x: border_only, "test")["psnr"] < 100.0
    white = torch.full_like(truth, 7.0)
    error = ((1.0 - truth[:, :, 2:-2, 2:-2]) ** 2).mean()
    expected = -10 * torch.log10(error).item()
    assert task.evaluate(lambda x: white, "test")["psnr"] == pytest.approx(expected, abs=1e-3)


def test_luma_metrics_see_no_chroma(tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path)
    truth = torch.from_numpy(ramp.transpose(2, 0, 1) / 255.0).float()[None] * 0.5 + 0.2
    # Red up and blue down by what leaves Y = 65.481 R + 128.553 G + 24.966 B unchanged.
    tinted = truth + torch.tensor([0.02, 0.0, -0.02 * 65.481 / 24.966])[:, None, None]
    torch.testing.assert_close(luma(tinted), luma(truth))
    data = FolderConfig(path=str(tmp_path))
    outputs = torch.from_numpy(ramp.transpose(2, 0, 1) / 255.0).float()[None] + 0.04
    scores = {
        color: build_task(SuperResolutionConfig(data=data, crop=32, color=color)).evaluate(
            lambda x: outputs, "test"
        )["psnr"]
        for color in ("rgb", "y")
    }
    assert scores["rgb"] == pytest.approx(-20 * np.log10(0.04), abs=1e-3)
    assert scores["y"] == pytest.approx(-20 * np.log10(0.04 * 219 / 255), abs=1e-3)


def test_luma_of_black_and_white() -> None:
    images = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)])
    torch.testing.assert_close(luma(images).flatten(), torch.tensor([16.0, 235.0]) / 255)


def test_loss_is_the_mean_absolute_error() -> None:
    task = build_task(SuperResolutionConfig())
    outputs, targets = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.25)
    assert task.loss(outputs, targets).item() == 0.25


def test_train_batch_is_pure() -> None:
    task = build_task(SuperResolutionConfig())
    first, again = task.train_batch(9, 2, 4), task.train_batch(9, 2, 4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], task.train_batch(10, 2, 4)[0])


@pytest.mark.parametrize("field", [{"crop": 66}, {"crop": 16}, {"scale": 3}, {"color": "hsv"}])
def test_what_is_not_possible_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(field))):
        SuperResolutionConfig.model_validate({"type": "super_resolution", **field})


def test_blur_is_seen_in_the_edges_and_replication_in_the_lattice() -> None:
    names = ["band_psnr", "edge_rise_width", "lattice_energy", "spectrum_distance"]
    task = build_task(SuperResolutionConfig(max_eval_crops=12).scoring(names))

    def resized(mode: str) -> dict[str, float]:
        return task.evaluate(lambda x: F.interpolate(x, scale_factor=2, mode=mode), "validation")

    bicubic, bilinear, nearest = map(resized, ("bicubic", "bilinear", "nearest"))
    assert bicubic["edge_rise_width"] < bilinear["edge_rise_width"]
    assert bicubic["band_psnr"] > bilinear["band_psnr"] > nearest["band_psnr"]
    assert bicubic["band_psnr"] < bicubic["psnr"]
    assert nearest["lattice_energy"] > 3 * bilinear["lattice_energy"]
    assert bilinear["spectrum_distance"] > bicubic["spectrum_distance"] > 0
