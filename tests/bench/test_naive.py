"""The naive formulations are the catalogue's functions."""

from __future__ import annotations

import pytest
import torch

from upnas.bench.cases import Inputs, TrainingStep, build_entry, build_naive
from upnas.bench.naive import KERNELS, NAIVE
from upnas.bench.records import BenchSettings, Shape
from upnas.records import StageChoice
from upnas.upsamplers import Upsampler, upsampler_names


def steps(name: str, shape: Shape) -> list[TrainingStep]:
    """The catalogue's and the naive one, in float64 and with weights at a generic point."""
    entry, settings = StageChoice(upsampler=name), BenchSettings()
    inputs = Inputs(shape, settings)
    lean = build_entry(entry, shape, settings)
    with torch.no_grad():
        for parameter in lean.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    naive = build_naive(entry, lean, shape, settings)
    assert isinstance(naive, Upsampler)
    assert type(naive) is not type(lean)
    return [TrainingStep(upsampler, inputs).double() for upsampler in (lean, naive)]


@pytest.mark.parametrize("size", [None, (9, 11)], ids=["whole", "odd"])
@pytest.mark.parametrize("name", NAIVE)
def test_same_outputs_and_gradients(name: str, size: tuple[int, int] | None) -> None:
    shape = Shape(name="test", batch=2, channels=8, height=5, width=6, size=size)
    lean, naive = steps(name, shape)
    for own, other in zip(lean(), naive(), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("name", NAIVE)
def test_same_outputs_at_another_factor(name: str) -> None:
    shape = Shape(name="test", batch=1, channels=6, height=4, width=3, scale_factor=3)
    lean, naive = steps(name, shape)
    torch.testing.assert_close(lean()[0], naive()[0])


def test_names_are_those_of_the_catalogue_and_the_kernels() -> None:
    assert set(NAIVE) <= {*upsampler_names(), *KERNELS}
    assert not set(upsampler_names()) & set(KERNELS)


def test_others_have_none() -> None:
    entry, settings = StageChoice(upsampler="nearest"), BenchSettings()
    shape = Shape(name="test", batch=1, channels=2, height=2, width=2)
    upsampler = build_entry(entry, shape, settings)
    assert build_naive(entry, upsampler, shape, settings) is None
