"""What becomes of the memory that a forward on the CPU frees."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from upnas.measure.allocator import keep_freed_memory

# Page faults of a forward before, during and after a measurement on a target.
PROGRAM = """
import json, resource, sys
import torch
from torch import nn
from upnas.measure.timing.interleave import conditions_of
from upnas.records import Target

# 37 MiB each: above 32 MiB no history of the process makes glibc keep a block.
target = Target(name="a", input=(3, 1792, 1792), allocator=sys.argv[1])
model = nn.Sequential(nn.ReLU(), nn.ReLU()).eval()
x = torch.rand(target.input_shape)

def faults():
    for _ in range(8):  # the heap grows in the first few
        model(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        model(x)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 4

with torch.inference_mode():
    before = faults()
with conditions_of(target):
    during = faults()
with torch.inference_mode():
    after = faults()
print(json.dumps([before, during, after]))
"""

is_glibc = platform.libc_ver()[0] == "glibc"


def faults_of(allocator: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), allocator],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    before, during, after = done.stdout.strip().strip("[]").split(",")
    return [float(before), float(during), float(after)]


@pytest.mark.skipif(not is_glibc, reason="needs glibc, whose allocator this is about")
def test_kept_memory_is_not_asked_of_the_kernel_again() -> None:
    before, during, after = faults_of("keep")
    # 18,816 pages of 4 KiB per forward, or 38 of 2 MiB.
    assert before > 30
    assert during < before / 10
    assert after < before / 10  # there is no way back


@pytest.mark.skipif(not is_glibc, reason="needs glibc, whose allocator this is about")
def test_a_target_of_the_systems_allocator_leaves_the_process_as_it_is() -> None:
    before, during, after = faults_of("system")
    assert before > 30
    assert during > before / 2
    assert after > before / 2


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def mallopt(self, *_: object) -> int:
            raise AssertionError("musl has no such parameters")

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    assert keep_freed_memory.__wrapped__() is False


@pytest.mark.parametrize("answers", [(1, 1), (0, 1), (1, 0)])
def test_the_answers_of_the_c_library_are_heard(
    answers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(answers)
    asked: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        asked.append((parameter, value))
        return next(given)

    library = SimpleNamespace(gnu_get_libc_version=None, mallopt=mallopt)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert keep_freed_memory.__wrapped__() is all(answers)
    assert asked == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
