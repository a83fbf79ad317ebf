"""The whole search with real Optuna and fake trials: order, budget, replicates, resume."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from search.helpers import FakeTrials, make_costs, make_space, run
from upnas.errors import StudyError
from upnas.records import StudyHeader, TrialRecord, TrialState
from upnas.search import SearchObserver
from upnas.store import Study, StudyFolder
from upnas.trial import TrialRequest

ALL = "trials: 5, rungs: [1, 2], seeds: 3, sampler: random, replicate: all"


class Watcher(SearchObserver):
    def __init__(self) -> None:
        self.notices: list[str] = []
        self.opened: list[int] = []
        self.started: list[int] = []
        self.updated: list[tuple[int, TrialState]] = []
        self.closed: list[bool] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def study_opened(self, header: StudyHeader, trials: object) -> None:
        self.opened.append(header.num_trials)

    def trial_started(self, request: TrialRequest) -> None:
        self.started.append(request.number)

    def trial_updated(self, record: TrialRecord) -> None:
        self.updated.append((record.number, record.state))

    def study_closed(self, *, is_finished: bool) -> None:
        self.closed.append(is_finished)


def trainings(study: Study) -> list[tuple[str, int]]:
    return [(trial.candidate.key, trial.seed) for trial in study.trials]


def test_baselines_come_first_and_the_budget_counts_them(tmp_path: Path) -> None:
    study = run(make_space(tmp_path), tmp_path / "run")
    assert [trial.baseline for trial in study.trials[:4]] == [
        "all-bilinear",
        "all-transposed",
        "resolution-rule",
        None,
    ]
    assert [trial.number for trial in study.trials] == list(range(8))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert max(Counter(trainings(study)).values()) == 1


def test_refused_candidates_are_free(tmp_path: Path) -> None:
    space = make_space(tmp_path, constraints="{latency_ms: {max: 9}}")
    study = run(space, tmp_path / "run")
    states = Counter(trial.state for trial in study.trials)
    assert states[TrialState.COMPLETE] == 8
    assert states[TrialState.REFUSED] > 0
    refused = [trial for trial in study.trials if trial.state is TrialState.REFUSED]
    assert all(not trial.rungs for trial in refused)


def test_endless_refusals_end_the_search(tmp_path: Path) -> None:
    space = make_space(
        tmp_path,
        search="trials: 1, rungs: [1], seeds: 1, sampler: random",
        constraints="{latency_ms: {max: 0.1}}",
        upsamplers="nearest, bilinear, transposed, subpixel, carafe, dysample, hybrid",
    )
    study = run(space, tmp_path / "run")
    assert {trial.state for trial in study.trials} == {TrialState.REFUSED}
    assert len(study.trials) == 10 * 1 + 50


def test_small_space_is_exhausted_and_then_finished(tmp_path: Path) -> None:
    space = make_space(
        tmp_path, search="trials: 100, rungs: [1], seeds: 1", upsamplers="nearest, bilinear"
    )
    study = run(space, tmp_path / "run")
    inside = [trial for trial in study.trials if space.contains(trial.candidate)]
    assert len({trial.candidate.key for trial in inside}) == space.num_candidates == 8
    assert len(study.trials) == 8 + 2  # and two baselines that are not in the space
    again = FakeTrials()
    assert run(space, tmp_path / "run", again) == study
    assert again.requests == []


def test_replicates_pair_the_seeds_and_know_the_costs(tmp_path: Path) -> None:
    space = make_space(tmp_path, search="trials: 6, rungs: [1], seeds: 3, sampler: random")
    trials = FakeTrials()
    study = run(space, tmp_path / "run", trials)
    replicates = [request for request in trials.requests if request.origin == "replicate"]
    assert replicates
    for request in replicates:
        first = next(t for t in study.trials if t.candidate == request.candidate)
        assert request.known_costs == first.costs
    assert all(request.known_costs == () for request in trials.requests[:6])
    seeds: dict[str, set[int]] = {}
    for key, seed in trainings(study):
        seeds.setdefault(key, set()).add(seed)
    assert {frozenset(used) for used in seeds.values()} <= {frozenset({0}), frozenset({0, 1, 2})}
    named = {trial.candidate.key for trial in study.trials if trial.baseline}
    assert all(seeds[key] == {0, 1, 2} for key in named)
    assert max(Counter(trainings(study)).values()) == 1


def test_replicate_all(tmp_path: Path) -> None:
    study = run(make_space(tmp_path, search=ALL), tmp_path / "run")
    keys = {trial.candidate.key for trial in study.trials}
    assert len(keys) == 5
    assert set(trainings(study)) == {(key, seed) for key in keys for seed in range(3)}


def test_failed_candidates_count_and_are_not_repeated(tmp_path: Path) -> None:
    space = make_space(tmp_path, search="trials: 5, rungs: [1], seeds: 2, sampler: random")
    failing = dict(space.baselines())["all-transposed"].key
    study = run(space, tmp_path / "run", FakeTrials(failing=[failing]))
    failed = [trial for trial in study.trials if trial.state is TrialState.FAILED]
    assert [trial.candidate.key for trial in failed] == [failing]
    assert len({trial.candidate.key for trial in study.trials}) == 5


@pytest.mark.parametrize("interrupt_after", [1, 2, 4, 11, 14])
def test_cut_search_resumes_without_loss(tmp_path: Path, interrupt_after: int) -> None:
    space = make_space(tmp_path, search="trials: 5, rungs: [1, 2], seeds: 1, sampler: random")
    folder = StudyFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(space, folder.path, FakeTrials(interrupt_after=interrupt_after))
    before = folder.read_trials()
    trials = FakeTrials()
    study = run(space, folder.path, trials)
    final = [record for record in before if record.is_final]
    assert [record for record in study.trials if record in final] == final
    assert not {record.number for record in final} & {r.number for r in trials.requests}
    for record in before:
        if not record.is_final:
            request = trials.requests[0]
            assert (request.number, request.candidate) == (record.number, record.candidate)
            assert request.known_costs == record.costs
    assert [trial.number for trial in study.trials] == list(range(5))
    assert max(Counter(trainings(study)).values()) == 1


def test_finished_study_returns_at_once(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    study = run(space, tmp_path / "run")
    again, watcher = FakeTrials(), Watcher()
    assert run(space, tmp_path / "run", again, [watcher]) == study
    assert again.requests == []
    assert watcher.opened == []
    assert "finished before" in watcher.notices[0]


def test_observers_see_every_record_and_the_end(tmp_path: Path) -> None:
    watcher = Watcher()
    study = run(make_space(tmp_path), tmp_path / "run", observers=[watcher])
    assert watcher.opened == [8]
    assert watcher.started == [trial.number for trial in study.trials]
    assert Counter(state for _, state in watcher.updated) == {
        TrialState.RUNNING: 16,
        TrialState.COMPLETE: 8,
    }
    assert watcher.closed == [True]


def test_larger_budget_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = run(make_space(tmp_path), folder)
    watcher = Watcher()
    grown = make_space(tmp_path, search="trials: 12, rungs: [1, 2], seeds: 1, sampler: random")
    second = run(grown, folder, observers=[watcher])
    assert second.trials[:8] == first.trials
    assert len(second.trials) == second.header.num_trials == 12
    assert watcher.notices[0] == "resuming with search.trials: 8 -> 12"
    assert max(Counter(trainings(second)).values()) == 1


def test_other_space_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(make_space(tmp_path), folder)
    other = make_space(tmp_path, search="trials: 8, rungs: [1, 3], seeds: 1, sampler: random")
    with pytest.raises(StudyError, match=r"search\.rungs: \[1, 2\] -> \[1, 3\]\n.*--fresh"):
        run(other, folder)


def test_second_driver_is_refused(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "run")
    with folder.lock(), pytest.raises(StudyError, match="another driver is running"):
        run(make_space(tmp_path), folder.path)


def test_same_seed_gives_the_same_candidates(tmp_path: Path) -> None:
    search = "trials: 10, rungs: [1], seeds: 1, sampler: tpe, seed: {}"
    first, second, other = (
        trainings(run(make_space(tmp_path, search=search.format(seed)), tmp_path / name))
        for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    )
    assert first == second
    assert [key for key, _ in first] != [key for key, _ in other]


def test_full_disk_stops_with_words_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = make_space(tmp_path)
    folder = StudyFolder(tmp_path / "run")
    num_appends = 0
    append = StudyFolder.append

    def filling(self: StudyFolder, record: TrialRecord) -> None:
        nonlocal num_appends
        num_appends += 1
        if num_appends > 14:
            raise StudyError("trials.jsonl: cannot be written: No space left on device.")
        append(self, record)

    monkeypatch.setattr(StudyFolder, "append", filling)
    with pytest.raises(StudyError, match="No space left"):
        run(space, folder.path)
    monkeypatch.undo()
    before = folder.read_trials()
    assert len(before) == 5
    study = run(space, folder.path)
    assert [trial for trial in study.trials if trial in before] == before[:4]
    assert len(study.trials) == 8


def test_costs_helper_is_exact() -> None:
    assert make_costs(3.0).latency_ms == pytest.approx(3.0)
