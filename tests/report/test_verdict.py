"""The sentence that people will quote says what the seeds allow, and no more."""

from __future__ import annotations

import pytest

from report.fake_study import fake_trials, make_candidate, make_header, make_trial
from upnas.front import BELOW_TRIVIAL, StudySummary, summarise
from upnas.records import Candidate, Objective, TrialRecord
from upnas.report.verdict import reference_baseline, tie_notes, verdict

DICE = Objective(metric="dice", direction="maximize")
LATENCY = Objective(metric="latency_ms", direction="minimize")
BILINEAR = make_candidate(*["bilinear"] * 4)
TRANSPOSED = make_candidate(*["transposed"] * 4)
CARAFE = make_candidate(*["carafe"] * 4)


def summary(*trials: TrialRecord, **changes: object) -> StudySummary:
    fields = {"objectives": (DICE, LATENCY), "constraints": ()} | changes
    return summarise(make_header(**fields), trials)  # type: ignore[arg-type]


def seeds(
    first: int, candidate: Candidate, values: list[float], test: float | None = None, **more: object
) -> list[TrialRecord]:
    return [
        make_trial(
            first + seed,
            candidate,
            value,
            seed=seed,
            test_quality={} if test is None else {"dice": test + 0.001 * seed},
            **more,  # type: ignore[arg-type]
        )
        for seed, value in enumerate(values)
    ]


def bilinear(*values: float, test: float | None = None) -> list[TrialRecord]:
    return seeds(0, BILINEAR, list(values), test, baseline="all-bilinear", latency_ms=10.0)


def carafe(*values: float, test: float | None = None) -> list[TrialRecord]:
    return seeds(5, CARAFE, list(values), test, latency_ms=15.0)


def test_better_says_by_how_much_and_at_what_price() -> None:
    text = verdict(summary(*bilinear(0.80, 0.81, 0.82), *carafe(0.83, 0.84, 0.8501)))
    assert text.startswith("Trial 5 (carafe(32) x4) beats all-bilinear by +0.0300")
    assert "dice on the validation split, which chose it (3 paired seeds)" in text
    assert "1.50 \N{MULTIPLICATION SIGN} its latency: 15 ms against 10 ms" in text


def test_the_test_split_decides_where_there_is_one() -> None:
    text = verdict(summary(*bilinear(0.80, 0.80, test=0.79), *carafe(0.90, 0.91, test=0.79)))
    assert "indistinguishable from all-bilinear: +0.0000" in text
    assert "on the test split (2 paired seeds)" in text
    assert text.endswith("Take the cheapest: trial 0 (all-bilinear), 10 ms.")


def test_worse_on_the_test_split() -> None:
    text = verdict(summary(*bilinear(0.80, 0.80, test=0.80), *carafe(0.90, 0.91, test=0.70)))
    assert "is behind all-bilinear by -0.1000" in text
    assert text.endswith("keep all-bilinear.")


def test_one_seed_is_not_decidable() -> None:
    text = verdict(summary(*bilinear(0.80), *carafe(0.90)))
    assert "not decidable: +0.1000 dice" in text
    assert "(1 paired seed)" in text
    unpaired = make_trial(9, CARAFE, 0.9, seed=7)
    assert "not decidable: no common seed" in verdict(summary(*bilinear(0.80), unpaired))


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        pytest.param([], "No candidate is complete yet.", id="empty"),
        pytest.param(bilinear(0.8), "Nothing beats all-bilinear", id="only the baseline"),
        pytest.param(carafe(0.8), "no baseline is complete", id="no baseline"),
        pytest.param(
            [make_trial(0, CARAFE, 0.1, flags=(BELOW_TRIVIAL,))],
            "No front: of 1 complete candidate, 1 stayed below",
            id="nothing learned",
        ),
    ],
)
def test_special_cases(trials: list[TrialRecord], expected: str) -> None:
    assert expected in verdict(summary(*trials))


def test_costs_only() -> None:
    text = verdict(summary(*bilinear(0.8), objectives=(LATENCY,)))
    assert "no quality objective" in text
    assert tie_notes(summary(*bilinear(0.8), objectives=(LATENCY,))) == ()


def test_reference_baseline_prefers_all_bilinear() -> None:
    other = make_trial(0, TRANSPOSED, 0.8, baseline="all-transposed")
    plain = make_trial(1, BILINEAR, 0.8, baseline="all-bilinear")
    assert reference_baseline(summary()) is None
    for trials, expected in (([other, plain], 1), ([other], 0)):
        found = reference_baseline(summary(*trials))
        assert found is not None
        assert found.number == expected


def test_ties_are_named_with_the_cheapest() -> None:
    notes = tie_notes(summary(*bilinear(0.80, 0.82, 0.84), *carafe(0.81, 0.80, 0.86)))
    assert notes == (
        "Indistinguishable on validation dice: trials 5, 0. "
        "The cheapest is trial 0 (all-bilinear), 10 ms.",
    )
    assert "fewer than 2 seeds" in tie_notes(summarise(make_header(), fake_trials()))[-1]
