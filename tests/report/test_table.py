"""Tables, and what hostile text becomes in each of their forms."""

from __future__ import annotations

import csv
import io

import pytest
from markdown_it import MarkdownIt

from report.fake_study import HOSTILE, fake_trials, make_candidate, make_header, make_trial
from upnas.front import Estimate, summarise
from upnas.records import PredictedLatency, Target
from upnas.report.table import (
    Table,
    baseline_table,
    candidate_table,
    escape_markdown,
    front_table,
    pareto_csv,
    to_html,
    to_markdown,
    trouble_table,
)
from upnas.report.words import (
    axis_title,
    format_difference,
    format_estimate,
    format_number,
    metric_name,
    shared_decimals,
    with_unit,
)

SUMMARY = summarise(make_header(), fake_trials())
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def test_front_table_has_a_row_per_member() -> None:
    table = front_table(SUMMARY)
    assert table.columns == (
        "trial",
        "upsamplers, deepest first",
        "dice",
        "latency [ms]",
        "peak memory [MiB]",
        "test dice",
        "latency / reference",
        "seeds",
        "remarks",
    )
    assert [row[0] for row in table.rows] == [str(entry.number) for entry in SUMMARY.front]
    assert all(len(row) == len(table.columns) for row in table.rows)
    best = dict(zip(table.columns, table.rows[0], strict=True))
    assert best["upsamplers, deepest first"] == "transposed(2) | subpixel | dysample | carafe(32)"
    assert best["seeds"] == "3"
    assert PLUS_MINUS in best["dice"]
    assert [row[-1] for row in baseline_table(SUMMARY).rows][1:] == [
        "all-transposed",
        "resolution-rule",
    ]


def test_metrics_that_were_asked_for_are_columns() -> None:
    header = make_header()
    space = header.space | {"task": {"type": "segmentation", "metrics": ["hd95", "lattice_energy"]}}
    trials = []
    for number, trial in enumerate(fake_trials()):
        more = (("hd95", 3.0 + number / 100), ("lattice_energy", 0.01))
        rungs = [rung.model_copy(update={"quality": rung.quality + more}) for rung in trial.rungs]
        trials.append(trial.model_copy(update={"rungs": tuple(rungs)}))
    summary = summarise(header.model_copy(update={"space": space}), trials)
    table = front_table(summary)
    assert table.columns[5:] == (
        "test dice",
        "hd95 [px]",
        "lattice energy",
        "latency / reference",
        "seeds",
        "remarks",
    )
    assert {"hd95 [px]", "lattice energy"} <= table.numeric
    row = dict(zip(table.columns, table.rows[0], strict=True))
    mean = summary.front[0].quality["hd95"].mean
    assert float(row["hd95 [px]"].split()[0]) == pytest.approx(mean, abs=0.01)
    (first, *_) = csv.DictReader(io.StringIO(pareto_csv(summary)))
    assert float(first["hd95"]) == mean
    assert float(first["lattice_energy"]) == pytest.approx(0.01)


def test_latency_is_beside_its_ratio_to_the_reference() -> None:
    table = front_table(SUMMARY)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    latency_ms = float(row["latency [ms]"].split()[0])
    ratio = float(row["latency / reference"])
    assert ratio == pytest.approx(latency_ms / 11.0, abs=2e-3)  # the reference takes 11 ms
    (first, *_) = csv.DictReader(io.StringIO(pareto_csv(SUMMARY)))
    assert float(first["latency_ms_ratio"]) == pytest.approx(float(first["latency_ms"]) / 11.0)


def test_a_target_that_was_not_searched_for_is_a_column_of_the_front() -> None:
    header = make_header(targets=(Target(name="laptop"), Target(name="phone")))
    trials = fake_trials()
    first = next(trial for trial in trials if trial.number == SUMMARY.front[0].newest.number)
    (laptop,) = first.costs
    phone = laptop.model_copy(update={"target": "phone"})
    trials[first.number] = first.model_copy(update={"costs": (laptop, phone)})
    summary = summarise(header, trials)
    table = front_table(summary)
    column = table.columns.index("latency@phone [ms]")
    cells = [row[column] for row in table.rows]
    assert cells[0].split()[0] == table.rows[0][table.columns.index("latency [ms]")].split()[0]
    assert set(cells[1:]) == {"not measured"}
    (best, *_) = csv.DictReader(io.StringIO(pareto_csv(summary)))
    assert best["latency_ms@phone"] == best["latency_ms"]


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        (
            {
                "latency": None,
                "predicted": PredictedLatency(
                    ratio=1.0, ratio_low=0.9, ratio_high=1.1, reference_ms=11.0, num_measured=9
                ),
            },
            "latency on laptop predicted",
        ),
        ({"latency": None, "unserved": "no kernel"}, "does not run on laptop: no kernel"),
    ],
)
def test_latencies_that_are_no_measurement_are_remarked(
    changes: dict[str, object], remark: str
) -> None:
    trials = fake_trials()
    (costs,) = trials[0].costs
    trials = [trials[0].model_copy(update={"costs": (costs.model_copy(update=changes),)})]
    summary = summarise(make_header(), trials)
    table = candidate_table(summary, summary.entries)
    assert remark in table.rows[0][-1]


def test_an_unsteady_latency_is_remarked() -> None:
    trial = fake_trials()[0]
    (costs,) = trial.costs
    assert costs.latency is not None
    latency = costs.latency.model_copy(update={"unsteady": "reference drifted 14 %"})
    costs = costs.model_copy(update={"latency": latency})
    summary = summarise(make_header(), [trial.model_copy(update={"costs": (costs,)})])
    (row,) = candidate_table(summary, summary.entries).rows
    assert "latency on laptop unsteady: reference drifted 14 %" in row[-1]


def test_trouble_table_gives_reasons() -> None:
    rows = trouble_table(SUMMARY.header, (*SUMMARY.failed, *SUMMARY.refused)).rows
    assert [row[1:3] for row in rows] == [("failed", "out of memory")] * 2 + [
        ("refused", "constraint")
    ] * 2
    assert rows[-1][-1] == "latency_ms 26.1 > 25"


@pytest.mark.parametrize(
    ("metric", "estimate", "expected"),
    [
        ("dice", Estimate(mean=0.81234, low=0.80, high=0.82468), f"0.812 {PLUS_MINUS} 0.012"),
        ("dice", Estimate(mean=0.5, low=0.5, high=0.5), f"0.5000 {PLUS_MINUS} 0.0000"),
        ("dice", Estimate(mean=0.81234), "0.8123"),
        ("latency_ms", Estimate(mean=12.345, low=12.0, high=13.0), "12.35 [12.00, 13.00]"),
        ("num_parameters", Estimate(mean=1234567.0), "1,234,567"),
        ("dice", None, "not measured"),
    ],
)
def test_format_estimate(metric: str, estimate: Estimate | None, expected: str) -> None:
    assert format_estimate(metric, estimate) == expected


def test_words() -> None:
    dice, latency, memory = make_header().objectives
    assert axis_title(dice) == "dice, higher is better"
    assert axis_title(memory) == "peak memory [MiB], lower is better"
    assert metric_name(latency.model_copy(update={"target": "phone"})) == "latency@phone"
    assert format_number(0.00012345) == "0.0001234"
    assert format_difference(Estimate(mean=-0.0123, low=-0.02, high=-0.0046)) == (
        f"-0.0123 {PLUS_MINUS} 0.0077"
    )
    assert format_difference(Estimate(mean=0.5)) == "+0.5000"
    assert format_difference(Estimate(mean=-0.00001)) == "+0.0000"
    assert with_unit("latency_ms", 25.0) == "25.00 ms"
    assert with_unit("peak_memory_mib", 1234.5) == "1,234 MiB"
    assert with_unit("dice", 0.5) == "0.5"


@pytest.mark.parametrize(
    ("estimates", "expected"),
    [
        pytest.param([Estimate(mean=15.0), Estimate(mean=15.04), None], 3, id="small range"),
        pytest.param([Estimate(mean=15.0), Estimate(mean=15.8)], 2, id="four digits"),
        pytest.param([Estimate(mean=0.81), Estimate(mean=0.91)], 4, id="fractions"),
        pytest.param([Estimate(mean=5.0), Estimate(mean=1e6)], 0, id="counts"),
        pytest.param([Estimate(mean=1.0, low=0.97, high=1.03)] * 2, 3, id="interval"),
        pytest.param(
            [
                Estimate(mean=0.8, low=0.79, high=0.81),
                Estimate(mean=0.8, low=0.799, high=0.801),
                Estimate(mean=0.8, low=0.7, high=0.9),
            ],
            3,
            id="median interval",
        ),
        pytest.param([None], 0, id="nothing"),
    ],
)
def test_shared_decimals(estimates: list[Estimate | None], expected: int) -> None:
    assert shared_decimals(estimates) == expected


def test_a_column_has_the_same_decimals_in_every_table() -> None:
    tables = (front_table(SUMMARY), baseline_table(SUMMARY))
    for head in ("dice", "latency [ms]", "peak memory [MiB]", "test dice"):
        cells = [row[table.columns.index(head)] for table in tables for row in table.rows]
        assert len({len(cell.split()[0].partition(".")[2]) for cell in cells}) == 1, head


def test_a_table_without_intervals() -> None:
    table = candidate_table(SUMMARY, SUMMARY.front, with_intervals=False)
    with_intervals = front_table(SUMMARY)
    for row, full in zip(table.rows, with_intervals.rows, strict=True):
        assert row[2:6] == tuple(cell.split(" ")[0] for cell in full[2:6])


def hostile_table() -> Table:
    cells = ("a|b", HOSTILE, "line\nbreak", "*x* [y](javascript:1) `z`")
    return Table(columns=("one", "two", "three", "four"), rows=(cells,))


def test_markdown_shows_hostile_text_as_it_is() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(to_markdown(hostile_table()))
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 8
    kinds = {child.type for cell in cells for child in cell.children or []}
    assert kinds <= {"text", "text_special"}
    texts = ["".join(child.content for child in cell.children or []) for cell in cells[4:]]
    assert texts == ["a|b", HOSTILE, "line break", "*x* [y](javascript:1) `z`"]
    assert escape_markdown("# a\n\n# b") == "\\# a \\# b"


def test_html_escapes_every_cell() -> None:
    text = to_html(hostile_table())
    assert "<script" not in text
    assert "&lt;/script&gt;" in text


def test_csv_is_read_back_and_guards_formulas() -> None:
    rows = list(csv.DictReader(io.StringIO(pareto_csv(SUMMARY))))
    assert [row["trial"] for row in rows[: len(SUMMARY.front)]] == [
        str(entry.number) for entry in SUMMARY.front
    ]
    assert len(rows) == len(SUMMARY.entries)
    value = SUMMARY.front[0].values[0]
    assert value is not None
    assert float(rows[0]["dice"]) == value.mean
    assert float(rows[0]["dice_low"]) == value.low
    assert rows[0]["stage 3 (1/2)"] == "carafe(32)"
    hostile = make_trial(0, make_candidate(*["nearest"] * 4), 0.5, baseline="=cmd|'/c calc'!A0")
    header = make_header(stages=("@a", "+b", "-c", "\td"))
    text = pareto_csv(summarise(header, [hostile]))
    for row in csv.reader(io.StringIO(text)):
        assert not any(cell.startswith(("=", "@", "+", "-", "\t")) for cell in row)
    assert "'=cmd|'/c calc'!A0" in text


def test_negative_numbers_in_csv_stay_numbers() -> None:
    trial = make_trial(0, make_candidate(*["nearest"] * 4), -0.5)
    (row,) = csv.DictReader(io.StringIO(pareto_csv(summarise(make_header(), [trial]))))
    assert float(row["dice"]) == -0.5
