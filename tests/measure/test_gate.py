"""The gate between real processes."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from upnas.measure.gate import DeviceGate

# Loads neither torch nor the package's other modules, so a process starts in a moment.
PRELUDE = """
import json, os, pathlib, sys, time
from upnas.measure.gate import DeviceGate
folder = pathlib.Path(sys.argv[1])
gate = DeviceGate("cpu", folder)
def now(): return time.monotonic_ns()  # the same clock in all processes
def say(text): print(text, flush=True)
"""

TRAINER = """
say("ready")
batches = []
while not (folder / "stop").exists():
    asked = now()
    with gate.shared():
        begin = now()
        time.sleep(0.004)
        batches.append((asked, begin, now()))
say(json.dumps(batches))
"""

MEASURER = """
blocks = []
for _ in range(12):
    asked = now()
    with gate.exclusive():
        begin = now()
        time.sleep(0.005)
        blocks.append((asked, begin, now()))
    time.sleep(0.01)
say(json.dumps(blocks))
"""


@contextmanager
def process(folder: Path, body: str) -> Iterator[subprocess.Popen[str]]:
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(body)
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def says_nothing(running: subprocess.Popen[str], seconds: float) -> bool:
    assert running.stdout is not None
    return not select.select([running.stdout], [], [], seconds)[0]


Spans = list[tuple[int, int, int]]  # asked, begin, end


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Spans], list[Spans]]:
    """Batches of three trainers and blocks of two measurers that ran at the same time."""
    folder = tmp_path_factory.mktemp("gate")
    with ExitStack() as stack:
        trainers = [stack.enter_context(process(folder, TRAINER)) for _ in range(3)]
        assert [line(trainer) for trainer in trainers] == ["ready"] * 3
        measurers = [stack.enter_context(process(folder, MEASURER)) for _ in range(2)]
        blocks = [json.loads(line(measurer)) for measurer in measurers]
        (folder / "stop").touch()
        batches = [json.loads(line(trainer)) for trainer in trainers]
    return batches, blocks


def overlaps(first: Spans, second: Spans) -> int:
    return sum(a[1] < b[2] and b[1] < a[2] for a in first for b in second)


def test_nothing_runs_while_one_measures(timeline: tuple[list[Spans], list[Spans]]) -> None:
    batches, blocks = timeline
    assert all(len(spans) == 12 for spans in blocks)
    assert overlaps(blocks[0], blocks[1]) == 0
    for spans in batches:
        assert overlaps(spans, blocks[0] + blocks[1]) == 0


def test_trainers_run_side_by_side(timeline: tuple[list[Spans], list[Spans]]) -> None:
    batches, _ = timeline
    assert overlaps(batches[0], batches[1] + batches[2]) > 0


def test_trainers_cannot_starve_a_measurer(timeline: tuple[list[Spans], list[Spans]]) -> None:
    # Three trainers leave the gate hardly ever free. Still, of the batches that a trainer asks for
    # after a measurer has asked, few begin before it: one may have passed the turn already.
    # The median, because a process may be put to sleep between noting the time and asking.
    batches, blocks = timeline
    num_overtaking = [
        sum(asked < batch[0] and batch[1] < begin for batch in spans)
        for asked, begin, _ in blocks[0] + blocks[1]
        for spans in batches
    ]
    assert statistics.median(num_overtaking) <= 2


@pytest.mark.parametrize("held", ["shared", "exclusive"])
def test_killed_holder_frees_the_gate(tmp_path: Path, held: str) -> None:
    wanted = "exclusive" if held == "shared" else "shared"
    holder_body = f"with gate.{held}():\n    say('in')\n    time.sleep(600)"
    waiter_body = f"say('asks')\nwith gate.{wanted}():\n    say('in')"
    with process(tmp_path, holder_body) as holder:
        assert line(holder) == "in"
        with process(tmp_path, waiter_body) as waiter:
            assert line(waiter) == "asks"
            assert says_nothing(waiter, 0.2)
            os.kill(holder.pid, signal.SIGKILL)
            assert line(waiter) == "in"


def test_killed_waiter_does_not_block_the_others(tmp_path: Path) -> None:
    gate = DeviceGate("cpu", tmp_path)
    with process(tmp_path, "say('asks')\nwith gate.exclusive():\n    say('in')") as waiter:
        with gate.shared():
            assert line(waiter) == "asks"
            assert says_nothing(waiter, 0.1)
            waiter.kill()
            waiter.wait()
        with gate.shared():
            pass


def test_a_forked_child_does_not_keep_the_gate(tmp_path: Path) -> None:
    # A data loader's worker that starts inside shared() inherits the open lock files.
    body = """
    with gate.shared():
        child = os.fork()
        if child == 0:
            time.sleep(600)
    with gate.exclusive():
        say("alone")
    os.kill(child, 9)
    """
    with process(tmp_path, textwrap.dedent(body)) as running:
        assert line(running) == "alone"


def test_the_gate_opens_after_an_error(tmp_path: Path) -> None:
    gate = DeviceGate("cpu", tmp_path)
    for enter in (gate.shared, gate.exclusive):
        with pytest.raises(KeyError), enter():
            raise KeyError
    with gate.exclusive():
        pass


@pytest.mark.parametrize("inner", ["shared", "exclusive"])
@pytest.mark.parametrize("outer", ["shared", "exclusive"])
def test_entering_twice_is_an_error_and_no_deadlock(tmp_path: Path, outer: str, inner: str) -> None:
    gate, same = DeviceGate("cpu", tmp_path), DeviceGate("cpu", tmp_path)
    with getattr(gate, outer)():
        with pytest.raises(RuntimeError, match="not re-entrant"), getattr(same, inner)():
            pass
        other = DeviceGate("cpu", tmp_path / "other")
        (tmp_path / "other").mkdir(exist_ok=True)
        with getattr(other, inner)():
            pass
    with gate.exclusive():
        pass


def test_the_gate_can_be_pickled(tmp_path: Path) -> None:
    gate = pickle.loads(pickle.dumps(DeviceGate("cpu", tmp_path)))
    with gate.exclusive():
        assert len(list(tmp_path.iterdir())) == 2


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    gate = DeviceGate("cpu", tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with gate.shared():
            pass
        with gate.exclusive():
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_module_loads_without_torch() -> None:
    code = (
        "import sys, upnas.measure.gate, upnas.measure.environment; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gate_is_named_by_uuid_and_waits_for_the_device(tmp_path: Path) -> None:
    gate = DeviceGate("cuda", tmp_path)
    x = torch.randn(4096, 4096, device="cuda")
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    with gate.shared():
        for _ in range(50):
            x = x @ x
        done.record()
    assert done.query()  # type: ignore[no-untyped-call]
    uuid = torch.cuda.get_device_properties(0).uuid
    assert {file.stem for file in tmp_path.iterdir()} == {f"upnas-{os.getuid()}-cuda-{uuid}"}
