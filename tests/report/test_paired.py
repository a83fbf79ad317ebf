"""The table of differences from plain bilinear."""

from __future__ import annotations

import itertools

import pytest

from report.fake_study import fake_trials, make_candidate, make_header, make_trial
from upnas.front import StudySummary, summarise
from upnas.records import Candidate, Objective, TrialRecord
from upnas.report.paired import paired_note, paired_table, paired_title

DICE = Objective(metric="dice", direction="maximize")
LATENCY = Objective(metric="latency_ms", direction="minimize")
MEMORY = Objective(metric="peak_memory_mib", direction="minimize")
BILINEAR = make_candidate(*["bilinear"] * 4)
CARAFE = make_candidate(*["carafe"] * 4)
DYSAMPLE = make_candidate(*["dysample"] * 4)
NEAREST = make_candidate(*["nearest"] * 4)
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def seeds(
    number: int,
    candidate: Candidate,
    validation: list[float],
    test: list[float],
    latency_ms: float,
    baseline: str | None = None,
) -> list[TrialRecord]:
    scores = itertools.zip_longest(validation, test)
    return [
        make_trial(
            number + seed,
            candidate,
            dice,
            seed=seed,
            latency_ms=latency_ms,
            baseline=baseline,
            test_quality={} if tested is None else {"dice": tested},
        )
        for seed, (dice, tested) in enumerate(scores)
    ]


def study(*groups: list[TrialRecord], **changes: object) -> StudySummary:
    fields = {"objectives": (DICE, LATENCY), "constraints": ()} | changes
    header = make_header(**fields)  # type: ignore[arg-type]
    return summarise(header, [trial for group in groups for trial in group])


def bilinear(test: list[float] | None = None) -> list[TrialRecord]:
    scores = [0.70, 0.71, 0.72] if test is None else test
    return seeds(0, BILINEAR, [0.80, 0.81, 0.82], scores, 10.0, "all-bilinear")


def test_rows_hold_paired_differences_best_on_test_first() -> None:
    summary = study(
        bilinear(),
        seeds(3, NEAREST, [0.90, 0.91, 0.92], [0.60, 0.61, 0.621], 8.0),
        seeds(6, CARAFE, [0.82, 0.81, 0.84], [0.74, 0.751, 0.76], 15.0),
        seeds(9, DYSAMPLE, [0.80, 0.82, 0.80], [0.71, 0.70, 0.725], 10.5),
        [make_trial(12, make_candidate("nearest", *["bilinear"] * 3), 0.9)],  # one seed
    )
    table = paired_table(summary)
    assert table.columns[2:] == (
        "paired seeds",
        "dice on validation",
        "dice on test",
        "latency [ms]",
        "latency [%]",
        "verdict",
    )
    assert [(row[0], row[-1]) for row in table.rows] == [
        ("6", "better"),
        ("9", "not distinguishable"),
        ("3", "worse"),
    ]
    # Differences 0.04, 0.041, 0.04: mean 0.0403; 4.303 * 0.000577 / sqrt(3) = 0.0014.
    best = table.rows[0]
    assert best[2] == "3"
    assert best[4] == f"+0.0403 {PLUS_MINUS} 0.0014"
    assert best[5:7] == ("+5.00", "+50.0")
    assert table.rows[-1][5:7] == ("-2.00", "-20.0")


def test_without_a_test_split_the_validation_split_decides() -> None:
    summary = study(bilinear([]), seeds(3, CARAFE, [0.83, 0.84, 0.851], [], 15.0))
    (row,) = paired_table(summary).rows
    assert row[4] == "not measured"
    assert row[-1] == "better"


def test_a_minimised_quality_is_better_when_smaller() -> None:
    error = DICE.model_copy(update={"direction": "minimize"})
    summary = study(
        bilinear(),
        seeds(3, CARAFE, [0.7, 0.7, 0.7], [0.60, 0.61, 0.621], 15.0),
        seeds(6, NEAREST, [0.7, 0.7, 0.7], [0.80, 0.81, 0.821], 15.0),
        objectives=(error, LATENCY),
    )
    assert [(row[0], row[-1]) for row in paired_table(summary).rows] == [
        ("3", "better"),
        ("6", "worse"),
    ]


@pytest.mark.parametrize(
    ("objectives", "heads"),
    [
        ((DICE, MEMORY, LATENCY), ("latency [ms]", "latency [%]")),
        ((DICE, MEMORY), ("peak memory [MiB]", "peak memory [%]")),
        ((DICE,), ()),
    ],
)
def test_the_cost_is_latency_where_it_is_an_objective(
    objectives: tuple[Objective, ...], heads: tuple[str, ...]
) -> None:
    table = paired_table(
        study(bilinear(), seeds(3, CARAFE, [0.9, 0.8], [0.7, 0.7], 15.0), objectives=objectives)
    )
    assert table.columns[5:-1] == heads
    assert len(table.rows[0]) == len(table.columns)


def test_nothing_to_pair_with() -> None:
    assert paired_table(study(bilinear())).rows == ()
    assert paired_table(study(seeds(3, CARAFE, [0.9, 0.8], [], 15.0))).rows == ()
    assert paired_table(study(bilinear(), objectives=(LATENCY,))).rows == ()
    assert paired_table(study()).rows == ()


def test_title_and_note() -> None:
    assert paired_title(summarise(make_header(), fake_trials())) == "Paired with all-bilinear"
    assert "not corrected for the number of comparisons, here 7" in paired_note(7)
