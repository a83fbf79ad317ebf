"""What the benchmark of the instrument writes, from one that was never run."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.instrument_helpers import TIMES, benchmark, rivalry
from upnas.bench.instrument.files import write_instrument_benchmark
from upnas.bench.instrument.markdown import instrument_markdown
from upnas.bench.instrument.plot import instrument_svg
from upnas.bench.instrument.records import Agreement, InstrumentBenchmark, TimerName
from upnas.errors import StudyError
from upnas.prediction import Audit


def test_agreement_is_of_ratios_and_of_orders() -> None:
    # Differences 10 %, 5 %, 0 and 50 %; of the six pairs, the last two are the other way round.
    found = Agreement.of([1.1, 1.9, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0])
    assert found.num_candidates == 4
    assert found.median_difference == pytest.approx((0.1 + 0.05) / 2)
    assert found.max_difference == pytest.approx(0.5)
    assert found.kendall_tau == pytest.approx((5 - 1) / 6)


def test_agreement_with_itself_and_with_the_reverse() -> None:
    same = Agreement.of([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.median_difference, same.max_difference, same.kendall_tau) == (0, 0, 1)
    assert Agreement.of([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]).kendall_tau == -1


@pytest.mark.parametrize(
    ("found", "truth"), [([2.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])]
)
def test_there_is_no_tau_without_two_places(found: list[float], truth: list[float]) -> None:
    agreement = Agreement.of(found, truth)
    assert agreement.kendall_tau is None
    assert Agreement.model_validate_json(agreement.model_dump_json()) == agreement


def test_timers_are_compared_by_spread_and_shift() -> None:
    side_by_side = rivalry()
    for timer, (latencies, idle_ms, wall_s) in TIMES.items():
        low, high = latencies
        mean = (low + high) / 2
        deviation = (high - low) / math.sqrt(2)  # of two values, with n - 1
        assert side_by_side.spread(timer) == pytest.approx(deviation / mean)
        assert side_by_side.bias(timer) == pytest.approx(mean / idle_ms - 1)
        assert side_by_side.wall_s(timer) == wall_s


def test_timers_are_compared_by_their_median_candidate() -> None:
    timed = rivalry().timed
    odd = timed[0].model_copy(update={"key": "other", "latencies_ms": (10.0, 90.0), "wall_s": 9.0})
    more = rivalry().model_copy(update={"timed": (*timed, odd)})
    assert more.spread("upnas") == rivalry().spread("upnas")
    assert more.wall_s("upnas") == rivalry().wall_s("upnas")


def row(text: str, name: str) -> list[str]:
    """The cells of the line of a table that begins with a name."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_markdown_says_where_and_how() -> None:
    text = instrument_markdown(benchmark(), "picture.svg")
    assert text.startswith("# The instrument\n\n`upnas bench measure --candidates 3`\n")
    for fact in (
        *("A processor", "2 CPUs", "8 GiB", "no GPU", "Linux", "Python 3.11", "torch 2.9"),
        *("upnas commit unknown", "cpu, 1 thread, eager, float32, 1 x 3 x 256 x 256"),
        *("Space unet.yaml", "reference 12.35 ms (thread_cpu clock)", "load average 0.25"),
        *("2026-01-01T00:00:00+00:00", "](picture.svg)"),
    ):
        assert fact in text
    assert "![" not in instrument_markdown(benchmark())


def test_markdown_names_every_number() -> None:
    text = instrument_markdown(benchmark())
    # Differences 1 %, 3 % and 0 of two passes; all three orders agree.
    assert row(text, "second pass against the first") == ["1.00 %", "3.0 %", "1.000"]
    assert "3 random candidates of 10.0 to 30.0 ms" in text
    assert "took 0.75 s of the device in the median, 1.00 s at most, and 31 pairs" in text
    assert "5 of 6 were stable at once; else: rejected 1 block: reference drifted 14 %." in text
    assert "Candidates of 19.0 to 22.0 ms" in text
    assert "took 0.62 s of the device in the median, 0.75 s at most; asked: 2 s" in text

    assert "4 trainings of one thread each" in text
    assert row(text, "upnas, trainings wait at the gate") == ["1.49 %", "1.7 %", "1.000"]
    assert row(text, "mean of ten forwards, no gate") == ["49.25 %", "52.7 %", "0.333"]
    assert "free after 23 ms in the median. All 3 measurements were stable at once." in text

    assert "2 trainings that respect no gate" in text
    assert "2 candidates, 2 measurements of each" in text
    assert row(text, "upnas") == ["1.4 %", "+1.0 %", "0.71"]
    assert row(text, "blocked_autorange") == ["11.8 %", "+20.0 %", "0.72"]
    assert row(text, "adaptive_autorange") == ["20.2 %", "+40.0 %", "0.73"]
    assert row(text, "mean of 10") == ["25.0 %", "+70.0 %", "0.14"]
    assert row(text, "mean loop") == ["15.7 %", "+35.0 %", "0.75"]
    share = (0.2 / 10.1) / (2 / 12)
    assert f"The spread of upnas is {share:.2f} of the best other one's" in text

    assert "77 upsamplers at stages were timed in 41 s" in text
    assert "10,000 candidates were predicted from them in 0.37 s" in text
    assert row(text, "the plain sum of the stages") == ["10.00 %", "16.7 %", "1.000"]
    assert row(text, "learned from 1, the other 2 predicted") == ["2.50 %", "5.0 %", "1.000"]
    assert "1 of 2 held-out candidates lie inside their 95 % interval" in text
    audit = benchmark().prediction
    assert audit is not None
    assert f"from all the others: {audit.audit}." in text

    assert row(text, "one forward") == ["2", "100.00 %"]
    assert row(text, "a training step") == ["2", "1.00 %"]
    assert "Peaks of a forward: 1.0 to 3.0 MiB; of a training step: 0.0 to 4.0 MiB" in text


def test_what_was_not_measured_is_not_in_the_markdown() -> None:
    nothing = {"beside": None, "rivalry": None, "prediction": None, "memory": (), "effort": ()}
    bare = benchmark().model_copy(update=nothing)
    text = instrument_markdown(bare)
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["## The same candidates twice"]
    assert "input enlarged" not in text


def test_numbers_that_do_not_exist_are_dashes() -> None:
    alone = Agreement.of([1.1], [1.0])
    text = instrument_markdown(benchmark().model_copy(update={"repeatability": alone}))
    assert row(text, "second pass against the first") == ["10.00 %", "10.0 %", "-"]


def test_json_round_trip() -> None:
    record = benchmark()
    assert InstrumentBenchmark.model_validate_json(record.model_dump_json()) == record
    assert isinstance(record.prediction and record.prediction.audit, Audit)


@pytest.mark.parametrize("num_panels", [1, 2])
def test_picture(num_panels: int) -> None:
    record = benchmark()
    if num_panels == 1:
        record = record.model_copy(update={"beside": None})
    svg = instrument_svg(record)
    root = ElementTree.fromstring(svg)
    assert sum(element.get("id", "").startswith("axes_") for element in root.iter()) == num_panels
    assert svg == instrument_svg(record)  # no date, no random names


def test_files(tmp_path: Path) -> None:
    record = benchmark()
    data, text, picture = write_instrument_benchmark(record, tmp_path / "new" / "folder")
    assert [path.name for path in (data, text, picture)] == [
        *("measure-cpu.json", "measure-cpu.md", "measure-cpu.svg")
    ]
    assert InstrumentBenchmark.model_validate_json(data.read_text()) == record
    assert text.read_text() == instrument_markdown(record, "measure-cpu.svg")
    assert picture.read_text() == instrument_svg(record)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StudyError, match="file: cannot be written"):
        write_instrument_benchmark(benchmark(), tmp_path / "file")


def test_every_timer_has_a_line() -> None:
    text = instrument_markdown(benchmark())
    timers: tuple[TimerName, ...] = tuple(TIMES)
    assert all(row(text, timer) for timer in timers)
