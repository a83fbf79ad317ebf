"""What a right YAML file means."""

from __future__ import annotations

from pathlib import Path

import pytest

from upnas.errors import SpaceError
from upnas.records import Constraint, EncoderSpec, ModelSpec, Objective, StageChoice, Target
from upnas.space import load_space, space_from_config
from upnas.space.entries import default_parameters
from upnas.space.schema import SearchConfig, TrainingConfig

from .conftest import MINIMAL, Load


def test_minimal_file_gets_every_default(load: Load) -> None:
    space = load(MINIMAL)
    assert space.name == "my"
    assert space.source == Path("my.yaml")
    assert space.objectives == (
        Objective(metric="dice", direction="maximize"),
        Objective(metric="latency_ms", direction="minimize"),
        Objective(metric="peak_memory_mib", direction="minimize"),
    )
    assert space.constraints == ()
    assert space.targets == (
        Target(
            name="laptop", device="cpu", threads=1, batch=1, input=(3, 256, 256), allocator="keep"
        ),
    )
    assert space.training == TrainingConfig()
    assert space.search == SearchConfig()
    assert space.model == ModelSpec(
        decoder="unet",
        encoder=EncoderSpec(name="resnet18", depth=3),
        options={"num_convs": 2},
    )
    assert [info.label for info in space.stage_infos] == ["8->4", "4->2", "2->1"]
    assert space.num_candidates == 1


def test_written_goals(load: Load) -> None:
    space = load(
        MINIMAL
        + """\
name: phones
objectives: [{metric: boundary_f1}, {metric: latency_ms, target: phone, direction: minimize}]
constraints:
  exportable: onnx
  num_parameters: {min: 10}
  latency_ms: {max: 40, target: phone}
targets: [{name: laptop}, {name: phone, threads: 2, input: [3, 64, 48]}]
search: {rungs: [2], concurrency: 3, gpus_per_trial: 0.5}
training: {learning_rate: 1, steps_per_epoch: 7}
"""
    )
    assert space.name == "phones"
    assert space.objectives == (
        Objective(metric="boundary_f1", direction="maximize"),
        Objective(metric="latency_ms", direction="minimize", target="phone"),
    )
    assert space.constraints == (
        Constraint(metric="latency_ms", max=40, target="phone"),
        Constraint(metric="num_parameters", min=10),
        Constraint(metric="exportable", equals="onnx"),
    )
    assert space.targets == (
        Target(name="laptop", input=(3, 256, 256), allocator="keep"),
        Target(name="phone", threads=2, input=(3, 64, 48), allocator="keep"),
    )
    assert (space.search.rungs, space.search.concurrency) == ((2,), 3)
    assert space.search.gpus_per_trial == 0.5
    assert (space.training.learning_rate, space.training.steps_per_epoch) == (1.0, 7)


def test_default_fills_what_a_stage_does_not_say(load: Load) -> None:
    space = load(
        MINIMAL.replace(
            "{upsampler: bilinear}",
            "{upsampler: [bilinear, transposed], transposed: {kernel_size: [2, 4]}}",
        )
        + "  2: {upsampler: [transposed, nearest]}\n"
        + "  3: {transposed: {init: [tied, default], kernel_size: 2}}\n"
    )
    choices = [{c.name: dict(c.parameters) for c in stage.choices} for stage in space.stages]
    bilinear = default_parameters("bilinear")
    transposed = default_parameters("transposed")
    both = transposed | {"kernel_size": (2, 4)}
    assert choices == [
        {"bilinear": bilinear, "transposed": both},
        {"transposed": both, "nearest": default_parameters("nearest")},
        {
            "bilinear": bilinear,
            "transposed": transposed | {"kernel_size": (2,), "init": ("tied", "default")},
        },
    ]
    assert space.num_candidates == 3 * 3 * 3


def test_parameter_that_is_not_listed_takes_the_upsamplers_default(load: Load) -> None:
    space = load(MINIMAL.replace("bilinear", "carafe, carafe: {compressed_channels: 8}"))
    expected = StageChoice(
        upsampler="carafe",
        parameters={"compressed_channels": 8, "encoder_kernel": 3, "kernel_size": 5},
    )
    assert space.stages[0].options == (expected,)


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ("[bilinear, transposed]", [("bilinear", "transposed")]),
        ("[[bilinear, transposed]]", [("bilinear", "transposed")]),
        ("[[bilinear], [nearest, carafe]]", [("bilinear",), ("nearest", "carafe")]),
    ],
)
def test_list_values(load: Load, arms: str, expected: list[tuple[str, ...]]) -> None:
    space = load(MINIMAL.replace("bilinear}", f"selector, selector: {{arms: {arms}}}}}"))
    options = [dict(option.parameters)["arms"] for option in space.stages[0].options]
    assert options == expected


def test_decoder_options_are_part_of_the_model(load: Load) -> None:
    space = load(MINIMAL.replace("decoder: unet", "decoder: unet\n  channels: [32, 16, 8]"))
    assert dict(space.model.options) == {"channels": (32, 16, 8), "num_convs": 2}
    assert [info.out_channels for info in space.stage_infos] == [32, 16, 8]


def test_overrides_replace_values_of_the_file(load: Load, tmp_path: Path) -> None:
    load(MINIMAL)
    space = load_space(
        "my.yaml",
        {"search.trials": 7, "stages.2.upsampler": ["nearest", "carafe"], "name": "other"},
    )
    assert space.search.trials == 7
    assert [len(stage.options) for stage in space.stages] == [1, 2, 1]
    assert space.name == "other"


def test_override_of_a_list_entry(load: Load) -> None:
    load(MINIMAL + "targets: [{name: laptop, threads: 1}]\n")
    assert load_space("my.yaml", {"targets.0.threads": 2}).targets[0].threads == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"search.trials": "many"},
            "my.yaml: override search.trials: got 'many'. Allowed: a whole number, greater than 0.",
        ),
        (
            {"search.trails": 3},
            "my.yaml: override search.trails: unknown key 'trails'. Did you mean 'trials'?",
        ),
        ({"model.decoder.x": 3}, "my.yaml: override model.decoder.x: 'x' is not a part of"),
    ],
)
def test_wrong_override_is_named_as_one(
    load: Load, overrides: dict[str, object], message: str
) -> None:
    load(MINIMAL)
    with pytest.raises(SpaceError) as caught:
        load_space("my.yaml", overrides)
    assert str(caught.value).startswith(message)


def test_quality_constraints_and_what_is_scored_for_them(load: Load) -> None:
    space = load(
        MINIMAL.replace("segmentation}", "segmentation, metrics: [nsd, dice]}")
        + "objectives: [{metric: dice}, {metric: lattice_energy}, {metric: latency_ms}]\n"
        + "constraints: {hd95: {max: 12}, iou: {min: 0.4}, latency_ms: {max: 9}}\n"
    )
    assert [(o.metric, o.direction) for o in space.objectives] == [
        ("dice", "maximize"),
        ("lattice_energy", "minimize"),
        ("latency_ms", "minimize"),
    ]
    assert space.constraints == (
        Constraint(metric="latency_ms", max=9),
        Constraint(metric="hd95", max=12),
        Constraint(metric="iou", min=0.4),
    )
    assert [constraint.is_on_quality for constraint in space.constraints] == [False, True, True]
    # What was written, and what else must be scored, in the task's order; iou is always scored.
    assert space.task_config.metrics == ("dice", "hd95", "nsd", "lattice_energy")
    assert space_from_config(space.to_config()) == space


def test_nothing_optional_is_scored_unasked(load: Load) -> None:
    assert load(MINIMAL).task_config.metrics == ()
    named = load(MINIMAL + "objectives: [{metric: iou}, {metric: dc_gain_spread}]\n")
    assert named.task_config.metrics == ("dc_gain_spread",)
