"""Floors and memory in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from upnas.bench.cases import Case, Inputs, TrainingStep, build_entry, collapsed_to
from upnas.bench.records import BenchSettings, Mode, Shape
from upnas.records import StageChoice

SHAPE = Shape(name="test", batch=2, channels=8, height=5, width=6)
X = 2 * 8 * 5 * 6 * 4  # bytes
Y = 4 * X


def case(
    name: str,
    mode: Mode = "forward",
    shape: Shape = SHAPE,
    memory_limit: float = 2**30,
    call_limit_s: float = 1e9,
    settings: BenchSettings = BenchSettings(),  # noqa: B008  # frozen
    **parameters: Any,
) -> Case:
    entry = StageChoice(upsampler=name, parameters=tuple(parameters.items()))
    upsampler = build_entry(entry, shape, settings)
    inputs = Inputs(shape, settings)
    return Case(upsampler, inputs, mode, memory_limit=memory_limit, call_limit_s=call_limit_s)


def test_floor_of_interpolation_is_input_and_output() -> None:
    assert case("bilinear").floor_bytes == X + Y
    assert case("bilinear", "training").floor_bytes == 2 * (X + Y)  # dy read, dx written


def test_floor_of_the_published_shape() -> None:
    # e * 5N = 74 MB for bilinear and e * (5N + s^2 k^2 HW) = 79 MB for the reassembly alone.
    shape = Shape(name="paper", batch=1, channels=256, height=120, width=120)
    n = 256 * 120 * 120
    assert case("bilinear", shape=shape).floor_bytes == 4 * 5 * n
    assert case("reassembly_kernel", shape=shape).floor_bytes == 4 * (5 * n + 4 * 25 * 120 * 120)


def test_floor_of_a_convolution_adds_its_weights() -> None:
    weights = (8 * 8 * 2 * 2 + 8) * 4
    assert case("transposed", kernel_size=2).floor_bytes == X + Y + weights
    assert case("transposed", "training", kernel_size=2).floor_bytes == 2 * (X + Y + weights)


def test_floor_of_a_guided_one_adds_the_guide() -> None:
    kernels = 2 * 25 * 10 * 12 * 4
    assert case("reassembly_kernel").floor_bytes == X + Y + kernels
    # The guide of max-unpooling is read, but there is no gradient to write.
    assert case("max_unpool", "training").floor_bytes == 2 * (X + Y) + Y


def test_floor_follows_dtype_and_cropping() -> None:
    half = BenchSettings(dtype="bfloat16")
    assert case("nearest", settings=half).floor_bytes == (X + Y) // 2
    odd = SHAPE.model_copy(update={"size": (9, 11)})
    assert case("nearest", shape=odd).floor_bytes == X + 2 * 8 * 9 * 11 * 4


def test_memory_of_interpolation() -> None:
    assert case("nearest").extra_bytes == Y
    assert case("nearest", "training").extra_bytes == Y + Y + X  # y, dy, dx


def test_memory_of_a_convolution_in_training() -> None:
    weights = (8 * 8 * 2 * 2 + 8) * 4
    assert case("transposed", kernel_size=2).extra_bytes == Y
    extra = case("transposed", "training", kernel_size=2).extra_bytes
    assert extra == 2 * Y + X + weights  # y, dy, dx and the weights' gradient


def test_memory_limit_refuses_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"needs .* GiB of memory; 0\.0 GiB may be used"):
        case("nearest", memory_limit=Y - 1)


def test_calls_that_take_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match="One call takes 0 s; with this budget 0 s may"):
        case("nearest", call_limit_s=0.0)


def test_layout_of_tensors_and_of_the_gradient() -> None:
    last = BenchSettings(layout="nhwc")
    step = case("transposed", "training", settings=last).step
    assert step.x.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(step, TrainingStep)
    assert step.output_gradient is not None
    assert step.output_gradient.is_contiguous(memory_format=torch.channels_last)


def test_what_picks_by_resolution_is_collapsed() -> None:
    for side, wanted in ((4, "Transposed"), (200, "Bilinear")):
        shape = Shape(name="test", batch=1, channels=2, height=side, width=4)
        entry = StageChoice(upsampler="adaptive")
        upsampler = build_entry(entry, shape, BenchSettings())
        assert collapsed_to(entry, upsampler) == wanted
    assert collapsed_to(StageChoice(upsampler="bilinear"), upsampler) is None


def test_seed_decides_inputs_and_weights() -> None:
    first, again, other = (
        case("transposed", settings=BenchSettings(seed=seed)).step for seed in (1, 1, 2)
    )
    assert first.x.equal(again.x)
    assert not first.x.equal(other.x)
    weights = [next(step.upsampler.parameters()) for step in (first, again, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
