import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from upnas.tasks import SegmentationConfig, build_task
from upnas.tasks.filaments import FilamentsConfig, make_filaments
from upnas.tasks.folder import FolderConfig
from upnas.tasks.metrics import IGNORE
from upnas.tasks.segmentation import best_threshold, mask_loss

FILAMENTS = FilamentsConfig(num_train=6, num_validation=4, num_test=4)
SMALL = SegmentationConfig(data=FILAMENTS, crop=32)


def write_three_classes(folder: Path) -> None:
    """Images whose red channel says the class: 0 on 60 %, 1 and 2 on 20 % each."""
    for stem, split in (("a", "train"), ("b", "val"), ("c", "test")):
        mask = np.zeros((20, 20), np.uint8)
        mask[:, 12:16], mask[:, 16:] = 1, 2
        for name in ("images", "masks"):
            (folder / name).mkdir(exist_ok=True)
        Image.fromarray(np.stack([mask * 100] * 3, axis=2)).save(folder / "images" / f"{stem}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")
        (folder / f"{split}.txt").write_text(stem)


def naive_loss(outputs: Tensor, targets: Tensor) -> float:
    """Cross-entropy and soft Dice, pixel by pixel in double precision."""
    batch, channels, height, width = outputs.shape
    entropy, count = 0.0, 0
    overlap, total = np.zeros(channels), np.zeros(channels)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                label = int(targets[b, y, x])
                if label == IGNORE:
                    continue
                count += 1
                logits = outputs[b, :, y, x].double().numpy()
                if channels == 1:
                    p = np.array([1 / (1 + math.exp(-logits[0]))])
                    entropy -= math.log(p[0] if label == 1 else 1 - p[0])
                    t = np.array([float(label == 1)])
                else:
                    p = np.exp(logits) / np.exp(logits).sum()
                    entropy -= math.log(p[label])
                    t = np.eye(channels)[label]
                overlap += p * t
                total += p + t
    return entropy / count + float(np.mean(1 - (2 * overlap + 1) / (total + 1)))


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_loss_equals_loops(channels: int, ignore: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, channels, 5, 6, generator=generator)
    targets = torch.randint(max(2, channels), (2, 5, 6), generator=generator)
    if ignore:
        targets[:, ::2, ::2] = IGNORE
    assert mask_loss(outputs, targets).item() == pytest.approx(naive_loss(outputs, targets), 1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_of_ignored_pixels_is_zero_with_zero_gradient(channels: int) -> None:
    outputs = torch.randn(1, channels, 4, 4, requires_grad=True)
    loss = mask_loss(outputs, torch.full((1, 4, 4), IGNORE))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert outputs.grad is not None
    assert torch.count_nonzero(outputs.grad) == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_a_perfect_prediction_has_almost_no_loss(channels: int) -> None:
    targets = torch.randint(max(2, channels), (2, 8, 8))
    if channels == 1:
        outputs = 40.0 * (targets[:, None].float() - 0.5)
    else:
        outputs = 40.0 * torch.nn.functional.one_hot(targets, channels).movedim(3, 1).float()
    assert mask_loss(outputs, targets).item() == pytest.approx(0.0, abs=1e-3)


def test_train_batch_is_pure() -> None:
    task = build_task(SMALL)
    torch.manual_seed(0)
    first = task.train_batch(3, 7, 5)
    task.train_batch(4, 7, 5)
    torch.manual_seed(1)
    again = task.train_batch(3, 7, 5)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], task.train_batch(4, 7, 5)[0])
    assert not torch.equal(first[0], task.train_batch(3, 8, 5)[0])


def test_train_batch_layout_and_range() -> None:
    inputs, targets = build_task(SMALL).train_batch(0, 0, 5)
    assert inputs.shape == (5, 3, 32, 32)
    assert inputs.dtype == torch.float32
    assert inputs.min() >= -2.0
    assert inputs.max() <= 2.0
    assert targets.shape == (5, 32, 32)
    assert targets.dtype == torch.int64
    assert set(targets.flatten().tolist()) == {0, 1}


def test_inputs_are_the_normalised_images() -> None:
    task = build_task(SMALL)
    seen: list[Tensor] = []

    def predict(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return inputs[:, :1]

    task.evaluate(predict, "validation")
    images = make_filaments(FILAMENTS, 32)["validation"].inputs
    expected = (np.stack(images) / 255.0 - 0.5) / 0.25
    np.testing.assert_allclose(torch.cat(seen).numpy(), expected, atol=1e-6)


def test_evaluate_scores_the_truth_as_perfect_and_its_inverse_as_zero() -> None:
    task = build_task(SMALL)
    masks = np.stack(make_filaments(FILAMENTS, 32)["test"].targets)
    logits = torch.from_numpy(masks).float() - 0.5
    assert task.evaluate(lambda x: logits, "test") == {"dice": 1.0, "iou": 1.0, "boundary_f1": 1.0}
    inverse = task.evaluate(lambda x: -logits, "test")
    assert inverse["dice"] == 0.0
    assert inverse["iou"] == 0.0


def test_steps_per_epoch_counts_crops() -> None:
    task = build_task(SMALL)
    assert task.steps_per_epoch(4) == 2  # 6 images of one crop each
    fixed = build_task(SMALL.model_copy(update={"crops_per_epoch": 100}))
    assert fixed.steps_per_epoch(8) == 13


def test_trivial_baseline_is_the_best_constant_or_threshold() -> None:
    task = build_task(SMALL)
    trivial = task.trivial_quality("validation")
    everything = task.evaluate(lambda x: torch.ones_like(x[:, :1]), "validation")
    nothing = task.evaluate(lambda x: -torch.ones_like(x[:, :1]), "validation")
    assert nothing["dice"] == 0.0
    share = [m.mean() for m in make_filaments(FILAMENTS, 32)["validation"].targets]
    assert everything["dice"] == pytest.approx(np.mean([2 * s / (1 + s) for s in share]))
    assert trivial["dice"] >= everything["dice"]
    assert set(trivial) == {"dice", "iou", "boundary_f1"}


def test_trivial_baseline_finds_a_threshold(tmp_path: Path) -> None:
    """Where brightness tells the foreground, the trivial baseline is perfect."""
    write_three_classes(tmp_path)
    for mask_file in (tmp_path / "masks").iterdir():
        mask = np.asarray(Image.open(mask_file))
        Image.fromarray((mask > 0).astype(np.uint8)).save(mask_file)
    config = SegmentationConfig(data=FolderConfig(path=str(tmp_path)), crop=20)
    assert build_task(config).trivial_quality("validation")["dice"] == 1.0


def test_best_threshold_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        score = torch.randint(8, (30,), generator=generator).float()  # with ties
        labels = (score + 4 * torch.rand(30, generator=generator) > 6).long()

        def dice(t: float, score: Tensor = score, labels: Tensor = labels) -> float:
            chosen = score >= t
            return float(2 * labels[chosen].sum() / (chosen.sum() + labels.sum()))

        assert dice(best_threshold(score, labels)) == max(dice(t) for t in range(8))


def test_three_classes(tmp_path: Path) -> None:
    write_three_classes(tmp_path)
    data = FolderConfig(path=str(tmp_path))
    task = build_task(SegmentationConfig(data=data, crop=20, classes=3, augmentation="none"))
    assert task.signature.out_channels == 3
    majority = task.trivial_quality("validation")
    # Always class 0 on 60 % of the pixels: Dice 2 * 0.6 / 1.6, IoU 0.6, and 0 for classes 1 and 2.
    assert majority["dice"] == pytest.approx(0.75 / 3)
    assert majority["iou"] == pytest.approx(0.6 / 3)

    def by_brightness(inputs: Tensor) -> Tensor:
        level = (inputs[:, :1] * 0.25 + 0.5) * 255 / 100
        return -((level - torch.arange(3)[:, None, None]) ** 2)

    assert task.evaluate(by_brightness, "test") == {"dice": 1.0, "iou": 1.0, "boundary_f1": 1.0}
    inputs, targets = task.train_batch(0, 0, 2)
    assert task.loss(50 * by_brightness(inputs), targets).item() == pytest.approx(0, abs=1e-3)


def test_a_small_network_beats_the_trivial_baseline() -> None:
    torch.manual_seed(0)
    data = FilamentsConfig(
        texture=0.2, noise=0.01, contrast=(0.4, 0.4), num_blobs=(0, 0), width_px=(2.0, 4.0)
    )
    task = build_task(SegmentationConfig(data=data, crop=48))
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 7, padding=3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 1, 3, padding=1),
    )
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(150):
        inputs, targets = task.train_batch(step, 0, 8)
        optimizer.zero_grad()
        task.loss(network(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        quality = task.evaluate(network, "validation")
    assert quality["dice"] > task.trivial_quality("validation")["dice"] + 0.1


def test_lattice_metrics_read_the_logits() -> None:
    task = build_task(SMALL.scoring(["lattice_energy", "phase_variance", "hd95"]))
    columns = torch.arange(32)

    def striped(inputs: Tensor) -> Tensor:
        """Logits that are positive everywhere, with a pattern of period 2."""
        return (9 + (-1.0) ** columns).expand(len(inputs), 1, 32, 32)

    quality = task.evaluate(striped, "validation")
    assert quality["lattice_energy"] == pytest.approx(1)
    assert quality["phase_variance"] == pytest.approx(1)
    flat = task.evaluate(lambda x: torch.ones_like(x[:, :1]), "validation")
    assert (flat["lattice_energy"], flat["phase_variance"]) == (0, 0)
    assert quality["hd95"] == flat["hd95"] == math.hypot(32, 32)  # all foreground: no boundary
