"""Runs the command line with real Ray in processes of its own, and cleans up after them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from upnas.records import TrialRecord
from upnas.store import StudyFolder

# Easy pictures: a second of training beats the trivial baseline, so that there is a front.
SPACE: Final = """\
name: tiny
task:
  type: segmentation
  data: {type: filaments, num_train: 32, num_validation: 4, num_test: 4, contrast: [0.5, 0.6],
         texture: 0.0, noise: 0.0, num_blobs: [8, 12]}
  crop: 32
model:
  encoder: {name: mobilenetv3_small_050, depth: 2}
  decoder: unet
  num_convs: 1
stages:
  default: {upsampler: [nearest, bilinear, transposed]}
targets: [{name: laptop, input: [3, 64, 64]}]
training: {batch: 8, steps_per_epoch: 20, learning_rate: 0.02}
search: {sampler: random, trials: 5, rungs: [1, 2, 3], seeds: 1}
"""


class Session:
    """Commands that share one temporary folder of Ray's, by which their processes are known.

    Args:
        folder: Of the YAML and the study.
        ray_folder: A short path: Ray puts sockets into it.
    """

    def __init__(self, folder: Path, ray_folder: Path):
        self.folder = folder
        self.study = StudyFolder(folder / "run")
        self.marker = f"RAY_TMPDIR={ray_folder}".encode()
        (ray_folder / "ray").mkdir()
        self.environment = os.environ | {
            "RAY_TMPDIR": str(ray_folder),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        (folder / "tiny.yaml").write_text(SPACE, encoding="utf-8")
        self._started: list[subprocess.Popen[str]] = []

    def search(self, *options: str) -> subprocess.Popen[str]:
        """Start a search in a process group of its own."""
        command = ["-m", "upnas", "search", "--space", "tiny.yaml", "--out", "run"]
        return self.start([*command, *options])

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def processes(self) -> list[int]:
        """Everything that was started for this session and still lives, Ray's own included."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                is_ours = self.marker in (entry / "environ").read_bytes().split(b"\0")
                is_zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:  # gone meanwhile, or another user's
                continue
            if is_ours and not is_zombie:
                found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Kill whatever is left and close its pipes."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for started in self._started:
            started.wait()
            for pipe in (started.stdin, started.stdout, started.stderr):
                if pipe is not None:
                    pipe.close()

    def wait_for_record(
        self, wanted: Callable[[TrialRecord], bool], driver: subprocess.Popen[str]
    ) -> TrialRecord:
        """Wait until a trial's newest record is as wanted, while the driver runs."""
        while driver.poll() is None:
            for record in self.study.read_trials():
                if wanted(record):
                    return record
            time.sleep(0.02)
        raise AssertionError(f"the driver ended first: {driver.communicate()}")


def wait_until(is_true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not is_true() and time.monotonic() < end:
        time.sleep(0.2)
    return is_true()
