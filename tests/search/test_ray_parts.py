"""The parts that Ray calls, called without Ray."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from search.helpers import FakeTrials, make_space, run
from upnas.errors import StudyError
from upnas.records import TrialRecord, TrialState
from upnas.search.queue import TrialQueue
from upnas.search.ray_tune import QueueSearcher, StopAtRung, TrialActor
from upnas.store import StudyFolder
from upnas.trial import TrialRequest, TrialSpec

Parts = tuple[QueueSearcher, TrialQueue, StudyFolder]


class SpecKeeper(FakeTrials):
    """Remembers the specification that trials are run with."""

    spec: TrialSpec

    def __call__(self, request, spec, gate):  # type: ignore[no-untyped-def]
        self.spec = spec
        return super().__call__(request, spec, gate)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """A searcher over a study that has two candidates left to propose."""
    space = make_space(tmp_path)
    folder = StudyFolder(tmp_path / "run")
    trials = SpecKeeper()
    run(space, folder.path, trials)
    header = folder.read_header().model_copy(update={"num_trials": 10})
    queue = TrialQueue(space, header, folder, folder.read_trials(), ())
    return QueueSearcher(queue, trials.spec), queue, folder


def suggested(searcher: QueueSearcher, trial_id: str) -> TrialRequest:
    config = searcher.suggest(trial_id)
    assert isinstance(config, dict)
    return TrialRequest.model_validate_json(config["request"])


def result(folder: StudyFolder, request: TrialRequest) -> dict[str, str]:
    """What a worker would report at the end of a trial."""
    finished = folder.read_trials()[0]
    record = finished.model_copy(
        update={"number": request.number, "candidate": request.candidate, "baseline": None}
    )
    return {"record": record.model_dump_json()}


def test_searcher_hands_out_waits_and_ends(parts: Parts) -> None:
    searcher, queue, folder = parts
    requests = {name: suggested(searcher, name) for name in ("a", "b")}
    assert searcher.suggest("c") is None  # two are running
    searcher.on_trial_complete("a", result(folder, requests["a"]))
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("c") == QueueSearcher.FINISHED
    assert queue.is_finished
    states = [(trial.state, trial.reason) for trial in folder.read_trials()[8:]]
    assert states == [(TrialState.COMPLETE, None), (TrialState.FAILED, "worker_died")]


def test_stopping_ends_each_trial_at_its_next_record(parts: Parts) -> None:
    searcher, queue, _ = parts
    suggested(searcher, "a")
    stopper = StopAtRung(searcher)
    assert not stopper("a", {})
    queue.is_stopping = True
    assert stopper("a", {})
    assert not stopper.stop_all()
    assert searcher.suggest("b") == QueueSearcher.FINISHED


def test_record_that_cannot_be_kept_ends_everything(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher, queue, folder = parts
    request = suggested(searcher, "a")

    def full(self: StudyFolder, record: TrialRecord) -> None:
        raise StudyError("No space left on device")

    monkeypatch.setattr(StudyFolder, "append", full)
    searcher.on_trial_result("a", result(folder, request))
    assert isinstance(searcher.error, StudyError)
    assert StopAtRung(searcher).stop_all()
    assert searcher.suggest("b") == QueueSearcher.FINISHED
    assert not queue.is_finished


def test_tune_can_pickle_what_it_gets(parts: Parts) -> None:
    searcher, _, _ = parts
    pickle.loads(pickle.dumps(searcher))
    assert not pickle.loads(pickle.dumps(StopAtRung(searcher))).stop_all()


def actor_after(record: TrialRecord) -> TrialActor:
    actor = TrialActor.__new__(TrialActor)  # a worker would call setup() with data to build
    actor._records = iter([record])
    return actor


def test_broken_cuda_context_ends_the_process(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, folder = parts
    complete = folder.read_trials()[0]
    failed = complete.model_copy(update={"state": TrialState.FAILED, "reason": "error"})

    def synchronize() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    assert actor_after(failed).step()["done"]  # an ordinary failure is a result
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert actor_after(complete).step()["done"]
    with pytest.raises(RuntimeError, match="device-side assert"):
        actor_after(failed).step()
