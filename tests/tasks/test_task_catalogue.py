"""What holds for every task of the catalogue, and the pydantic union for the YAML."""

import math
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from upnas.tasks import (
    SPLITS,
    TASKS,
    SegmentationConfig,
    SuperResolutionConfig,
    TaskConfig,
    build_task,
    metrics_of,
    signature_of,
    with_absolute_path,
)
from upnas.tasks.filaments import make_filaments
from upnas.tasks.folder import FolderConfig
from upnas.tasks.photos import load_photos

ADAPTER: TypeAdapter[TaskConfig] = TypeAdapter(TaskConfig)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_fits_its_signature(name: str) -> None:
    config = ADAPTER.validate_python({"type": name})
    task = build_task(config)
    assert task.signature == signature_of(config)
    assert task.signature.name == name
    assert task.metrics == config.default_metrics == metrics_of(config)[: len(task.metrics)]
    inputs, targets = task.train_batch(0, 0, 2)
    assert inputs.shape[:2] == (2, task.signature.in_channels)
    scale = task.signature.scale_factor
    size = (inputs.shape[2] * scale, inputs.shape[3] * scale)
    assert targets.shape[-2:] == size
    outputs = torch.zeros(2, task.signature.out_channels, *size, requires_grad=True)
    loss = task.loss(outputs, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.ndim == 0
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert task.steps_per_epoch(8) >= 1
    assert task.steps_per_epoch(10**6) == 1


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_evaluates_alike_twice_and_in_all_splits(name: str) -> None:
    task = build_task(ADAPTER.validate_python({"type": name}))
    scale = task.signature.scale_factor

    def predict(inputs: Tensor) -> Tensor:
        outputs = torch.nn.functional.interpolate(inputs, scale_factor=scale)
        return outputs[:, : task.signature.out_channels]

    names = {metric.name for metric in task.metrics}
    for split in SPLITS:
        quality = task.evaluate(predict, split)
        assert set(quality) == names
        assert quality == task.evaluate(predict, split)
        assert set(task.trivial_quality(split)) == names


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_scores_what_it_offers(name: str) -> None:
    """All but the metric of the weights, finite also for constant outputs; the rest as before."""
    plain = ADAPTER.validate_python({"type": name, "max_eval_crops": 3})
    offered = [metric.name for metric in metrics_of(plain)]
    assert len(set(offered)) == len(offered)
    config = plain.scoring(offered)
    task = build_task(config)
    assert [metric.name for metric in task.metrics] == [
        one for one in offered if one != "dc_gain_spread"
    ]
    scale = task.signature.scale_factor

    def predict(inputs: Tensor) -> Tensor:
        outputs = torch.nn.functional.interpolate(inputs, scale_factor=scale)
        return outputs[:, : task.signature.out_channels]

    def constant(inputs: Tensor) -> Tensor:
        return torch.full_like(predict(inputs), 0.3)

    quality = task.evaluate(predict, "validation")
    assert list(quality) == [metric.name for metric in task.metrics]
    assert quality == task.evaluate(predict, "validation")
    usual = build_task(plain).evaluate(predict, "validation")
    assert usual.items() <= quality.items()
    assert set(task.trivial_quality("validation")) == set(quality)
    blank = task.evaluate(constant, "validation")
    assert all(math.isfinite(value) for value in [*quality.values(), *blank.values()])
    assert blank["lattice_energy"] == blank["phase_variance"] == 0


def test_metrics_are_named_once_in_the_order_of_the_task() -> None:
    config = SegmentationConfig(metrics=("nsd", "dice", "nsd", "boundary_iou"))
    assert config.metrics == ("dice", "boundary_iou", "nsd")
    more = config.scoring(["hd95", "iou", "latency_ms"])
    assert more.metrics == ("dice", "boundary_iou", "hd95", "nsd")
    assert more.scoring(["hd95"]) == more


def test_the_lattice_has_the_period_of_the_task() -> None:
    assert SegmentationConfig().period == 2
    assert SuperResolutionConfig(scale=4).period == 4
    assert SegmentationConfig(lattice_period=8).period == 8


def test_signature_and_metrics_load_no_data() -> None:
    load_photos.cache_clear()
    make_filaments.cache_clear()
    for name in TASKS:
        config = ADAPTER.validate_python({"type": name})
        assert signature_of(config).in_channels == 3
        assert metrics_of(config)[0].direction == "maximize"
    assert load_photos.cache_info().currsize == 0
    assert make_filaments.cache_info().currsize == 0


def test_equal_settings_share_one_task() -> None:
    settings = {"type": "segmentation", "crop": 32, "data": {"type": "filaments", "num_train": 4}}
    one = build_task(ADAPTER.validate_python(settings))
    assert build_task(ADAPTER.validate_python(settings)) is one
    assert build_task(ADAPTER.validate_python({**settings, "max_eval_crops": 3})) is not one


def test_a_config_survives_json() -> None:
    settings = {
        "type": "super_resolution",
        "scale": 4,
        "data": {"type": "folder", "path": "somewhere"},
    }
    config = ADAPTER.validate_python(settings)
    assert ADAPTER.validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "segmentatoin"}, "expected tags"),
        ({"type": "segmentation", "data": {"type": "photos"}}, "expected tags"),
        ({"type": "segmentation", "classes": 3}, "filaments have 2 classes; got classes: 3"),
        ({"type": "segmentation", "corp": 64}, "corp"),
        (
            {"type": "segmentation", "metrics": ["hd59"]},
            "unknown metric 'hd59'. Did you mean 'hd95'\\? Allowed: dice, iou, boundary_f1, b",
        ),
        ({"type": "super_resolution", "metrics": ["hd95"]}, "unknown metric 'hd95'. Allowed: psnr"),
        (
            {"type": "segmentation", "crop": 32, "lattice_period": 8},
            "got lattice_period: 8, but a crop of 32 px must hold 6 periods. Allowed: at most 5",
        ),
        ({"type": "segmentation", "data": {"type": "folder"}}, "path"),
    ],
)
def test_mistakes_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(settings)


def test_a_relative_folder_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = SegmentationConfig.model_validate({"data": {"type": "folder", "path": "mine"}})
    moved = with_absolute_path(config)
    assert moved.data == FolderConfig(path=str(tmp_path / "mine"))
    assert moved.model_copy(update={"data": config.data}) == config
    embedded = SegmentationConfig()
    assert with_absolute_path(embedded) is embedded
