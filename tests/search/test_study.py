"""What the Optuna study is told, and how it is rebuilt from the records."""

from __future__ import annotations

import itertools
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from search.helpers import FakeTrials, latency_of, make_space, optuna_study, quality_of, run
from upnas.errors import SpaceError, StudyError
from upnas.front import summarise
from upnas.records import Candidate, TrialState
from upnas.search.queue import TrialQueue
from upnas.search.samplers import SAMPLERS, make_sampler
from upnas.search.study import SamplerStudy
from upnas.space import SearchSpace
from upnas.store import StudyFolder

SEARCH = "trials: {trials}, rungs: [1], seeds: 1, sampler: {sampler}"
LIMIT = "{latency_ms: {max: 9}}"


def states(folder: Path, name: str = "small") -> dict[int, OptunaState]:
    """Optuna's state of each trial of ours."""
    header = StudyFolder(folder).read_header()
    trials = optuna_study(folder, header).trials
    return {t.user_attrs["trial"]: t.state for t in trials if "trial" in t.user_attrs}


def test_every_outcome_is_told(tmp_path: Path) -> None:
    space = make_space(tmp_path, constraints="{latency_ms: {max: 7}}")
    failing = [one.key for one in itertools.islice(space.candidates(), 0, None, 2)]
    study = run(space, tmp_path / "run", FakeTrials(failing=failing))
    told = optuna_study(tmp_path / "run", study.header)
    assert [direction.name for direction in told.directions] == ["MAXIMIZE", "MINIMIZE"]
    by_number = {t.user_attrs["trial"]: t for t in told.trials if "trial" in t.user_attrs}
    inside = [trial for trial in study.trials if space.contains(trial.candidate)]
    assert sorted(by_number) == [trial.number for trial in inside]
    assert {trial.state for trial in inside} == {
        TrialState.COMPLETE,
        TrialState.FAILED,
        TrialState.REFUSED,
    }
    for record in inside:
        trial = by_number[record.number]
        assert trial.params == space.parameters(record.candidate)
        assert trial.constraints == pytest.approx(
            {"latency_ms@first": latency_of(record.candidate) - 7}
        )
        if record.state is TrialState.COMPLETE:
            assert trial.state is OptunaState.COMPLETE
            assert trial.values == pytest.approx(
                [
                    quality_of(record.candidate, 0),
                    latency_of(record.candidate),
                ]
            )
        elif record.state is TrialState.REFUSED:
            assert trial.state is OptunaState.PRUNED
        else:
            assert trial.state is OptunaState.FAIL
    assert all(trial.state.is_finished() for trial in told.trials)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_with_constraints(tmp_path: Path, sampler: str) -> None:
    search = SEARCH.format(trials=16, sampler=sampler)
    study = run(make_space(tmp_path, search, constraints=LIMIT), tmp_path / "run")
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert len({trial.candidate.key for trial in complete}) == 16
    assert all(latency_of(trial.candidate) <= 9 for trial in complete)
    assert OptunaState.RUNNING not in states(tmp_path / "run").values()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_constraint_on_quality_is_told_after_training(tmp_path: Path, sampler: str) -> None:
    """Beside one on costs, whose refused trials have no quality that could be told."""
    space = make_space(
        tmp_path,
        SEARCH.format(trials=16, sampler=sampler),
        constraints="{dice: {min: 0.555}, latency_ms: {max: 7}}",
    )
    study = run(space, tmp_path / "run")
    told = optuna_study(tmp_path / "run", study.header)
    by_number = {t.user_attrs["trial"]: t for t in told.trials if "trial" in t.user_attrs}
    inside = [record for record in study.trials if space.contains(record.candidate)]
    assert {record.state for record in inside} == {TrialState.COMPLETE, TrialState.REFUSED}
    for record in inside:
        expected = {"latency_ms@first": latency_of(record.candidate) - 7}
        if record.state is TrialState.COMPLETE:
            expected["dice@first"] = 0.555 - quality_of(record.candidate, 0)
        assert by_number[record.number].constraints == pytest.approx(expected)
    summary = summarise(study.header, study.trials)
    assert summary.front
    assert all(quality_of(entry.candidate, 0) >= 0.555 for entry in summary.front)
    assert any(not entry.is_feasible for entry in summary.entries)


def test_unknown_sampler() -> None:
    with pytest.raises(SpaceError, match=r"unknown sampler 'cma'\. Allowed: auto, tpe"):
        make_sampler("cma", 0, 10)


def test_lost_or_foreign_journal_is_rebuilt(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    study = run(space, tmp_path / "run")
    journal = tmp_path / "run" / "optuna.journal"
    expected = states(tmp_path / "run")
    for damage in (
        journal.unlink,
        lambda: journal.write_text('{"op_code": 0, "worker_id"'),
        lambda: journal.write_text("not json\n"),
    ):
        damage()
        assert run(space, tmp_path / "run") == study
        assert states(tmp_path / "run") == expected


def test_ghost_of_a_killed_driver_is_settled(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    study = run(space, tmp_path / "run")
    optuna_study(tmp_path / "run", study.header).ask()
    (tmp_path / "run" / "optuna.journal.lock").symlink_to("nowhere")
    run(space, tmp_path / "run")
    told = optuna_study(tmp_path / "run", study.header)
    assert all(trial.state.is_finished() for trial in told.trials)


def test_record_that_was_not_told_is_told_later(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    study = run(space, tmp_path / "run")
    journal = tmp_path / "run" / "optuna.journal"
    optuna.delete_study(
        study_name="small", storage=optuna_study(tmp_path / "run", study.header)._storage
    )
    SamplerStudy(space, study.header, journal, study.trials[:-1])
    run(space, tmp_path / "run")
    assert study.trials[-1].number in states(tmp_path / "run")


def test_resumed_nsga2_takes_parents_from_the_past(tmp_path: Path) -> None:
    space = make_space(tmp_path, SEARCH.format(trials=16, sampler="nsga2"))
    study = run(space, tmp_path / "run")
    rebuilt = SamplerStudy(space, study.header, tmp_path / "again.journal", study.trials)
    sampler = rebuilt._study.sampler
    assert isinstance(sampler, optuna.samplers.NSGAIISampler)
    trial, _ = rebuilt.ask()
    # Generation 1 means: a child of the known ones. Generation 0 would be a random candidate.
    frozen = rebuilt._study.trials[trial.number]
    assert sampler.get_trial_generation(rebuilt._study, frozen) == 1


class StuckSampler(optuna.samplers.RandomSampler):
    """Proposes the same candidate for ever."""

    def sample_independent(self, study, trial, param_name, param_distribution):  # type: ignore[no-untyped-def]
        return param_distribution.choices[0]


def test_repeated_proposals_end_in_an_unseen_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upnas.search.study.make_sampler", lambda *_: StuckSampler())
    study = run(make_space(tmp_path), tmp_path / "run")
    assert len({trial.candidate.key for trial in study.trials}) == 8
    told = optuna_study(tmp_path / "run", study.header).trials
    rejected = [trial for trial in told if "trial" not in trial.user_attrs]
    assert len(rejected) == 10 * 4  # the first proposal is new, the other four are repeats
    assert {trial.state for trial in rejected} == {OptunaState.FAIL}


def queue_of(space: SearchSpace, folder: StudyFolder) -> TrialQueue:
    return TrialQueue(space, folder.read_header(), folder, folder.read_trials(), ())


def test_dead_worker_is_a_failed_trial(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    folder = StudyFolder(tmp_path / "run")
    run(space, folder.path)
    grown = folder.read_header().model_copy(update={"num_trials": 9})
    folder.replace_header(grown)
    queue = queue_of(space, folder)
    request = queue.next()
    assert request is not None
    assert queue.next() is None  # the budget is handed out
    assert not queue.is_finished
    queue.lost(request.number, "killed")
    assert queue.is_finished
    record = folder.read_trials()[-1]
    assert (record.state, record.reason) == (TrialState.FAILED, "worker_died")
    assert record.candidate == request.candidate
    queue.lost(request.number, "killed")  # the same news again changes nothing
    queue.close()
    assert len(folder.read_trials()) == 9
    assert states(folder.path)[request.number] is OptunaState.FAIL


def test_closing_gives_back_what_was_asked_for(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    folder = StudyFolder(tmp_path / "run")
    run(space, folder.path)
    folder.replace_header(folder.read_header().model_copy(update={"num_trials": 10}))
    queue = queue_of(space, folder)
    seen: set[Candidate] = {trial.candidate for trial in folder.read_trials()}
    requests = [queue.next(), queue.next()]
    assert all(request is not None and request.candidate not in seen for request in requests)
    queue.close()
    told = optuna_study(folder.path, folder.read_header()).trials
    assert all(trial.state.is_finished() for trial in told)


def test_unwritable_journal_is_a_study_error(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    study = run(space, tmp_path / "run")
    missing = tmp_path / "gone" / "optuna.journal"
    with pytest.raises(StudyError, match=r"optuna\.journal: cannot be written.*nothing is lost"):
        SamplerStudy(space, study.header, missing, study.trials)
