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
    assert "1.50 \N{MULTIPLICATION SIGN} its latency: 15.00 ms against 10.00 ms" in text


def test_the_test_split_decides_where_there_is_one() -> None:
    text = verdict(summary(*bilinear(0.80, 0.80, test=0.79), *carafe(0.90, 0.91, test=0.79)))
    assert "indistinguishable from all-bilinear: +0.0000" in text
    assert "on the test split (2 paired seeds)" in text
    assert text.endswith("Take the cheaper: trial 0 (all-bilinear), 10.00 ms.")


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


def test_the_advice_is_the_cheapest_of_all_that_cannot_be_told_apart() -> None:
    cheap = seeds(10, TRANSPOSED, [0.84, 0.82, 0.80], latency_ms=8.0)
    text = verdict(summary(*bilinear(0.80, 0.82, 0.84), *carafe(0.81, 0.80, 0.88), *cheap))
    assert "indistinguishable from all-bilinear and from 1 other front member." in text
    assert text.endswith(
        "Take the cheapest: trial 10 (transposed(2) x4), 8.00 ms against 10.00 ms for all-bilinear."
    )


def test_a_winner_names_cheaper_equals() -> None:
    equal = seeds(10, TRANSPOSED, [0.851, 0.850, 0.8605], latency_ms=12.0)
    text = verdict(summary(*bilinear(0.80, 0.80, 0.81), *carafe(0.85, 0.852, 0.861), *equal))
    assert text.startswith("Trial 5 (carafe(32) x4) beats all-bilinear by ")
    assert "1 other front member cannot be told from it. Take the cheaper: trial 10 " in text


def test_a_study_without_costs_gives_no_advice_on_them() -> None:
    text = verdict(summary(*bilinear(0.80, 0.82), *carafe(0.81, 0.83), objectives=(DICE,)))
    assert "Take" not in text
    tied = verdict(summary(*bilinear(0.80, 0.82), *carafe(0.85, 0.82), objectives=(DICE,)))
    assert tied.endswith("(2 paired seeds).")


def test_ties_are_named_with_the_cheapest() -> None:
    notes = tie_notes(summary(*bilinear(0.80, 0.82, 0.84), *carafe(0.81, 0.80, 0.86)))
    assert notes == (
        "Indistinguishable from trial 5 in dice on the validation split: trial 0. "
        "The cheapest of all is trial 0 (all-bilinear), 10.00 ms.",
    )
    assert "fewer than 2 seeds" in tie_notes(summarise(make_header(), fake_trials()))[-1]


def test_ties_are_by_the_test_split_where_there_is_one() -> None:
    trials = [*bilinear(0.80, 0.80, test=0.70), *carafe(0.90, 0.91, test=0.70)]
    assert "on the test split: trial 0." in tie_notes(summary(*trials))[0]
    apart = [*bilinear(0.80, 0.82, test=0.70), *carafe(0.90, 0.80, test=0.75)]
    assert tie_notes(summary(*apart)) == ()
