"""TensorBoard events, read back with TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from report.fake_study import fake_trials, make_header
from upnas.front import summarise
from upnas.records import TrialRecord, TrialState
from upnas.report.tensorboard import TRIALS_BETWEEN_PICTURES, TensorBoardWriter

HEADER = make_header()


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def read(folder: Path) -> EventAccumulator:
    keep_all = {"scalars": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(folder), size_guidance=keep_all).Reload()


def scalars(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_study_is_read_back(tmp_path: Path) -> None:
    trials = fake_trials()
    with TensorBoardWriter(tmp_path, HEADER) as writer:
        for trial in trials:
            writer.on_record(trial)
    events = read(tmp_path)
    summary = summarise(HEADER, trials)
    num_finished = sum(trial.is_final for trial in trials)
    sizes = scalars(events, "study/front_size")
    assert [step for step, _ in sizes] == list(range(1, num_finished + 1))
    assert sizes[-1] == (num_finished, len(summary.front))
    assert scalars(events, "study/hypervolume")[-1][1] == pytest.approx(summary.hypervolume)
    expected = [(rung.epochs, dict(rung.quality)["dice"]) for rung in trials[0].rungs]
    curve = np.array(scalars(events, "curves/dice/trial_0000"))
    assert curve == pytest.approx(np.array(expected))
    images = events.Tags()["images"]
    assert images == ["front/dice/latency_ms", "front/dice/peak_memory_mib"]
    (image,) = events.Images(images[0])
    assert (image.step, image.width, image.height) == (num_finished, 640, 480)
    (text,) = events.Tensors("front/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert "beats all-bilinear" in shown
    assert shown.count("\n| ") > len(summary.front)


def prefixes(trial: TrialRecord) -> list[TrialRecord]:
    running = [
        trial.model_copy(update={"rungs": trial.rungs[:count], "state": TrialState.RUNNING})
        for count in range(len(trial.rungs) + 1)
    ]
    return [*running, trial, trial]


def test_each_rung_and_each_trial_counts_once(tmp_path: Path) -> None:
    with TensorBoardWriter(tmp_path, HEADER) as writer:
        for record in prefixes(fake_trials()[0]):
            writer.on_record(record)
    events = read(tmp_path)
    assert [step for step, _ in scalars(events, "curves/dice/trial_0000")] == [1, 3, 9]
    assert [step for step, _ in scalars(events, "study/front_size")] == [1]


def test_resuming_continues_the_count(tmp_path: Path) -> None:
    trials = fake_trials()
    with TensorBoardWriter(tmp_path, HEADER, trials[:5]) as writer:
        writer.on_record(trials[5])
    events = read(tmp_path)
    assert [step for step, _ in scalars(events, "study/front_size")] == [6]
    assert "curves/dice/trial_0004" not in events.Tags()["scalars"]


def test_pictures_wait_for_trials_and_for_time(tmp_path: Path) -> None:
    clock = Clock()
    trials = [trial for trial in fake_trials() if trial.is_final]
    with TensorBoardWriter(tmp_path, HEADER, clock=clock) as writer:
        for trial in trials[: TRIALS_BETWEEN_PICTURES + 2]:
            writer.on_record(trial)  # enough trials, no time has passed
        clock.now = 61.0
        writer.on_record(trials[TRIALS_BETWEEN_PICTURES + 2])
        clock.now = 1000.0
        writer.on_record(trials[TRIALS_BETWEEN_PICTURES + 3])  # enough time, one trial
    steps = [image.step for image in read(tmp_path).Images("front/dice/latency_ms")]
    assert steps == [TRIALS_BETWEEN_PICTURES + 3, TRIALS_BETWEEN_PICTURES + 4]


def test_nothing_new_draws_nothing(tmp_path: Path) -> None:
    with TensorBoardWriter(tmp_path, HEADER, fake_trials()):
        pass
    assert read(tmp_path).Tags()["images"] == []
