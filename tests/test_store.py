"""A study folder survives crashes, full disks and second drivers."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report.fake_study import fake_trials, make_candidate, make_header, make_trial

from upnas.errors import StudyError
from upnas.records import TrialRecord
from upnas.store import StudyFolder

BILINEAR = make_candidate("bilinear", "bilinear", "bilinear", "bilinear")


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path / "runs" / "study")
    folder.create(make_header())
    return folder


def trial(number: int, dice: float | None = 0.8) -> TrialRecord:
    return make_trial(number, BILINEAR, dice)


def test_round_trip(folder: StudyFolder) -> None:
    trials = fake_trials()
    for record in reversed(trials):
        folder.append(record)
    study = folder.read_study()
    assert study.header == make_header()
    assert list(study.trials) == trials
    assert study.num_damaged_lines == 0
    assert folder.checkpoints_path.is_dir()


def test_an_empty_study_has_no_trials(folder: StudyFolder) -> None:
    assert folder.read_trials() == []


def test_the_last_line_of_a_trial_wins(folder: StudyFolder) -> None:
    for record in (trial(1, None), trial(0, 0.5), trial(1, 0.9)):
        folder.append(record)
    assert folder.read_trials() == [trial(0, 0.5), trial(1, 0.9)]
    assert len(folder.trials_path.read_bytes().splitlines()) == 3


def test_create_refuses_a_second_study(folder: StudyFolder) -> None:
    with pytest.raises(StudyError, match="already here"):
        folder.create(make_header("other"))
    assert folder.read_header().name == "unet-filaments"
    assert not list(folder.path.glob("*.tmp"))


def test_read_header_says_what_is_wrong(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with pytest.raises(StudyError, match=r"no study here.*runs/<study>"):
        folder.read_header()
    folder.header_path.write_text('{"schema_version": 1, "name": ')
    with pytest.raises(StudyError, match=r"study\.json: damaged: .*line 1.*restore"):
        folder.read_header()
    folder.header_path.write_text("[]")
    with pytest.raises(StudyError, match="damaged"):
        folder.read_header()
    content = make_header().model_dump(mode="json")
    folder.header_path.write_text(json.dumps(content | {"num_trials": 0}))
    with pytest.raises(StudyError, match=r"damaged: num_trials: .*greater than 0"):
        folder.read_header()
    folder.header_path.write_text(json.dumps(content | {"schema_version": 7, "new": 1}))
    with pytest.raises(StudyError, match="schema version 7, and this version of upnas reads 1"):
        folder.read_header()


def test_every_cut_of_the_last_line_loses_only_that_line(folder: StudyFolder) -> None:
    folder.append(trial(0))
    first = folder.trials_path.read_bytes()
    folder.append(trial(1))
    whole = folder.trials_path.read_bytes()
    for size in range(len(first), len(whole) - 1, 37):
        folder.trials_path.write_bytes(whole[:size])
        assert folder.read_trials() == [trial(0)]
        folder.append(trial(2))
        assert folder.read_study().trials == (trial(0), trial(2))
        assert folder.read_study().num_damaged_lines == 0


def test_a_whole_last_line_without_newline_is_kept(folder: StudyFolder) -> None:
    folder.append(trial(0))
    folder.trials_path.write_bytes(folder.trials_path.read_bytes().rstrip(b"\n"))
    assert folder.read_trials() == [trial(0)]
    folder.append(trial(1))
    assert folder.read_trials() == [trial(0), trial(1)]


def test_a_damaged_middle_line_costs_only_itself(
    folder: StudyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        folder.append(trial(number))
    lines = folder.trials_path.read_bytes().splitlines(keepends=True)
    lines[1] = b'{"number": 1, \xff\n'
    folder.trials_path.write_bytes(b"".join(lines))
    with caplog.at_level(logging.WARNING):
        study = folder.read_study()
    assert [record.number for record in study.trials] == [0, 2]
    assert study.num_damaged_lines == 1
    assert f"{folder.trials_path}:2" in caplog.text


def test_a_full_disk_takes_the_line_back(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.append(trial(0))
    before = folder.trials_path.read_bytes()
    real_pwrite = os.pwrite

    def full_after_ten_bytes(descriptor: int, data: bytes, offset: int) -> int:
        if offset > len(before):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_pwrite(descriptor, data[:10], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full_after_ten_bytes)
        with pytest.raises(StudyError, match=r"No space left.*free space.*resume"):
            folder.append(trial(1))
    assert folder.trials_path.read_bytes() == before
    folder.append(trial(1))
    assert folder.read_trials() == [trial(0), trial(1)]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot be written: Not a directory"):
        StudyFolder(tmp_path / "file" / "study").create(make_header())


def test_a_second_driver_is_refused_until_the_first_ends(folder: StudyFolder) -> None:
    with (
        folder.lock(),
        pytest.raises(StudyError, match=rf"another driver.*pid {os.getpid()} on "),
        StudyFolder(folder.path).lock(),
    ):
        raise AssertionError("two drivers hold one study")
    with StudyFolder(folder.path).lock():
        pass


def test_a_killed_driver_holds_nothing(folder: StudyFolder) -> None:
    code = (
        "import os, sys; from upnas.store import StudyFolder\n"
        "with StudyFolder(sys.argv[1]).lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match=f"pid {driver.pid} "), folder.lock():
            pass
        driver.kill()
    with folder.lock():
        pass
