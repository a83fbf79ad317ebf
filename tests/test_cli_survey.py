"""What ``upnas measure`` prints of surveys whose numbers are known."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from report.fake_survey import (
    REFERENCE_MS,
    make_candidate,
    make_entry,
    make_latency,
    make_survey,
)

from upnas.cli.survey import (
    predictions_csv,
    sample_lines,
    show_survey,
    stage_table,
    survey_json,
    survey_table,
)
from upnas.records import DeviceMemory, StageChoice, StageCost, StageTable, Survey

STEADY = make_entry("steady", latency=make_latency(*[0.5] * 9))


def stage_cost(upsampler: str, ratio: float | None, **changes: Any) -> StageCost:
    fields: dict[str, Any] = {
        "choice": StageChoice(upsampler=upsampler),
        "ratios": () if ratio is None else (ratio,),
        "reason": "picks another arm elsewhere" if ratio is None else None,
        "num_parameters": 10,
        "static_bytes": 40,
        "activation_bytes": 2**20,
    }
    return StageCost(**fields | changes)


#: The reference is all-bilinear; fade has no time of its own at the second stage.
STAGES = StageTable(
    target="laptop",
    reference=make_candidate("bilinear", "bilinear"),
    stages=(
        (stage_cost("bilinear", 0.1), stage_cost("carafe", 0.3)),
        (stage_cost("bilinear", 0.2), stage_cost("fade", None)),
    ),
    num_parameters=1000,
    static_bytes=4000,
)


def bars(line: str) -> list[int]:
    """Heights of the forty columns at the end of a line: 0 to 8."""
    return [" \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588".index(bar) for bar in line[-40:]]


def shown(survey: Survey, capsys: pytest.CaptureFixture[str]) -> list[str]:
    show_survey(survey)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_histogram_counts_samples_over_a_common_axis() -> None:
    # The axis runs from 10 ms to 50 ms: a column per millisecond.
    slow = make_latency(*[value / REFERENCE_MS for value in (10.5, 10.5, 30.5, 50.0, 50.0)])
    fast = make_latency(*[value / REFERENCE_MS for value in (10.0, 10.0, 10.9, 11.5)])
    first, second, axis = sample_lines(
        [make_entry("slow one", latency=slow), make_entry("fast", latency=fast)]
    )
    assert first.startswith("slow one  ")
    assert second.startswith("fast      ")
    heights = dict.fromkeys(range(40), 0)
    assert bars(first) == list((heights | {0: 8, 20: 4, 39: 8}).values())
    assert bars(second) == list((heights | {0: 8, 1: 3}).values())  # 1 of 3, rounded up
    assert axis[-40:].split() == ["10.00", "ms", "50.00", "ms"]
    assert axis.startswith(" " * len("slow one  ") + "10.00 ms")


def test_an_outlier_falls_into_the_last_column() -> None:
    calm = [1 + number / 100 for number in range(40)]
    (line, axis) = sample_lines([make_entry("one", latency=make_latency(*calm, 1000.0))])
    assert bars(line)[-1] > 0
    assert sum(height > 0 for height in bars(line)) > 30  # it leaves the others their room
    assert float(axis.split()[-2]) < 2 * REFERENCE_MS
    (line, _) = sample_lines([make_entry("one", latency=make_latency(*[1.0] * 30, 9.0))])
    assert [number for number, height in enumerate(bars(line)) if height] == [0, 39]


def test_networks_that_were_not_timed_have_no_histogram() -> None:
    none = make_entry("none", latency=None, unserved="no")
    assert sample_lines([none]) == []
    assert [line.split()[0] for line in sample_lines([none, STEADY])[:-1]] == ["steady"]


def test_long_labels_leave_room() -> None:
    (line, _) = sample_lines([make_entry("x" * 300, latency=make_latency(1.0, 1.1))])
    assert len(line) == 48 + 2 + 40
    assert line.startswith("x" * 45 + "...  ")


def test_columns_that_nothing_was_measured_for_are_left_out() -> None:
    table = survey_table(make_survey(STEADY))
    assert table.columns == (
        *("network", "latency [ms]", "\N{MULTIPLICATION SIGN} reference", "peak memory [MiB]"),
        *("parameters", "pairs", "device [s]"),
    )
    row = ("steady", "10.00 [10.00, 10.00]", "0.500", "1.50", "12,345", "9", "1.2")
    assert table.rows == (row,)


def test_every_column_that_one_network_has_is_there_for_all() -> None:
    rich = make_entry(
        "rich",
        latency=make_latency(0.0123),
        training_peak_memory_mib=12.345,
        process_peak_rss_mib=321.9,
        device_memory=DeviceMemory(allocated_mib=7.77, reserved_mib=20.0),
        output_error=1.23e-6,
        exportable={"onnx": "ok", "compile": "graph break"},
    )
    table = survey_table(make_survey(make_entry("none", latency=None, unserved="no"), rich))
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert {head: cell for head, cell in first.items() if cell} == {
        "network": "none",
        "peak memory [MiB]": "1.50",
        "parameters": "12,345",
    }
    assert second == {
        "network": "rich",
        "latency [ms]": "0.246 [0.246, 0.246]",  # hundredths would say little of 0.246
        "\N{MULTIPLICATION SIGN} reference": "0.012",
        "peak memory [MiB]": "1.50",
        "training peak [MiB]": "12.35",
        "process RSS [MiB]": "322",
        "GPU allocated [MiB]": "7.8",
        "parameters": "12,345",
        "output error": "1.2e-06",
        "exports": "compile: graph break, onnx: ok",
        "pairs": "1",
        "device [s]": "1.2",
    }
    assert table.numeric == set(table.columns) - {"network", "exports"}


def test_verdicts_say_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    shaky = make_latency(
        *(0.9, 1.0, 1.1),
        unsteady="interval +-10.0 %",
        rejected=("reference drifted 14 %",) * 2,
        conditions=None,
    )
    lines = shown(
        make_survey(
            STEADY,
            make_entry("shaky", latency=shaky),
            make_entry("none", latency=None, unserved="ValueError: no such operator"),
        ),
        capsys,
    )
    assert lines[-3:] == [
        "steady: stable, \N{PLUS-MINUS SIGN}0.0 %, other programs used 0.50 CPUs",
        "shaky: unsteady: interval +-10.0 %, rejected 2 blocks: reference drifted 14 %, "
        "\N{PLUS-MINUS SIGN}10.0 %",
        "none: does not run: ValueError: no such operator",
    ]


def test_the_machine_and_what_it_did_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    machine, reference, *_ = shown(make_survey(STEADY), capsys)
    assert machine == (
        "A processor, 2 CPUs, torch 2.9, load average 0.25, 2000 MHz, governor performance, 51 C"
    )
    assert reference == "reference all-bilinear: 20 ms (thread_cpu clock, 3 samples)"


def test_the_stage_table_has_shares_and_reasons() -> None:
    table = stage_table(STAGES)
    assert table.columns == ("upsampler", "stage 1", "stage 2")
    assert table.rows == (
        ("bilinear", "10.0 %", "20.0 %"),
        ("carafe", "30.0 %", "-"),
        ("fade", "-", "picks another arm elsewhere"),
    )


def test_stages_and_the_audit_are_shown_where_they_were_timed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    carafe = make_entry("mine", "carafe", "bilinear", latency=make_latency(1.2, 1.21, 1.19))
    lines = shown(make_survey(carafe, stage_table=STAGES), capsys)
    assert "One upsampler alone, as a share of all-bilinear" in lines
    assert lines[-1].startswith("Prediction of whole networks: held-out error ")
    lines = shown(make_survey(STEADY, stage_table=STAGES), capsys)  # not of the space
    assert lines[-1] == "Prediction of whole networks: not audited: no candidate was measured"


def test_predictions_as_csv() -> None:
    candidates = [
        make_candidate("bilinear", "bilinear"),
        make_candidate("carafe", "bilinear"),
        make_candidate("carafe", "fade"),
    ]
    text = predictions_csv(make_survey(STEADY, stage_table=STAGES), STAGES, candidates)
    head, base, carafe, fade = csv.reader(text.splitlines())
    assert head == [
        *("stage1", "stage2", "latency_ms", "latency_ms_low", "latency_ms_high"),
        *("peak_memory_mib", "num_parameters"),
    ]
    assert base[:2] == ["bilinear", "bilinear"]
    assert float(base[2]) == pytest.approx(REFERENCE_MS)
    assert carafe[:2] == ["carafe", "bilinear"]
    # Nothing learned: the reference with 0.3 in the place of 0.1.
    median, low, high, peak = map(float, carafe[2:6])
    assert median == pytest.approx(REFERENCE_MS * (1 + 0.3 - 0.1))
    assert low < median < high
    assert peak == pytest.approx((4000 + 40 + 40) / 2**20 + 1, rel=1e-4)
    assert int(carafe[6]) == 1000 + 10 + 10
    assert fade == ["carafe", "fade", "", "", "", "", ""]  # must be measured


def test_measured_candidates_move_predictions() -> None:
    candidate = make_candidate("carafe", "bilinear")
    measured = make_entry("mine", "carafe", "bilinear", latency=make_latency(*[1.5] * 20))

    def predicted(survey: Survey) -> float:
        _, row = csv.reader(predictions_csv(survey, STAGES, [candidate]).splitlines())
        return float(row[2])

    assert predicted(make_survey(measured)) > predicted(make_survey(STEADY))


def test_json_holds_what_is_derived_and_the_whole_record() -> None:
    none = make_entry("none", latency=None, unserved="ValueError: no")
    survey = make_survey(STEADY, none, stage_table=STAGES)
    content = json.loads(json.dumps(survey_json(survey)))
    first, second = content["entries"]
    derived = ("latency_ms", "interval_ms", "ratio", "verdict")
    assert [first.pop(name) for name in derived] == [10.0, [10.0, 10.0], 0.5, "stable"]
    assert [second.pop(name) for name in derived] == [None, None, None, "ValueError: no"]
    assert Survey.model_validate(content) == survey
