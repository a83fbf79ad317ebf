"""Real Ray, real trainings, real signals: what a user's machine does to a search."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from search.helpers import optuna_study
from search.ray_helpers import Session, wait_until
from upnas.records import TrialRecord, TrialState
from upnas.store import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    ray_folder = Path(tempfile.mkdtemp(prefix="un-", dir="/tmp"))
    session = Session(tmp_path, ray_folder)
    yield session
    session.close()
    shutil.rmtree(ray_folder, ignore_errors=True)


def is_complete(record: TrialRecord) -> bool:
    return record.state is TrialState.COMPLETE


def check_finished(study: Study, folder: Path, num_trials: int = 5) -> None:
    """The budget is spent on different candidates, and Optuna knows them all."""
    assert [trial.number for trial in study.trials] == list(range(num_trials))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    trainings = Counter((trial.candidate.key, trial.seed) for trial in study.trials)
    assert max(trainings.values()) == 1
    told = optuna_study(folder, study.header).trials
    assert all(trial.state.is_finished() for trial in told)
    assert not (folder / "ray").exists()


def test_search_from_start_to_end(session: Session) -> None:
    out, err = (driver := session.search("--json")).communicate()
    assert driver.returncode == 0, err
    result = json.loads(out)
    assert out.count("\n") == 1
    assert result["num_trials"] == 5
    assert result["front"]
    folder = session.study.path
    check_finished(session.study.read_study(), folder)
    # Progress and nothing else: no chatter of Ray's, no warnings.
    lines = err.splitlines()
    assert lines[0].endswith("GPUs")
    assert lines[1] == "tiny: 5 candidates of 9"
    assert all(line.startswith("[") for line in lines[2:]), err
    assert len(lines) == 2 + 5
    assert wait_until(lambda: not session.processes(), 10)

    for name in ("report.html", "report.md", "pareto.svg", "pareto.csv"):
        assert (folder / name).stat().st_size > 0
    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()
    assert tags["images"]
    assert tags["scalars"]
    assert tags["tensors"]

    ray_folder = Path(session.environment["RAY_TMPDIR"]) / "ray"
    shutil.rmtree(ray_folder)
    out, err = (driver := session.search()).communicate()
    assert driver.returncode == 0, err
    assert "Pareto" in out
    assert "finished before" in err
    assert not ray_folder.exists(), "Ray was started for nothing"


def test_killed_and_interrupted_search_loses_nothing(session: Session) -> None:
    options = ("--trials", "7")
    driver = session.search(*options)
    session.wait_for_record(is_complete, driver)
    driver.kill()
    driver.communicate()
    killed = session.study.read_trials()
    assert wait_until(lambda: not session.processes(), 20), "orphans of Ray's"

    num_complete = sum(map(is_complete, killed))
    driver = session.search(*options)
    session.wait_for_record(
        lambda _: sum(map(is_complete, session.study.read_trials())) > num_complete, driver
    )
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = driver.communicate()
    assert driver.returncode == 130, err
    assert "Pareto" in out
    assert "stopping" in err
    assert "Traceback" not in err
    interrupted = session.study.read_study()
    assert {trial.state for trial in interrupted.trials} <= {
        TrialState.COMPLETE,
        TrialState.RUNNING,
    }
    assert sum(map(is_complete, interrupted.trials)) < 7
    told = optuna_study(session.study.path, interrupted.header).trials
    assert all(trial.state.is_finished() for trial in told)

    resumed_s = time.time()
    driver = session.search(*options)
    victim = session.wait_for_record(
        lambda record: record.state is TrialState.RUNNING and record.finished_s > resumed_s, driver
    )
    os.kill(int(victim.worker.rpartition(":")[2]), signal.SIGKILL)
    _, err = driver.communicate()
    assert driver.returncode == 0, err
    study = session.study.read_study()
    check_finished(study, session.study.path, num_trials=7)
    assert study.trials[victim.number].worker != victim.worker
    for record in [*killed, *interrupted.trials]:
        now = study.trials[record.number]
        assert (now.candidate, now.seed) == (record.candidate, record.seed)
        if is_complete(record):
            assert now == record


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
"""


def test_cluster_of_two_nodes(session: Session) -> None:
    cluster = session.start(["-c", CLUSTER])
    assert cluster.stdout is not None
    address = cluster.stdout.readline().strip()
    out, err = (driver := session.search("--address", address)).communicate()
    assert driver.returncode == 0, err
    assert "Pareto" in out
    assert "2 CPUs and 0 GPUs on 3 nodes" in err
    study = session.study.read_study()
    check_finished(study, session.study.path)
    assert cluster.poll() is None
    assert session.processes(), "the search must leave the cluster alone"
