from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from upnas.measure import cache as cache_module
from upnas.measure.cache import CacheError, CostCache, CostKey, cost_key, rebased
from upnas.measure.cache_entry import UnusableEntryError, costs_in, digest_of, entry_of
from upnas.measure.fingerprint import machine_fingerprint
from upnas.records import (
    Candidate,
    Conditions,
    Costs,
    Latency,
    ModelSpec,
    PredictedLatency,
    StageChoice,
    Target,
    TaskSignature,
)


def candidate(upsampler: str = "bilinear") -> Candidate:
    return Candidate(model=ModelSpec(decoder="sr"), stages=(StageChoice(upsampler=upsampler),))


TARGET = Target(name="laptop", input=(3, 64, 64))
KEY = CostKey(
    machine="ab12",
    candidate_digest=candidate().key,
    candidate=candidate(),
    signature=TaskSignature(name="segmentation", in_channels=3, out_channels=1),
    target=TARGET,
    reference=candidate("nearest").key,
    pinned_input=(3, 64, 64),
    settings="relative_width=0.015",
)
LATENCY = Latency(
    samples_ms=(1.0, 2.1, 3.0),
    reference_samples_ms=(2.0, 4.0, 6.0),
    reference_ms=4.0,
    clock="thread_cpu",
    wall_ms=2.5,
)
COSTS = Costs(target="laptop", latency=LATENCY, peak_memory_mib=0.1, num_parameters=7)
UNSTEADY = LATENCY.model_copy(update={"unsteady": "too wide"})
PREDICTED = PredictedLatency(
    ratio=1, ratio_low=0.9, ratio_high=1.1, reference_ms=4, num_measured=9
)  # fmt: skip


def changed(key: CostKey, **changes: Any) -> CostKey:
    return key.model_copy(update=changes)


def path_of(cache: CostCache, key: CostKey = KEY) -> Path:
    return cache.folder / "costs" / key.machine / f"{key.digest}.json"


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def cache(tmp_path: Path) -> CostCache:
    return CostCache(tmp_path / "cache")


@pytest.fixture
def entry(cache: CostCache) -> Path:
    """The file of an entry that the cache has."""
    cache.put(KEY, COSTS)
    return path_of(cache)


# Keys


def test_finds_what_was_put(cache: CostCache) -> None:
    assert cache.get(KEY) is None
    cache.put(KEY, COSTS)
    assert cache.get(KEY) == COSTS
    assert CostCache(cache.folder).get(KEY) == COSTS
    later = COSTS.model_copy(update={"num_parameters": 8})
    cache.put(KEY, later)
    assert cache.get(KEY) == later


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": "ab13"},
        {"candidate_digest": "ab12"},
        {"candidate": candidate("carafe")},
        {"signature": KEY.signature.model_copy(update={"out_channels": 2})},
        {"target": TARGET.model_copy(update={"threads": 2})},
        {"target": TARGET.model_copy(update={"runtime": "onnxruntime"})},
        {"reference": "ab12"},
        {"pinned_input": (3, 128, 128)},
        {"settings": "relative_width=0.02"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_part_of_the_key_counts(
    cache: CostCache, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(KEY, COSTS)
    assert cache.get(changed(KEY, **changes)) is None
    assert not caplog.records


def test_name_of_the_target_does_not_count_and_is_that_of_the_asked(cache: CostCache) -> None:
    cache.put(KEY, COSTS)
    found = cache.get(changed(KEY, target=TARGET.model_copy(update={"name": "phone"})))
    assert found == COSTS.model_copy(update={"target": "phone"})
    assert "laptop" not in path_of(cache).read_text()


def test_key_of_this_machine() -> None:
    reference = candidate("nearest")
    key = cost_key(
        candidate(),
        KEY.signature,
        TARGET,
        reference=reference,
        pinned_input=(3, 64, 64),
        settings="relative_width=0.015",
    )
    assert key == changed(KEY, machine=machine_fingerprint(TARGET))


@pytest.mark.parametrize("machine", ["", "../ab", "AB", "ab/cd", "ab\n"], ids=repr)
def test_names_of_files_are_hex_only(machine: str) -> None:
    with pytest.raises(ValidationError, match="machine"):
        CostKey.model_validate(KEY.model_dump() | {"machine": machine})


def test_entry_shows_the_key_and_the_machine(entry: Path) -> None:
    content = json.loads(entry.read_text())
    assert content["key"]["candidate"]["stages"] == [{"upsampler": "bilinear", "parameters": {}}]
    assert content["key"]["settings"] == KEY.settings
    assert "processor" in content["machine_parts"]


# What is kept


@pytest.mark.parametrize(
    "changes",
    [
        {"latency": UNSTEADY},
        {"latency": None, "predicted": PREDICTED},
        {"latency": None, "unserved": "no kernel"},
        {"latency": None},
        {"machine": "cd34"},
    ],
    ids=["unsteady", "predicted", "unserved", "no latency", "another machine"],
)
def test_costs_that_are_not_to_be_trusted_are_not_kept(
    cache: CostCache, changes: dict[str, Any]
) -> None:
    cache.put(KEY, COSTS.model_copy(update=changes))
    assert cache.get(KEY) is None
    assert cache.describe().num_entries == 0


def test_costs_of_this_machine_are_kept(cache: CostCache) -> None:
    costs = COSTS.model_copy(update={"machine": KEY.machine})
    cache.put(KEY, costs)
    assert cache.get(KEY) == costs


positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def latencies(draw: st.DrawFn) -> Latency:
    count = draw(st.integers(1, 4))
    times = st.lists(positive, min_size=count, max_size=count).map(tuple)
    return Latency(
        samples_ms=draw(times),
        reference_samples_ms=draw(times),
        reference_ms=draw(positive),
        clock=draw(st.sampled_from(["thread_cpu", "process_cpu", "wall", "device"])),
        wall_ms=draw(positive),
        rejected=tuple(draw(st.lists(text, max_size=2))),
        conditions=draw(st.none() | st.builds(Conditions, governor=text, temperature_c=positive)),
    )


all_costs = st.builds(
    Costs,
    target=st.just("laptop"),
    latency=latencies(),
    peak_memory_mib=positive,
    training_peak_memory_mib=st.none() | positive,
    num_parameters=st.integers(0, 2**62),
    exportable=st.dictionaries(text, text, max_size=2).map(lambda d: tuple(d.items())),
)


@given(costs=all_costs, settings_text=text)
@settings(max_examples=60, deadline=None)
def test_costs_come_back_exactly(costs: Costs, settings_text: str) -> None:
    key = changed(KEY, settings=settings_text)
    with tempfile.TemporaryDirectory() as folder:
        CostCache(Path(folder)).put(key, costs)
        assert CostCache(Path(folder)).get(key) == costs


# Damaged and foreign files


@contextmanager
def counted_warnings() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    cache_module.logger.addHandler(handler)
    try:
        yield messages
    finally:
        cache_module.logger.removeHandler(handler)


def is_ignored_with_one_warning(path: Path, cache: CostCache) -> bool:
    before = path.lstat()
    with counted_warnings() as messages:
        found = [cache.get(KEY), cache.get(KEY)]
    assert path.lstat() == before  # left alone
    if len(messages) != 1:
        return False
    return found == [None, None] and str(path) in messages[0] and "delete the file" in messages[0]


def with_checksum(content: dict[str, Any]) -> str:
    del content["checksum"]
    return json.dumps(content | {"checksum": digest_of(content)})


def edited(**changes: Any) -> Callable[[str], str]:
    """An entry that is whole and says something else."""
    return lambda text: with_checksum(json.loads(text) | changes)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda text: "", "torn"),
        (lambda text: text[: len(text) // 2], "torn"),
        (lambda text: text + text, "torn"),
        (lambda text: "[" * 100_000, "torn"),
        (lambda text: "9" * 5000, "torn"),
        (lambda text: "[1]", "no JSON object"),
        (lambda text: "\x80", "torn"),
        (lambda text: text.replace('"num_parameters":7', '"num_parameters":8'), "checksum"),
        (lambda text: text.replace('"checksum":"', '"checksum":"0'), "checksum"),
        (edited(version=2), "version 2"),
        (edited(version=None), "version None"),
        (edited(key=changed(KEY, settings="other").parts), "another measurement"),
        (edited(key=None), "another measurement"),
        (edited(costs={"target": ""}), "no costs"),
        (edited(costs=None), "no costs"),
    ],
)
def test_damaged_and_foreign_files_are_ignored_with_one_warning(
    entry: Path, cache: CostCache, edit: Callable[[str], str], reason: str
) -> None:
    entry.write_text(edit(entry.read_text()), encoding="latin-1")
    with counted_warnings() as messages:
        cache.get(KEY)
    assert reason in messages[0]
    assert is_ignored_with_one_warning(entry, CostCache(cache.folder))


def test_an_entry_under_the_name_of_another_is_ignored(entry: Path, cache: CostCache) -> None:
    other = changed(KEY, settings="other")
    cache.put(other, COSTS)
    path_of(cache, other).replace(entry)
    assert is_ignored_with_one_warning(entry, cache)


def test_links_are_not_followed(entry: Path, cache: CostCache, tmp_path: Path) -> None:
    entry.rename(tmp_path / "elsewhere.json")
    entry.symlink_to(tmp_path / "elsewhere.json")
    assert is_ignored_with_one_warning(entry, cache)
    cache.put(KEY, COSTS.model_copy(update={"num_parameters": 8}))
    assert '"num_parameters":7' in (tmp_path / "elsewhere.json").read_text()
    assert not entry.is_symlink()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_folders_and_pipes_are_no_entries(
    entry: Path, cache: CostCache, make: Callable[[Path], None]
) -> None:
    entry.unlink()
    make(entry)
    with counted_warnings() as messages:
        cache.get(KEY)
    assert "no regular file" in messages[0]
    assert is_ignored_with_one_warning(entry, CostCache(cache.folder))


def test_a_file_that_cannot_be_read_is_ignored(
    entry: Path, cache: CostCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(cache_module, "read_file", refuse)
    assert is_ignored_with_one_warning(entry, cache)


def test_measuring_anew_repairs_a_damaged_entry(entry: Path, cache: CostCache) -> None:
    entry.write_text("{")
    cache.get(KEY)
    cache.put(KEY, COSTS)
    assert cache.get(KEY) == COSTS


WHOLE = entry_of(KEY.parts, COSTS, machine_parts={"processor": "a"})


@given(index=st.integers(0, len(WHOLE) - 1), mask=st.integers(1, 255))
@settings(max_examples=500, deadline=None)
def test_a_changed_byte_is_found_or_changes_nothing(index: int, mask: int) -> None:
    content = bytearray(WHOLE)
    content[index] ^= mask
    try:
        found = costs_in(bytes(content), KEY.parts)
    except UnusableEntryError:
        return
    assert found == COSTS.model_copy(update={"target": ""})


@given(length=st.integers(0, len(WHOLE) - 2))
@settings(deadline=None)
def test_a_torn_entry_is_found(length: int) -> None:
    with pytest.raises(UnusableEntryError):
        costs_in(WHOLE[:length], KEY.parts)


# Writing


WRITER = """
import sys
from pathlib import Path
from measure.test_cache import COSTS, KEY
from upnas.measure import cache
cache.describe_fingerprint = lambda target: {}  # loads torch
cached = cache.CostCache(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    cached.put(KEY, COSTS.model_copy(update={"num_parameters": int(sys.argv[2]) + number}))
"""


def writer(folder: Path, first: int, count: int) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first), str(count)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])},
        stderr=subprocess.PIPE,
    )


def test_processes_may_write_and_read_one_entry_at_once(cache: CostCache) -> None:
    writers = [writer(cache.folder, first, 400) for first in (1_000, 2_000)]
    seen: set[int] = set()
    with counted_warnings() as messages:
        while any(process.poll() is None for process in writers):
            if (found := cache.get(KEY)) is not None:
                seen.add(found.num_parameters)
                assert found == COSTS.model_copy(update={"num_parameters": found.num_parameters})
    assert [process.communicate()[1] for process in writers] == [b"", b""]  # no warnings there
    assert [process.returncode for process in writers] == [0, 0]
    assert not messages
    assert len(seen) > 1
    last = cache.get(KEY)
    assert last is not None
    assert last.num_parameters in (1_399, 2_399)
    assert names_in(path_of(cache).parent) == [path_of(cache).name]


def test_a_killed_writer_leaves_whole_entries_only(cache: CostCache) -> None:
    process = writer(cache.folder, 0, 10**6)
    while not path_of(cache).exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    with counted_warnings() as messages:
        assert cache.get(KEY) is not None
    assert not messages
    assert cache.clear() == 1
    assert not any(path.is_file() for path in cache.folder.rglob("*"))


def fails_with_one_warning(cache: CostCache, *, reason: str) -> bool:
    with counted_warnings() as messages:
        cache.put(KEY, COSTS)
        cache.put(changed(KEY, settings="other"), COSTS)
        assert cache.get(changed(KEY, settings="other")) is None
    return len(messages) == 1 and reason in messages[0] and "UPNAS_CACHE" in messages[0]


def test_a_full_disk_is_a_warning_and_keeps_what_was_there(
    entry: Path, cache: CostCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = entry.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert fails_with_one_warning(cache, reason="No space left on device")
    assert entry.read_bytes() == before
    assert names_in(entry.parent) == [entry.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_while_writing_is_a_warning(
    cache: CostCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = os.open

    def on_full_disk(path: Path, flags: int, mode: int = 0o777) -> int:
        os.close(really_open(path, flags, mode))
        return really_open("/dev/full", os.O_WRONLY)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", on_full_disk)
        with counted_warnings() as messages:
            cache.put(KEY, COSTS)
    assert "No space left on device" in messages[0]
    assert names_in(path_of(cache).parent) == []


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fails_with_one_warning(CostCache(tmp_path / "file"), reason="Not a directory")
    assert fails_with_one_warning(CostCache(Path("/proc/upnas")), reason="No such file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_warning(cache: CostCache) -> None:
    cache.folder.mkdir()
    cache.folder.chmod(0o500)
    assert fails_with_one_warning(cache, reason="Permission denied")


def test_a_read_only_file_system_is_a_warning(
    entry: Path, cache: CostCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    assert fails_with_one_warning(cache, reason="Read-only file system")
    assert cache.get(KEY) == COSTS  # reading still works


def test_entries_have_the_users_usual_permissions(entry: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(entry.stat().st_mode) == 0o666 & ~mask


# The folder


def test_folder_is_the_users_choice_or_that_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPNAS_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert CostCache().folder == tmp_path / "mine"
    monkeypatch.setenv("UPNAS_CACHE", "")
    assert CostCache().folder == tmp_path / "xdg/upnas"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by its specification
    assert CostCache().folder == tmp_path / "home/.cache/upnas"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert CostCache().folder == tmp_path / "home/.cache/upnas"


def test_folder_of_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UPNAS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert CostCache().folder.is_relative_to(tmp_path)


def test_a_relative_folder_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = CostCache(Path("cache"))
    cache.put(KEY, COSTS)
    monkeypatch.chdir("/")
    assert cache.get(KEY) == COSTS
    assert pickle.loads(pickle.dumps(cache)).get(KEY) == COSTS


def test_tests_do_not_use_the_users_cache(tmp_path: Path) -> None:
    folder = CostCache().folder
    assert folder.is_relative_to(tmp_path.parent)
    assert not folder.exists()


# Looking and clearing


def test_describes_and_clears_the_entries_of_all_machines(cache: CostCache) -> None:
    assert cache.describe().model_dump() == {
        "num_entries": 0, "num_bytes": 0, "folder": cache.folder
    }  # fmt: skip
    assert cache.clear() == 0
    keys = [KEY, changed(KEY, machine="cd34"), changed(KEY, settings="other")]
    for key in keys:
        cache.put(key, COSTS)
    info = cache.describe()
    assert info.num_entries == 3
    assert info.num_bytes == sum(path_of(cache, key).stat().st_size for key in keys)
    assert cache.clear() == 3
    assert cache.describe().num_entries == 0
    assert [cache.get(key) for key in keys] == [None] * 3


def test_clears_its_own_files_only(entry: Path, cache: CostCache, tmp_path: Path) -> None:
    strange = [entry.parent / "notes.json", entry.parent / "a.txt", cache.folder / "a.json"]
    outside = tmp_path / "outside"
    outside.mkdir()
    strange.append(outside / entry.name)
    for path in strange:
        path.write_text("mine")
    (cache.folder / "costs/beef").symlink_to(outside)
    left_by_killed = entry.parent / f"{'0' * 32}.tmp"
    left_by_killed.write_text("")
    assert cache.describe().num_entries == 1
    assert cache.clear() == 1
    assert all(path.exists() for path in strange)
    assert not entry.exists()
    assert not left_by_killed.exists()


def test_a_folder_that_cannot_be_cleared_is_an_error_that_names_it(
    entry: Path, cache: CostCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(CacheError, match=f"{entry}.*cleared: Permission denied.*UPNAS_CACHE"):
            cache.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        with pytest.raises(CacheError, match="cannot be read: Permission denied"):
            cache.describe()


# Another reference time


def test_rebased_costs_keep_the_ratio_and_take_the_new_reference() -> None:
    other = rebased(COSTS, 8.0)
    assert other.latency is not None
    assert other.latency.ratios == LATENCY.ratios
    assert other.latency.reference_ms == 8.0
    assert other.latency_ms == pytest.approx(2 * LATENCY.median_ms)
    assert rebased(other, 4.0) == COSTS
    unserved = COSTS.model_copy(update={"latency": None, "unserved": "no kernel"})
    assert rebased(unserved, 8.0) == unserved


@pytest.mark.parametrize("reference_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_rebasing_refuses_times_that_are_none(reference_ms: float) -> None:
    with pytest.raises(ValueError, match="reference_ms"):
        rebased(COSTS, reference_ms)


# The command


def upnas(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upnas", "cache", *arguments],
        env=os.environ | {"UPNAS_CACHE": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_shows_and_clears(entry: Path, cache: CostCache) -> None:
    size = entry.stat().st_size
    shown = upnas("show", folder=cache.folder)
    assert (shown.stdout, shown.stderr) == (f"1 entry, 0.0 MiB, in {cache.folder}\n", "")
    shown = upnas("show", "--json", folder=cache.folder)
    expected = {"num_entries": 1, "num_bytes": size, "folder": str(cache.folder)}
    assert json.loads(shown.stdout) == expected
    cleared = upnas("clear", "--json", folder=cache.folder)
    assert json.loads(cleared.stdout) == {"num_removed": 1, "folder": str(cache.folder)}
    assert cache.get(KEY) is None
    cleared = upnas("clear", folder=cache.folder)
    assert cleared.stdout == f"removed 0 entries from {cache.folder}\n"


def test_command_answers_mistakes_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs/ab").mkdir()
    (tmp_path / f"costs/ab/{'0' * 32}.json").mkdir()
    done = upnas("clear", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("upnas: error: ")
    assert "cannot be cleared" in done.stderr
    assert "Traceback" not in done.stderr


def test_looking_at_the_cache_loads_no_torch() -> None:
    program = (
        "import sys; from upnas.measure.cache import CostCache; CostCache().describe();"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
