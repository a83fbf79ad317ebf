"""Statistics of samples, and JSON both ways."""

from __future__ import annotations

import pytest

from bench.helpers import benchmark, group, measurement, timed
from upnas.bench.records import Benchmark, Shape


def test_median_and_quartiles() -> None:
    assert timed(4, 1, 3, 2).median_ms == 2.5
    assert timed(4, 1, 3, 2, 5).quartiles_ms == (2, 4)
    assert timed(7).quartiles_ms == (7, 7)


def test_ratios_are_paired_by_round() -> None:
    # A slow spell in the second round hits both; the third round of the naive one is missing.
    found = measurement("x", timed(1, 10, 99), timed(4, 40, extra_bytes=2**22))
    assert found.time_ratio == 0.25
    assert found.memory_ratio == 0.25


def test_without_a_naive_formulation() -> None:
    found = measurement("x", timed(1))
    assert found.time_ratio is None
    assert found.memory_ratio is None


def test_percent_of_the_floor() -> None:
    # 1000 of the copy's 4000 bytes: at its speed 0.5, 0.5 and 1 ms.
    found = measurement("x", timed(1, 1, 2), floor_bytes=1000)
    assert group(found).floor_percent(found) == pytest.approx(50)
    assert group(found).bytes_per_ms == 2000


def test_output_of_a_shape() -> None:
    whole = Shape(name="x", batch=2, channels=3, height=4, width=5, scale_factor=4)
    assert (whole.output, whole.num_outputs) == ((16, 20), 2 * 3 * 16 * 20)
    odd = Shape(name="x", batch=1, channels=1, height=4, width=5, size=(7, 9))
    assert odd.output == (7, 9)
    assert str(odd) == "x: 1x1x4x5 -> 7x9"


def test_json_both_ways() -> None:
    result = benchmark()
    assert Benchmark.model_validate_json(result.model_dump_json()) == result
