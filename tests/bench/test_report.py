"""Tables, Markdown and the picture of a benchmark that was never timed."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from bench.helpers import benchmark, group, measurement, timed
from upnas.bench.files import write_benchmark
from upnas.bench.markdown import benchmark_markdown
from upnas.bench.plot import benchmark_svg
from upnas.bench.records import Benchmark
from upnas.bench.tables import brief, group_table, missing, number, tutorial_table


def test_group_table() -> None:
    table = group_table(benchmark().groups[0])
    assert table.title == "small: 1x4x6x8 -> 12x16, forward; copy 0.0 GB/s"
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == ["nearest", "carafe"]  # fastest first
    assert rows["carafe"] == {
        "upsampler": "carafe",
        "time [ms]": "5.00",
        "quartiles [ms]": "2.75-7.25",
        "n": "4",
        "floor [%]": "16.7",
        "memory [MiB]": "1.00",
        "naive [ms]": "30.0",
        "time [/ naive]": "0.100",
        "naive [MiB]": "4.00",
        "memory [/ naive]": "0.250",
    }
    assert rows["nearest"]["time [/ naive]"] == ""
    assert brief(table).rows[1] == ("carafe", "5.00", "16.7", "1.00", "0.100", "0.250")


def test_tutorial_table() -> None:
    table = tutorial_table(benchmark(), "forward")
    assert table is not None
    assert table.columns == ("upsampler", "C=4 [ms]", "C=4 [/ nearest]", "C=4 [MiB]")
    assert table.rows == (("nearest", "2.00", "1.00", "1.00"), ("bilinear", "3.00", "3.00", "1.00"))
    assert tutorial_table(benchmark(), "training") is None


def test_markdown() -> None:
    text = benchmark_markdown(benchmark(), "picture.svg")
    assert "| carafe | 5.00 | 2.75-7.25 | 4 | 16.7 | 1.00 | 30.0 | 0.100 | 4.00 | 0.250 |" in text
    assert "## The tutorial's comparison, on this device" in text
    assert "- odd_one at small (forward): ValueError: not \\| here" in text
    assert "![Times per shape](picture.svg)" in text
    assert "    upnas bench upsamplers carafe\n" in text
    assert "Stopped before the end" not in text
    stopped = benchmark().model_copy(update={"is_complete": False})
    assert "Stopped before the end" in benchmark_markdown(stopped)


def test_reasons_are_said_once() -> None:
    first = benchmark().groups[0]
    second = first.model_copy(update={"mode": "training"})
    assert missing([first, second]) == {
        ("odd_one", "ValueError: not | here"): ["small (forward)", "small (training)"]
    }


def test_svg_is_the_same_every_time() -> None:
    text = benchmark_svg(benchmark())
    assert text == benchmark_svg(benchmark())
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert "<!-- carafe -->" in text
    assert "naive formulation" in text


@pytest.mark.parametrize("groups", [(), (group(),)], ids=["no groups", "an empty group"])
def test_nothing_measured(groups: tuple[()]) -> None:
    empty = Benchmark.model_validate(benchmark().model_copy(update={"groups": groups}))
    assert "Repeat it" in benchmark_markdown(empty)
    assert "<svg" in benchmark_svg(empty)


def test_files(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path)) / "deep" / "folder"
    paths = write_benchmark(benchmark(), folder)
    assert [path.name for path in paths] == [f"upsamplers-cpu.{s}" for s in ("json", "md", "svg")]
    assert Benchmark.model_validate_json(paths[0].read_text()) == benchmark()


def test_collapsed_entries_say_what_ran() -> None:
    adaptive = measurement("adaptive", timed(1)).model_copy(update={"collapsed_to": "Bilinear"})
    assert group_table(group(adaptive)).rows[0][0] == "adaptive: Bilinear"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (0.012345, "0.0123"), (1, "1.00"), (12.345, "12.3"), (1234.5, "1234")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
    assert math.isclose(float(text), value, rel_tol=5e-3)
