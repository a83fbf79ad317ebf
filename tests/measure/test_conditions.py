"""The readings of a machine, from tables with known contents and from this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from upnas.measure.conditions import LoadWatch, disturbance
from upnas.records import Conditions

TICKS = os.sysconf("SC_CLK_TCK")


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def write_stat(root: Path, *, busy_s: float, idle_s: float, stolen_s: float) -> None:
    user, idle, steal = (round(seconds * TICKS) for seconds in (busy_s, idle_s, stolen_s))
    write(root, "proc/stat", f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3\n")


def test_shares_of_the_time_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    own = iter([1.0, 3.0])  # this process computed for two seconds
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    write_stat(tmp_path, busy_s=100, idle_s=1000, stolen_s=10)
    watch = LoadWatch(root=tmp_path)
    write_stat(tmp_path, busy_s=117, idle_s=1021, stolen_s=12)
    # 40 CPU seconds passed on four CPUs, ten seconds: others kept (17 - 2) / 10 CPUs busy.
    conditions = watch.read()
    assert conditions.foreign_cpus == 1.5
    assert conditions.steal == 0.05


def test_clock_governor_and_temperature(tmp_path: Path) -> None:
    for cpu, khz in enumerate(("2000000", "3000000")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", khz)
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "41500\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "63000\n")
    write(tmp_path, "sys/class/thermal/thermal_zone2/temp", "")
    write(tmp_path, "proc/loadavg", "1.25 0.5 0.1 1/100 12345\n")
    conditions = LoadWatch(root=tmp_path).read()
    assert conditions.clock_mhz == 2500
    assert conditions.governor == "powersave"
    assert conditions.temperature_c == 63
    assert conditions.load_average == 1.25


def test_clock_of_machines_without_a_governor(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "cpu MHz\t\t: 2400.0\nflags : x\ncpu MHz\t\t: 2600.0\n")
    assert LoadWatch(root=tmp_path).read().clock_mhz == 2500


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    assert LoadWatch(root=tmp_path).read() == Conditions()
    write(tmp_path, "proc/stat", "cpu  one two\n")
    assert LoadWatch(root=tmp_path).read() == Conditions()


def test_another_process_is_seen_and_this_one_is_not() -> None:
    spin = (
        "import time\n"
        "end = time.monotonic() + 30\n"
        "print(flush=True)\n"
        "while time.monotonic() < end: pass"
    )
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        watch, cpu_s = LoadWatch(), Path(f"/proc/{other.pid}/stat")
        before = _cpu_ticks(cpu_s)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:  # this process is busy as well
            pass
        conditions = watch.read()
        spun_s = (_cpu_ticks(cpu_s) - before) / TICKS
        other.kill()
    assert conditions.foreign_cpus is not None
    assert conditions.foreign_cpus > 0.8 * spun_s
    cpus = os.cpu_count() or 1
    assert conditions.foreign_cpus <= cpus + 0.1


def _cpu_ticks(stat: Path) -> int:
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        (Conditions(), None),
        (Conditions(foreign_cpus=0.2, steal=0.01, num_foreign_gpu_processes=0), None),
        (Conditions(foreign_cpus=1.25), "other programs kept 1.25 CPUs busy"),
        (Conditions(steal=0.05), "the hypervisor took 5 % of the processors"),
        (Conditions(num_foreign_gpu_processes=1), "1 other process uses the GPU"),
        (Conditions(num_foreign_gpu_processes=3), "3 other processes use the GPU"),
    ],
)
def test_what_a_strict_measurement_refuses(conditions: Conditions, reason: str | None) -> None:
    assert disturbance(conditions) == reason


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for nvidia-smi on the PATH; the GPU is torch's by name only."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234-abcd")
    )
    return tmp_path / "nvidia-smi"


def test_gpu_clock_temperature_and_processes(smi: Path) -> None:
    # The parent of this test is not a process of the study; this process is.
    smi.write_text(
        "#!/bin/sh\n"
        'test "$3" = GPU-1234-abcd || exit 9\n'
        'case "$1" in\n'
        '  --query-gpu=*) echo "1755, 54";;\n'
        f"  *) echo {os.getpid()}; echo 1;;\n"
        "esac\n"
    )
    smi.chmod(0o755)
    conditions = LoadWatch("cuda").read()
    assert conditions.clock_mhz == 1755
    assert conditions.temperature_c == 54
    assert conditions.num_foreign_gpu_processes == 1


def test_workers_of_the_same_node_wait_at_the_gate(smi: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sibling:
        code = (
            "import os, sys\n"
            "from upnas.measure.conditions import _is_of_this_study as ours\n"
            f"print(ours({sibling.pid}), ours(os.getpid()), ours(os.getppid()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        sibling.kill()
    assert done.stdout.split() == ["True", "True", "False"]


@pytest.mark.parametrize("body", ["exit 3", 'echo "[N/A], [N/A]"'])
def test_a_gpu_that_tells_nothing_is_unknown(smi: Path, body: str) -> None:
    smi.write_text(f"#!/bin/sh\n{body}\n")
    smi.chmod(0o755)
    conditions = LoadWatch("cuda").read()
    assert conditions.temperature_c is None
    assert conditions.num_foreign_gpu_processes in (None, 0)
