"""The folder of a study: what is written when, and how it survives a crash.

``study.json`` is written once and atomically. ``trials.jsonl`` is the truth about the trials: one
JSON line per event of a trial (costs known, rung reached, finished), appended by the one driver
that holds the folder's lock and synced to disk before :meth:`StudyFolder.append` returns. The last
line of a trial's number wins. Everything else in the folder can be rebuilt from these two files.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from upnas.errors import StudyError
from upnas.records import SCHEMA_VERSION, StudyHeader, TrialRecord

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study as it was read: the header and every trial's newest record.

    Attributes:
        header: What is not a trial.
        trials: Newest record of each trial, by number.
        num_damaged_lines: Lines of ``trials.jsonl`` that could not be read and were left out.
    """

    header: StudyHeader
    trials: tuple[TrialRecord, ...]
    num_damaged_lines: int = 0


class StudyFolder:
    """Reads and writes the files of one study.

    Args:
        path: The folder, ``runs/<study>``; created by :meth:`create`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header_path = self.path / "study.json"
        self.trials_path = self.path / "trials.jsonl"
        self.journal_path = self.path / "optuna.journal"
        self.checkpoints_path = self.path / "checkpoints"
        self.lock_path = self.path / "driver.lock"

    def exists(self) -> bool:
        """Whether a study was created here."""
        return self.header_path.exists()

    def create(self, header: StudyHeader) -> None:
        """Make the folder and write ``study.json``.

        Raises:
            StudyError: If a study is already there, or the folder cannot be written.
        """
        if self.exists():
            raise StudyError(
                f"{self.path}: a study is already here. Resume it, or give the new study another "
                "name or folder."
            )
        self.replace_header(header)

    def replace_header(self, header: StudyHeader) -> None:
        """Write ``study.json`` atomically, e.g. when a resumed study gets a larger budget.

        Raises:
            StudyError: If the folder cannot be written.
        """
        text = json.dumps(header.model_dump(mode="json"), indent=2) + "\n"
        temporary = self.header_path.with_suffix(".json.tmp")
        try:
            self.checkpoints_path.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.header_path)
            _sync_folder(self.path)
        except OSError as error:
            raise _write_error(self.header_path, error) from error

    def read_header(self) -> StudyHeader:
        """Read ``study.json``.

        Raises:
            StudyError: If it is missing, damaged, or of another schema version.
        """
        try:
            text = self.header_path.read_bytes()
        except FileNotFoundError as error:
            raise StudyError(
                f"{self.path}: no study here (study.json is missing). Give the folder that "
                "`upnas search` printed, usually runs/<study>."
            ) from error
        except OSError as error:
            raise StudyError(f"{self.header_path}: cannot be read: {error.strerror}.") from error
        try:
            content = json.loads(text)
            version = content.get("schema_version") if isinstance(content, dict) else None
            if version is None or version == SCHEMA_VERSION:
                return StudyHeader.model_validate_json(text)
        except ValueError as error:  # also pydantic's and a wrong encoding
            raise StudyError(
                f"{self.header_path}: damaged: {_first_error(error)}. It is written once and never "
                "changed: restore it from a copy; trials.jsonl is not affected."
            ) from error
        raise StudyError(
            f"{self.header_path}: has schema version {version!r}, and this version of upnas reads "
            f"{SCHEMA_VERSION}. Read the study with the version of upnas that wrote it (see "
            "`environment` in the file)."
        )

    def append(self, record: TrialRecord) -> None:
        """Append one line to ``trials.jsonl`` and sync it to disk.

        Only the driver that holds :meth:`lock` may append. A half-written last line, left by a
        crash or a full disk, is removed first; if this write fails midway it is taken back.

        Raises:
            StudyError: If the line cannot be written, e.g. on a full disk.
        """
        line = record.model_dump_json().encode() + b"\n"
        is_new = not self.trials_path.exists()
        try:
            descriptor = os.open(self.trials_path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                size = self._repair(descriptor)
                try:
                    _write_all(descriptor, line, size)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)
            if is_new:
                _sync_folder(self.path)
        except OSError as error:
            raise _write_error(self.trials_path, error) from error

    def read_trials(self) -> list[TrialRecord]:
        """Newest record of each trial, by number; empty before the first one.

        A torn last line (being written, or cut by a crash) is passed over. Any other line that
        cannot be read is left out with a warning that names it; the others are never lost.

        Raises:
            StudyError: If the file exists and cannot be opened.
        """
        return self._read_lines()[0]

    def read_study(self) -> Study:
        """Read the header and the trials.

        Raises:
            StudyError: See :meth:`read_header`.
        """
        header = self.read_header()
        trials, num_damaged_lines = self._read_lines()
        return Study(header=header, trials=tuple(trials), num_damaged_lines=num_damaged_lines)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study as its only driver.

        The lock belongs to the open file, so the operating system frees it when the driver dies,
        however it dies. Child processes started with ``exec`` do not inherit it.

        Raises:
            StudyError: If another driver holds it, or the file system has no locks.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.lock_path.open("a+", encoding="utf-8")
        except OSError as error:
            raise _write_error(self.lock_path, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise StudyError(
                    f"{self.path}: another driver is running this study "
                    f"({file.read().strip() or 'unknown process'}). Wait for it or stop it, then "
                    "run the same command again."
                ) from error
            except OSError as error:
                raise StudyError(
                    f"{self.lock_path}: cannot be locked: {error.strerror}. Keep the study on a "
                    "file system with locks, such as a local disk."
                ) from error
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {os.uname().nodename}\n")
            file.flush()
            yield
            file.truncate(0)

    def _read_lines(self) -> tuple[list[TrialRecord], int]:
        try:
            content = self.trials_path.read_bytes()
        except FileNotFoundError:
            return [], 0
        except OSError as error:
            raise StudyError(f"{self.trials_path}: cannot be read: {error.strerror}.") from error
        *lines, tail = content.split(b"\n")
        newest: dict[int, TrialRecord] = {}
        damaged: list[str] = []
        for index, line in enumerate(lines, start=1):
            try:
                record = TrialRecord.model_validate_json(line)
            except ValidationError as error:
                damaged.append(f"{self.trials_path}:{index}: {_first_error(error)}")
            else:
                newest[record.number] = record
        if last := _record_or_none(tail):
            newest[last.number] = last
        if damaged:
            _logger.warning(
                "%d damaged line(s) left out; the first is %s. The trials of these lines count "
                "with what their other lines say.",
                len(damaged),
                damaged[0],
            )
        return [newest[number] for number in sorted(newest)], len(damaged)

    def _repair(self, descriptor: int) -> int:
        """End the file in a newline and return its size.

        A last line without a newline stays when it is a whole record (an editor removed the
        newline) and is cut when it is torn: its append never returned, so nobody relies on it.
        """
        size = os.fstat(descriptor).st_size
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
            return size
        content = self.trials_path.read_bytes()
        end = content.rfind(b"\n") + 1
        if _record_or_none(content[end:]):
            _write_all(descriptor, b"\n", size)
            return size + 1
        _logger.warning("%s: removed a torn last line (%d bytes).", self.trials_path, size - end)
        os.ftruncate(descriptor, end)
        return end


def _record_or_none(line: bytes) -> TrialRecord | None:
    try:
        return TrialRecord.model_validate_json(line)
    except ValidationError:
        return None


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:  # a full disk may take a part first and refuse the rest
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _sync_folder(path: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(path: Path, error: OSError) -> StudyError:
    return StudyError(
        f"{path}: cannot be written: {error.strerror}. Nothing that was finished before is lost: "
        "free space or fix the permissions, then run the same command again to resume."
    )


def _first_error(error: ValueError) -> str:
    """One line out of a parser's message."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return str(error)
