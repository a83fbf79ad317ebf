from __future__ import annotations

import getpass
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from upnas import __version__
from upnas.measure import environment
from upnas.measure.environment import available_cpus, describe_environment


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_describes_this_machine() -> None:
    described = describe_environment()
    assert described.num_cpus == available_cpus() <= len(os.sched_getaffinity(0))
    assert 0 < described.memory_gib < 2**20
    assert described.python == platform.python_version()
    versions = dict(described.packages)
    assert versions["upnas"] == __version__
    assert versions["torch"] == metadata.version("torch")
    assert described.git_commit is None


def test_names_neither_host_nor_user(tmp_path: Path) -> None:
    text = describe_environment(tmp_path).model_dump_json()
    assert platform.node() not in text
    assert str(Path.home()) not in text
    if getpass.getuser() != "root":
        assert getpass.getuser() not in text
    assert str(tmp_path) not in text


def test_packages_that_are_not_installed_are_left_out() -> None:
    installed = environment._installed(("torch", "no-such-package-at-all"))
    assert set(installed) == {"torch"}


def test_processor_name(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    write(cpuinfo, "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\n\nprocessor\t: 1\n")
    assert environment.processor(cpuinfo) == "Some CPU @ 2.00GHz"
    write(cpuinfo, "processor\t: 0\nCPU part\t: 0xd0c\n")  # ARM
    assert environment.processor(cpuinfo)
    assert environment.processor(tmp_path / "none")


def test_cpuinfo_is_that_of_the_first_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    write(cpuinfo, "processor\t: 0\nflags\t\t: fpu avx2\npower management:\n\nprocessor\t: 1\n")
    expected = {"processor": "0", "flags": "fpu avx2", "power management": ""}
    assert environment.cpuinfo(cpuinfo) == expected
    assert environment.cpuinfo(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("inner", "outer", "cpus"),
    [
        ("max 100000", "max 100000", float("inf")),
        ("150000 100000", "max 100000", 1.5),
        ("max 100000", "400000 100000", 4.0),
        ("400000 100000", "200000 100000", 2.0),
    ],
)
def test_cpu_quota_of_nested_control_groups(
    tmp_path: Path, inner: str, outer: str, cpus: float
) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/outer/inner\n")
    write(tmp_path / "sys/fs/cgroup/outer/inner/cpu.max", inner)
    write(tmp_path / "sys/fs/cgroup/outer/cpu.max", outer)
    assert environment._cpu_quota(tmp_path) == cpus


def test_limits_of_version_1_control_groups(tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert environment._cpu_quota(tmp_path) == float("inf")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000")
    assert environment._cpu_quota(tmp_path) == 2.5
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n")
    assert environment._memory_limit(tmp_path) == 2**20


def test_memory_limit(tmp_path: Path) -> None:
    assert environment._memory_limit(tmp_path) == float("inf")
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", "max\n")
    assert environment._memory_limit(tmp_path) == float("inf")
    write(tmp_path / "sys/fs/cgroup/memory.max", "2097152\n")
    assert environment._memory_limit(tmp_path) == 2**21


def test_a_quota_below_one_processor_still_leaves_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_cpu_quota", lambda: 0.5)
    assert available_cpus() == 1


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_commit(tmp_path: Path) -> None:
    assert environment._git_commit(tmp_path) is None  # no checkout

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert environment._git_commit(tmp_path) is None  # no commit
    write(tmp_path / "file", "a")
    git("add", "file")
    git("commit", "-m", "message")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert environment._git_commit(tmp_path) == commit
    write(tmp_path / "file", "b")
    assert describe_environment(tmp_path).git_commit == f"{commit}-dirty"


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._git_commit(tmp_path) is None
