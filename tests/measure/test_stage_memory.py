"""Peaks put together from stages against peaks of whole networks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from models.helpers import SEGMENTATION, choices, sr, sr_signature, unet
from torch import Tensor

from upnas.measure.gate import DeviceGate, StudyGates
from upnas.measure.memory.tensors import num_parameters, peak_memory_bytes
from upnas.measure.runtimes.base import DTYPES, target_model
from upnas.measure.stages.memory import Skeleton, static_bytes
from upnas.measure.stages.places import find_places
from upnas.measure.stages.table import TableSettings, measure_stage_table
from upnas.models import build_model, describe_stages
from upnas.prediction import predicted_peak_bytes
from upnas.records import Candidate, StageTable, Target, TaskSignature
from upnas.upsamplers import Bilinear, Nearest, collapse

#: Kernels, guides, reassembly, sampling, interpolation; those that need little and much memory.
NAMES = (
    "nearest", "bilinear", "transposed", "subpixel", "carafe", "dysample", "adaptive", "fade",
    "sapa", "jbu_image", "freqfusion", "indexnet", "unet_block", "hybrid",
)  # fmt: skip
QUICK = TableSettings(num_rounds=1, min_rounds=1, max_warmup=1)


def table_of(
    tmp_path: Path,
    reference: Candidate,
    task: TaskSignature,
    target: Target,
    names: tuple[str, ...],
) -> StageTable:
    return measure_stage_table(
        task,
        [choices(names)] * len(reference.stages),
        reference,
        target,
        StudyGates(["cpu"], DeviceGate("cpu", folder=tmp_path)),
        settings=QUICK,
    )


def differences(
    table: StageTable, task: TaskSignature, target: Target, names: tuple[str, ...], count: int
) -> list[tuple[str, int | None, int]]:
    """Random candidates whose predicted peak is not that of their network."""
    rng, found = random.Random(0), []
    is_last = target.memory_format == "channels_last"
    layout = torch.channels_last if is_last else torch.contiguous_format
    for _ in range(count):
        stages = choices([rng.choice(names) for _ in table.stages])
        candidate = table.reference.model_copy(update={"stages": stages})
        network = build_model(candidate, task).eval()
        shipped = target_model(collapse(network, torch.zeros(1, *target.input)), target)
        dtype = DTYPES[target.dtype]
        peak = peak_memory_bytes(shipped, target.input_shape, dtype=dtype, memory_format=layout)
        predicted = predicted_peak_bytes(table, candidate)
        if predicted != peak:
            found.append((str(candidate), predicted, peak))
    return found


@pytest.mark.parametrize(
    "target",
    [
        Target(name="even", input=(3, 64, 64)),
        Target(name="odd", input=(3, 37, 51), batch=2),
        Target(name="half", input=(3, 32, 32), dtype="bfloat16"),
        Target(name="channels_last", input=(3, 40, 40), memory_format="channels_last"),
    ],
    ids=lambda target: target.name,
)
def test_the_peak_of_a_unet_is_that_of_its_worst_stage_exactly(
    tmp_path: Path, target: Target
) -> None:
    # The reference needs more memory than many a candidate, and must leave no trace of it.
    table = table_of(tmp_path, unet("carafe", "carafe"), SEGMENTATION, target, NAMES)
    assert differences(table, SEGMENTATION, target, NAMES, count=20) == []


def test_the_peak_of_a_super_resolution_network_with_one_stage_is_exact(tmp_path: Path) -> None:
    names = ("nearest", "bilinear", "transposed", "subpixel", "carafe", "dysample", "hybrid")
    target, task = Target(name="sr", input=(3, 20, 24)), sr_signature(2)
    table = table_of(tmp_path, sr("bilinear"), task, target, names)
    assert differences(table, task, target, names, count=20) == []


def test_parameters_and_weights_add_up_exactly(tmp_path: Path) -> None:
    reference = unet("bilinear", "bilinear")
    target = Target(name="cpu", input=(3, 16, 16))
    table = table_of(tmp_path, reference, SEGMENTATION, target, ("transposed", "carafe"))
    mixed = reference.model_copy(update={"stages": choices(["carafe", "transposed"])})
    network = build_model(mixed, SEGMENTATION)
    deep, shallow = table.stages[0][1], table.stages[1][0]
    assert [deep.choice.name, shallow.choice.name] == ["carafe", "transposed"]
    assert num_parameters(network) == (
        table.num_parameters + deep.num_parameters + shallow.num_parameters
    )
    assert static_bytes(network) == (table.static_bytes + deep.static_bytes + shallow.static_bytes)


def test_static_bytes_count_a_shared_storage_once() -> None:
    module = torch.nn.BatchNorm2d(4)  # weight, bias, mean, variance: 4 x 4 x 4; a counter: 8
    assert static_bytes(module) == 72
    assert static_bytes(torch.nn.ModuleList([module, module])) == 72


class _Scratch(Nearest):
    """Needs a map of 1 MiB for a while."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        x.new_zeros(2**18).sum()
        return super().upsample(x, guide)


def test_a_skeleton_is_as_it_was_after_a_stage_was_looked_at() -> None:
    reference, target = unet("bilinear", "bilinear"), Target(name="cpu", input=(3, 16, 16))
    network = build_model(reference, SEGMENTATION).eval()
    places = find_places(network, describe_stages(reference.model, SEGMENTATION), target.input)
    skeleton = Skeleton(network, places, target)
    deep, shallow = (place.shape[0] for place in places)
    before = skeleton.activation_bytes(Bilinear(shallow), places[1])
    scratch = skeleton.activation_bytes(_Scratch(deep), places[0])
    assert scratch >= 2**20 > before
    assert skeleton.activation_bytes(Bilinear(shallow), places[1]) == before
    assert isinstance(network.get_submodule(places[0].name), Bilinear)
