"""The benchmark of the instrument as it runs, on networks of half a millisecond."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.instrument_helpers import TIMES
from upnas.bench.instrument import run as run_module
from upnas.bench.instrument.markdown import instrument_markdown
from upnas.bench.instrument.records import Agreement, InstrumentBenchmark
from upnas.bench.instrument.rivals import RIVALS, mean_of_ten
from upnas.bench.instrument.run import InstrumentSettings, run_instrument_benchmark
from upnas.errors import SpaceError
from upnas.measure.environment import available_cpus
from upnas.measure.runtimes import Session
from upnas.records import Candidate, Latency
from upnas.space import load_space

SPACE_FILE = "tiny.yaml"
SPACE = """\
name: tiny
task: {type: segmentation, data: {type: filaments}, crop: 32}
model: {decoder: unet, encoder: {name: mobilenetv3_small_050, depth: 2}}
stages: {default: {upsampler: [UPSAMPLERS]}}
targets: [{name: small, input: [3, 32, 32]}]
"""


def write_space(folder: Path, upsamplers: str = "nearest, bilinear, transposed") -> str:
    path = folder / SPACE_FILE
    path.write_text(SPACE.replace("UPSAMPLERS", upsamplers))
    return str(path)


def run(folder: Path, parts: Sequence[str] = (), num_candidates: int = 4) -> InstrumentBenchmark:
    settings = InstrumentSettings(
        space=write_space(folder),
        num_candidates=num_candidates,
        num_rivals=1,
        num_repeats=2,
        parts=parts,
    )
    return run_instrument_benchmark(settings, command="bench", progress=lambda _: None)


@pytest.fixture(autouse=True)
def _little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not enlarge the input until a network takes 20 ms."""
    monkeypatch.setattr(run_module, "_EFFORT_MS", 0.1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the candidates in the order in which they were measured."""
    keys: list[str] = []
    real = run_module._Bench.latency

    def latency(self: run_module._Bench, candidate: Candidate) -> Latency:
        keys.append(candidate.key)
        return real(self, candidate)

    monkeypatch.setattr(run_module._Bench, "latency", latency)
    return keys


def test_two_passes_in_two_orders(tmp_path: Path, measured: list[str]) -> None:
    found = run(tmp_path, num_candidates=5)
    keys = [candidate.key for candidate in found.candidates]
    assert len(set(keys)) == 5
    first, second = measured[:5], measured[5:10]
    assert first == keys != second
    assert sorted(second) == sorted(keys)
    # The readings are in the order of the candidates in either case.
    assert [one.key for one in found.first] == [one.key for one in found.second] == keys
    for reading in (*found.first, *found.second, *found.effort):
        assert reading.ratio_low <= reading.ratio <= reading.ratio_high
        assert reading.num_pairs >= 6
    for one in (*found.first, *found.second):
        assert one.latency_ms == pytest.approx(one.ratio * found.reference.latency_ms)
    latencies = ([one.latency_ms for one in readings] for readings in (found.second, found.first))
    assert found.repeatability == Agreement.of(*latencies)
    assert len(found.effort) == 5
    assert (found.beside, found.rivalry, found.prediction, found.memory) == (None, None, None, ())
    assert InstrumentBenchmark.model_validate_json(found.model_dump_json()) == found


def test_memory_and_prediction(tmp_path: Path) -> None:
    found = run(tmp_path, parts=("memory", "prediction"))
    assert [check.key for check in found.memory] == [one.key for one in found.candidates]
    for check in found.memory:
        assert check.fake_bytes == check.live_bytes
        assert check.fake_training_bytes == check.live_training_bytes > check.fake_bytes
    assert found.prediction is not None
    assert found.prediction.num_options == 2 * 3
    assert found.prediction.num_learned == found.prediction.held_out.num_candidates == 2
    assert found.prediction.additive.num_candidates == 4
    assert found.prediction.num_covered <= 2
    assert found.prediction.num_predicted == 10_000


def test_one_candidate_is_too_few_to_predict_another(tmp_path: Path) -> None:
    found = run(tmp_path, parts=("prediction",), num_candidates=1)
    assert found.prediction is None
    assert found.repeatability.kendall_tau is None


def test_load_and_other_timers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the trainings themselves, which have tests of their own."""
    started: list[tuple[int, bool]] = []

    def neighbours(
        space: str, number: int, *, ignore_gate: bool
    ) -> contextlib.AbstractContextManager[None]:
        started.append((number, ignore_gate))
        return contextlib.nullcontext()

    monkeypatch.setattr(run_module, "neighbours", neighbours)
    found = run(tmp_path, parts=("beside", "rivals"))
    assert started == [(available_cpus(), False), (available_cpus(), True)]
    assert found.beside is not None
    assert [one.key for one in found.beside.leased] == [one.key for one in found.candidates]
    assert len(found.beside.naive_ms) == 4
    truth = [
        (a.latency_ms + b.latency_ms) / 2 for a, b in zip(found.first, found.second, strict=True)
    ]
    assert found.beside.naive_agreement == Agreement.of(found.beside.naive_ms, truth)

    assert found.rivalry is not None
    assert {one.timer for one in found.rivalry.timed} == set(TIMES)
    assert {one.key for one in found.rivalry.timed} == {found.candidates[0].key}
    assert all(len(one.latencies_ms) == 2 for one in found.rivalry.timed)
    # Nobody but the mean of ten gets less time than upnas.
    assert found.rivalry.wall_s("mean loop") > 0.9 * found.rivalry.wall_s("upnas")


class Sleeper(Session):
    """Takes two milliseconds a forward, at least."""

    def __init__(self) -> None:
        self.num_forwards = 0

    def run(self) -> object:
        self.num_forwards += 1
        time.sleep(0.002)
        return None

    def output(self) -> Tensor:
        return torch.zeros(1)


@pytest.mark.parametrize("timer", RIVALS)
def test_rivals_give_milliseconds_per_forward(timer: str) -> None:
    session = Sleeper()
    assert 2.0 <= dict(RIVALS)[timer](session, 0.1) < 2000  # type: ignore[index]
    assert session.num_forwards >= 5  # torch's own decide how many; torch 2.7 takes six


def test_the_mean_of_ten_has_one_forward_before() -> None:
    session = Sleeper()
    mean_of_ten(session, budget_s=100.0)
    assert session.num_forwards == 11


def test_candidates_are_distinct_and_have_no_learned_selectors(tmp_path: Path) -> None:
    space = load_space(write_space(tmp_path, "nearest, bilinear, selector"))
    every = run_module._distinct(space, 40, random.Random(0))
    assert len({candidate.key for candidate in every}) == len(every) == 4
    some = run_module._distinct(space, 3, random.Random(0))
    assert some == every[:3]
    names = {stage.upsampler for candidate in every for stage in candidate.stages}
    assert names == {"nearest", "bilinear"}
    learned = load_space(write_space(tmp_path, "selector"))
    with pytest.raises(SpaceError, match="learned selectors only"):
        run_module._distinct(learned, 4, random.Random(0))


@pytest.mark.slow
def test_a_quick_run_of_everything(tmp_path: Path) -> None:
    write_space(tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "upnas",
            "bench",
            "measure",
            "--quick",
            "--json",
            "--space",
            SPACE_FILE,
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    found = InstrumentBenchmark.model_validate_json(done.stdout)
    assert None not in (found.beside, found.rivalry, found.prediction)
    assert len(found.memory) == len(found.candidates) == 4
    assert instrument_markdown(found).count("\n## ") == 5
    assert [path.name for path in tmp_path.iterdir()] == [SPACE_FILE]
