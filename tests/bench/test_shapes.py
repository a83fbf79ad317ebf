from __future__ import annotations

import math

import pytest

from upnas.bench.shapes import plan_jobs
from upnas.errors import UpnasError
from upnas.upsamplers import CatalogueError, upsampler_names


def test_everything_by_default() -> None:
    jobs = plan_jobs()
    assert [job.shape.name for job in jobs if job.mode == "training"] == [
        *("paper", "deep", "shallow", "odd", "x4")
    ]
    assert [job.shape.name for job in jobs if job.mode == "forward"] == [
        *("paper", "deep", "shallow", "odd", "x4", "tutorial-16", "tutorial-64", "tutorial-160")
    ]
    assert {job.shape.name for job in jobs if job.with_naive} == {"paper", "odd"}
    for job in jobs[:10]:
        assert [str(entry) for entry in job.entries] == [*upsampler_names(), "reassembly_kernel"]
    for job in jobs[10:]:
        assert [str(entry) for entry in job.entries] == [
            *("nearest", "bilinear", "bicubic"),
            *("transposed(kernel_size=2)", "transposed(kernel_size=4)"),
        ]


def test_every_output_can_be_reached() -> None:
    for job in (*plan_jobs(), *plan_jobs(is_quick=True)):
        shape = job.shape
        assert [math.ceil(side / shape.scale_factor) for side in shape.output] == [
            shape.height,
            shape.width,
        ]


def test_names_once_and_the_tutorials_among_them() -> None:
    jobs = plan_jobs(["carafe", "nearest", "carafe"], ["odd", "tutorial-16"], ["training"])
    assert [[str(entry) for entry in job.entries] for job in jobs] == [
        ["carafe", "nearest"],
        ["nearest"],
    ]
    assert plan_jobs(["carafe"], ["tutorial-16"]) == ()


def test_shapes_of_ones_own() -> None:
    (first,), (second,) = (
        plan_jobs(["carafe"], [text], ["forward"]) for text in ("1x2x3x4", "2x4x6x8@3")
    )
    assert (first.shape.output, second.shape.output) == ((6, 8), (18, 24))
    assert first.shape.name == "1x2x3x4"
    assert first.with_naive


@pytest.mark.parametrize("text", ["papr", "1x2x3", "0x2x3x4", "1x2x3x4@0", ""])
def test_unknown_shapes(text: str) -> None:
    with pytest.raises(UpnasError, match="Available: paper, deep") as caught:
        plan_jobs(shapes=[text])
    assert ("Did you mean 'paper'?" in str(caught.value)) == (text == "papr")


def test_unknown_names() -> None:
    with pytest.raises(CatalogueError, match="Did you mean 'carafe'"):
        plan_jobs(["caraffe"])
