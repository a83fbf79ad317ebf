"""The trainings beside a measurement: real processes, watched from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from upnas.bench.instrument.neighbour import neighbours
from upnas.errors import DataError
from upnas.measure.gate import DeviceGate

SPACE = """\
name: tiny
task: {type: segmentation, data: {type: filaments}, crop: 32}
model: {decoder: unet, encoder: {name: mobilenetv3_small_050, depth: 2}}
stages: {default: {upsampler: [nearest, bilinear]}}
targets: [{name: small, input: [3, 32, 32]}]
"""
PARENT = """
import sys, time
from upnas.bench.instrument.neighbour import neighbours
with neighbours(sys.argv[1], 1, ignore_gate=False):
    print("inside", flush=True)
    time.sleep(600)
"""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def space(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return str(path)


def fields(pid: int) -> list[str] | None:
    """What Linux says about a process, from its state on; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def is_running(pid: int) -> bool:
    found = fields(pid)
    return found is not None and found[0] not in "ZX"


def cpu_s(pid: int) -> float:
    found = fields(pid)
    assert found is not None
    return (int(found[11]) + int(found[12])) * TICK_S


def children(of: int) -> list[int]:
    """In the order in which they were started."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    found = {pid: fields(pid) for pid in pids}
    own = {pid: stat for pid, stat in found.items() if stat is not None and int(stat[1]) == of}
    return sorted(own, key=lambda pid: int(own[pid][19]))


def eventually(claim: Callable[[], bool], seconds: float = 20.0) -> bool:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        if claim():
            return True
        time.sleep(0.02)
    return claim()


def computes(pid: int) -> bool:
    """Whether it uses the processor for a tenth of a second more."""
    before = cpu_s(pid)
    return eventually(lambda: cpu_s(pid) > before + 0.1)


def test_trainings_pause_while_somebody_measures_unless_they_ignore_it(space: str) -> None:
    already = set(children(os.getpid()))
    gate = DeviceGate("cpu")
    with (
        neighbours(space, 1, ignore_gate=False),
        neighbours(space, 1, ignore_gate=True),
    ):
        polite, rude = (pid for pid in children(os.getpid()) if pid not in already)
        assert computes(polite)
        assert computes(rude)
        with gate.exclusive():
            time.sleep(0.1)
            before = cpu_s(polite)
            assert computes(rude)
            time.sleep(0.3)
            assert cpu_s(polite) <= before + 2 * TICK_S
        assert computes(polite)
    assert fields(polite) is None  # ended, and nothing is left of it
    assert fields(rude) is None


def test_trainings_end_with_the_process_that_started_them(space: str) -> None:
    command = [sys.executable, "-c", PARENT, space]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline().strip() == "inside"
            (training,) = children(parent.pid)
            assert is_running(training)
        finally:
            os.kill(parent.pid, signal.SIGKILL)
    assert eventually(lambda: not is_running(training))
    with DeviceGate("cpu").exclusive():  # and it holds nothing back
        pass


def test_an_error_in_the_block_ends_them(space: str) -> None:
    already = set(children(os.getpid()))
    with pytest.raises(KeyError), neighbours(space, 1, ignore_gate=False):
        raise KeyError
    assert set(children(os.getpid())) <= already


def test_a_training_that_does_not_start_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere.yaml")
    with (
        pytest.raises(DataError, match=r"nowhere\.yaml beside the measurement did not start"),
        neighbours(nowhere, 1, ignore_gate=False),
    ):
        pass
    told = capfd.readouterr().err
    assert "nowhere.yaml" in told
    assert "Traceback" not in told
