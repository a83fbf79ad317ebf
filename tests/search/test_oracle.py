"""Costs that are predicted where that decides, and measured where it does not.

The fake trials' latency is the sum of the stages, so that predictions are right, and a request that
came with a prediction gives a record with a predicted latency.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from search.helpers import FakeTrials, latency_of, make_space, run
from upnas.front import summarise
from upnas.records import Candidate, TrialRecord, TrialState
from upnas.search.oracle import predicts_costs
from upnas.space import load_space
from upnas.store import Study

SEARCH = "trials: {trials}, rungs: [1], seeds: {seeds}, sampler: random, predict_costs: {predict}"
UPSAMPLERS = "nearest, bilinear, transposed, subpixel, carafe"


def rough_quality(candidate: Candidate, seed: int) -> float:
    """Hardly anything to do with latency, so that most candidates are dominated."""
    return 0.5 + int(candidate.key[:4], 16) / 2**18 + seed / 1e6


def search(folder: Path, *, seeds: int = 1, trials: int = 30, constraints: str = "{}") -> Study:
    text = SEARCH.format(trials=trials, seeds=seeds, predict="always")
    space = make_space(folder, text, constraints=constraints, upsamplers=UPSAMPLERS)
    return run(space, folder / "run", FakeTrials(quality=rough_quality))


def is_predicted(record: TrialRecord) -> bool:
    return any(costs.predicted is not None for costs in record.costs)


def test_candidates_are_predicted_once_enough_were_measured(tmp_path: Path) -> None:
    study = search(tmp_path)
    predicted = [record for record in study.trials if is_predicted(record)]
    first = min(record.number for record in predicted)
    assert 8 <= first <= 12  # the baselines and the first proposals teach the model
    for record in predicted:
        (costs,) = record.costs
        assert costs.latency_ms == pytest.approx(latency_of(record.candidate), rel=0.01)


@pytest.mark.parametrize("seeds", [1, 2])
def test_every_member_of_the_final_front_is_measured(tmp_path: Path, seeds: int) -> None:
    study = search(tmp_path, seeds=seeds)
    assert any(map(is_predicted, study.trials))  # off the front
    summary = summarise(study.header, study.trials)
    assert len(summary.front) >= 2
    for entry in (*summary.front, *summary.baselines):
        assert not any(map(is_predicted, entry.trials)), entry.label


def test_what_is_too_slow_for_certain_needs_no_worker(tmp_path: Path) -> None:
    text = SEARCH.format(trials=25, seeds=1, predict="always")
    limit = "{latency_ms: {max: 9.5}}"
    space = make_space(tmp_path, text, constraints=limit, upsamplers=UPSAMPLERS)
    trials = FakeTrials()
    study = run(space, tmp_path / "run", trials)
    refused = [record for record in study.trials if record.state is TrialState.REFUSED]
    unasked = {record.number for record in refused} - {one.number for one in trials.requests}
    assert len(unasked) >= 3
    for record in refused:
        assert latency_of(record.candidate) > 9.5
    details = [record.detail or "" for record in refused if record.number in unasked]
    assert all("is not at most 9.5 on laptop" in detail for detail in details)
    complete = [record for record in study.trials if record.state is TrialState.COMPLETE]
    assert all(latency_of(record.candidate) <= 9.5 for record in complete)


def test_a_limit_inside_the_interval_is_measured(tmp_path: Path) -> None:
    # All sums are whole: a limit on one of them lies inside the interval of every such candidate.
    study = search(tmp_path, trials=40, constraints="{latency_ms: {max: 9}}")
    at_limit = [record for record in study.trials if latency_of(record.candidate) == 9]
    assert at_limit
    assert not any(map(is_predicted, at_limit))
    assert all(record.state is TrialState.COMPLETE for record in at_limit)


def test_a_resumed_search_goes_on_predicting(tmp_path: Path) -> None:
    text = SEARCH.format(trials=30, seeds=1, predict="always")
    space = make_space(tmp_path, text, upsamplers=UPSAMPLERS)
    with pytest.raises(KeyboardInterrupt):
        run(space, tmp_path / "run", FakeTrials(interrupt_after=33, quality=rough_quality))
    trials = FakeTrials(quality=rough_quality)
    run(space, tmp_path / "run", trials)
    assert trials.requests[1].predicted  # behind the trial that was cut


def test_other_targets_are_measured_for_the_front_alone(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    make_space(tmp_path)
    text = path.read_text().replace(
        "targets: [{name: laptop, input: [3, 64, 64]}]",
        "targets: [{name: laptop, input: [3, 64, 64]}, {name: phone, input: [3, 32, 32]}]",
    )
    path.write_text(text)
    study = run(load_space(path), tmp_path / "run", FakeTrials(quality=rough_quality))
    summary = summarise(study.header, study.trials)
    on_phone = {entry.key for entry in summary.entries if entry.newest.costs_on("phone")}
    wanted = {entry.key for entry in (*summary.front, *summary.baselines)}
    assert on_phone == wanted
    assert on_phone < {entry.key for entry in summary.entries}


def test_a_target_that_cannot_be_measured_is_not_asked_for_again(tmp_path: Path) -> None:
    class Stubborn(FakeTrials):
        def _records(self, request, spec):  # type: ignore[no-untyped-def]
            if request.finished is not None:
                yield request.finished
                return
            yield from super()._records(request, spec)

    space = make_space(
        tmp_path,
        SEARCH.format(trials=30, seeds=1, predict="always"),
        upsamplers=UPSAMPLERS,
    )
    trials = Stubborn()
    study = run(space, tmp_path / "run", trials)  # and it ends
    asked = [request.number for request in trials.requests if request.finished is not None]
    assert len(asked) == len(set(asked)) > 0
    assert all(record.is_final for record in study.trials)


@pytest.mark.parametrize(
    ("predict", "trials", "is_on"),
    [("never", 500, False), ("always", 4, True), ("auto", 15, False), ("auto", 16, True)],
)
def test_by_default_where_stages_are_fewer_than_trials(
    tmp_path: Path, predict: str, trials: int, is_on: bool
) -> None:
    text = SEARCH.format(trials=trials, seeds=1, predict=predict)
    space = make_space(tmp_path, text, upsamplers=UPSAMPLERS)  # three stages of five options
    assert predicts_costs(space) is is_on
