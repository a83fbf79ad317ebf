"""The machine and the versions that a number was measured with.

Nothing here names the host, the user or a folder, so that a report can be published as it is.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from upnas import __version__
from upnas.records import Environment

PACKAGES: Final = ("numpy", "optuna", "plotly", "ray", "timm", "torch")


def describe_environment(git_folder: Path | None = None) -> Environment:
    """Describe the machine as this process sees it.

    Args:
        git_folder: A folder whose commit is recorded if it is in a git checkout; uncommitted
            changes to tracked files add ``-dirty``.

    Returns:
        Processors and memory are those that the process may use (affinity and control groups
        respected), packages those that are installed.
    """
    physical_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Environment(
        machine=processor(),
        num_cpus=available_cpus(),
        memory_gib=round(min(physical_bytes, _memory_limit()) / 2**30, 2),
        gpus=_gpus(),
        platform=platform.platform(),
        python=platform.python_version(),
        packages=tuple({**_installed(PACKAGES), "upnas": __version__}.items()),
        git_commit=None if git_folder is None else _git_commit(git_folder),
    )


def available_cpus() -> int:
    """Return how many processors this process can keep busy: affinity and quota, at least 1."""
    return max(1, int(min(len(os.sched_getaffinity(0)), _cpu_quota())))


def cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what Linux says about the first processor, by its names; empty on other systems."""
    fields: dict[str, str] = {}
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if not line.strip():  # the end of the first of, maybe, hundreds
                    break
                name, _, value = line.partition(":")
                fields[name.strip()] = value.strip()
    return fields


def processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name, or its architecture where ARM kernels give no name."""
    return cpuinfo(path).get("model name") or platform.processor() or platform.machine()


def _gpus() -> tuple[str, ...]:
    import torch  # here, so that counting processors does not load torch

    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _installed(packages: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit(folder: Path) -> str | None:
    # `describe` with every tag excluded is the commit itself, and knows about local changes.
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _cpu_quota(root: Path = Path("/")) -> float:
    """Processors that the control groups allow; inf without a quota."""
    quotas = [math.inf]
    for folder in _control_groups(root):  # version 2: "<quota> <period>" or "max <period>"
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(math.inf if quota == "max" else int(quota) / int(period))
    legacy = root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us"  # version 1: -1 without a quota
    if legacy.is_file() and (us := int(legacy.read_text())) > 0:
        quotas.append(us / int((legacy.parent / "cpu.cfs_period_us").read_text()))
    return min(quotas)


def _memory_limit(root: Path = Path("/")) -> float:
    """Bytes that the control groups allow; inf without a limit."""
    files = [folder / "memory.max" for folder in _control_groups(root)]
    files.append(root / "sys/fs/cgroup/memory/memory.limit_in_bytes")
    limits = [file.read_text().strip() for file in files if file.is_file()]
    return min((float(limit) for limit in limits if limit != "max"), default=math.inf)


def _control_groups(root: Path) -> Iterator[Path]:
    """The version-2 control group of this process and its parents, innermost first."""
    membership = root / "proc/self/cgroup"
    if not membership.is_file():
        return
    for line in membership.read_text().splitlines():
        if line.startswith("0::"):
            mount = root / "sys/fs/cgroup"
            group = mount / line.removeprefix("0::").strip("/")
            yield from (
                folder for folder in (group, *group.parents) if folder.is_relative_to(mount)
            )
