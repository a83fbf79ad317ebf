"""What else a machine does while something is timed on it, and whether that is too much.

Read from Linux's own tables and, for a GPU, from ``nvidia-smi``; what cannot be read is None.
Processor time of other processes is that of the whole machine less this process's own, so Ray's
daemons and the driver of the study count as others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from upnas.records import Conditions, Device

#: More than that and a strict measurement refuses.
MAX_FOREIGN_CPUS: Final = 0.25
MAX_STEAL: Final = 0.02

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_SMI_TIMEOUT_S: Final = 5.0


class _CpuTimes(NamedTuple):
    """Seconds since boot, summed over the processors."""

    busy: float
    stolen: float
    total: float


class LoadWatch:
    """Watches a device from its creation to :meth:`read`.

    Args:
        device: On ``"cuda"`` the GPU's clock, temperature and processes are read as well.
        root: Where ``proc`` and ``sys`` lie.
    """

    def __init__(self, device: Device = "cpu", root: Path = Path("/")):
        self._device = device
        self._root = root
        self._before = _cpu_times(root)
        self._own_s = time.process_time()

    def read(self) -> Conditions:
        """What happened since, and how the machine stands now."""
        foreign, steal = self._shares()
        conditions = Conditions(
            foreign_cpus=foreign,
            steal=steal,
            load_average=_first_number(self._root / "proc/loadavg"),
            clock_mhz=_cpu_clock_mhz(self._root),
            governor=_word(self._root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            temperature_c=_temperature_c(self._root),
        )
        return conditions.model_copy(update=_gpu()) if self._device == "cuda" else conditions

    def _shares(self) -> tuple[float | None, float | None]:
        before, after = self._before, _cpu_times(self._root)
        own_s = time.process_time() - self._own_s
        if before is None or after is None or after.total <= before.total:
            return None, None
        num_cpus = os.cpu_count() or 1
        elapsed_s = (after.total - before.total) / num_cpus
        foreign = max(0.0, after.busy - before.busy - own_s) / elapsed_s
        steal = max(0.0, after.stolen - before.stolen) / (after.total - before.total)
        return round(foreign, 3), round(steal, 4)


def disturbance(conditions: Conditions) -> str | None:
    """Say what other programs do that a strict measurement refuses; None if it is quiet."""
    if (conditions.foreign_cpus or 0.0) > MAX_FOREIGN_CPUS:
        return f"other programs kept {conditions.foreign_cpus:.2f} CPUs busy"
    if (conditions.steal or 0.0) > MAX_STEAL:
        return f"the hypervisor took {100 * (conditions.steal or 0.0):.0f} % of the processors"
    if count := conditions.num_foreign_gpu_processes:
        return f"{count} other process{'es use' if count > 1 else ' uses'} the GPU"
    return None


def _cpu_times(root: Path) -> _CpuTimes | None:
    try:
        first, _, _ = (root / "proc/stat").read_text().partition("\n")
        label, *numbers = first.split()
        ticks = [int(number) for number in numbers[:8]]  # guests are part of user time
    except (OSError, ValueError):
        return None
    if label != "cpu" or len(ticks) < 8:
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = (tick * _TICK_S for tick in ticks)
    busy = user + nice + system + irq + softirq
    return _CpuTimes(busy, steal, busy + idle + iowait + steal)


def _cpu_clock_mhz(root: Path) -> float | None:
    folder = root / "sys/devices/system/cpu"
    khz = _numbers(folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if khz:
        return round(statistics.mean(khz) / 1e3, 1)
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    mhz = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(statistics.mean(mhz), 1) if mhz else None


def _temperature_c(root: Path) -> float | None:
    """The hottest zone."""
    return max(
        (milli / 1e3 for milli in _numbers((root / "sys/class/thermal").glob("*zone*/temp"))),
        default=None,
    )


def _numbers(paths: Iterable[Path]) -> list[float]:
    found = (_first_number(path) for path in paths)
    return [number for number in found if number is not None]


def _first_number(path: Path) -> float | None:
    word = _word(path)
    with contextlib.suppress(TypeError, ValueError):
        return float(word)  # type: ignore[arg-type]  # None is a TypeError
    return None


def _word(path: Path) -> str | None:
    try:
        return path.read_text().split()[0]
    except (OSError, IndexError):  # some sensors answer with an error, some with nothing
        return None


def _gpu() -> dict[str, float | int]:
    """The GPU's clock and temperature, and the processes on it that are not this study's."""
    import torch  # here, so that reading a CPU's load does not load torch

    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    which = ["-i", uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"]
    readings: dict[str, float | int] = {}
    if clocks := _smi("--query-gpu=clocks.sm,temperature.gpu", *which):
        with contextlib.suppress(ValueError):  # "[N/A]"
            mhz, celsius = (float(cell) for cell in clocks[0].split(","))
            readings |= {"clock_mhz": mhz, "temperature_c": celsius}
    pids = _smi("--query-compute-apps=pid", *which)
    if pids is not None:
        foreign = [pid for pid in pids if pid.isdecimal() and not _is_of_this_study(int(pid))]
        readings["num_foreign_gpu_processes"] = len(foreign)
    return readings


def _smi(*query: str) -> list[str] | None:
    """Lines of an answer of ``nvidia-smi``; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", *query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_SMI_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _is_of_this_study(pid: int) -> bool:
    """Whether it is this process, or another worker of the same Ray node: it waits at the gate."""
    if pid == os.getpid():
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return int(stat.rpartition(")")[2].split()[1]) == os.getppid()
