"""One file of the cost cache: its text, what can be wrong with it, and writing it whole.

The text is one JSON object: ``version``, ``key``, ``machine_parts`` (for people), ``costs``, and
``checksum``, the SHA-256 of the canonical JSON of the others.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from upnas.records import Costs

#: Of an entry; others are ignored. It rises when entries change their meaning or their fields.
CACHE_VERSION: Final = 1

_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC


class UnusableEntryError(Exception):
    """Why an entry is not used."""


def digest_of(value: Any) -> str:
    """Return the SHA-256, in hex digits, of the canonical JSON of JSON values."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def entry_of(key: Mapping[str, Any], costs: Costs, machine_parts: Mapping[str, str]) -> bytes:
    """Return the text of an entry; the name of the target in the costs is left out."""
    entry = {
        "version": CACHE_VERSION,
        "key": dict(key),
        "machine_parts": dict(machine_parts),
        "costs": costs.model_dump(mode="json") | {"target": ""},
    }
    return _canonical(entry | {"checksum": digest_of(entry)}).encode() + b"\n"


def costs_in(content: bytes, key: Mapping[str, Any]) -> Costs:
    """Return the costs in the text of an entry; their target has no name.

    Args:
        content: Whatever a file holds.
        key: What the entry must be of.

    Raises:
        UnusableEntryError: If it is not an undamaged entry of this version and key.
    """
    try:
        entry = json.loads(content)
        checksum = entry.pop("checksum", None) if isinstance(entry, dict) else None
        expected = digest_of(entry)
    except (ValueError, RecursionError) as error:
        raise UnusableEntryError("it is torn or damaged (no JSON)") from error
    if not isinstance(entry, dict):
        raise UnusableEntryError("it is damaged (no JSON object)")
    if (version := entry.get("version")) != CACHE_VERSION:
        raise UnusableEntryError(f"it has version {version!r}, and {CACHE_VERSION} is read here")
    if checksum != expected:
        raise UnusableEntryError("it is damaged (the checksum differs)")
    # As text: in Python 1, 1.0 and True are equal.
    if _canonical(entry.get("key")) != _canonical(dict(key)):
        raise UnusableEntryError("it is of another measurement than its name says")
    try:
        return Costs.model_validate(entry.get("costs"))
    except ValidationError as error:
        raise UnusableEntryError("it holds no costs") from error


def read_file(path: Path) -> bytes:
    """Read a regular file, and nothing else.

    Raises:
        UnusableEntryError: If it is a link, a folder, a pipe, ...
        OSError: If there is none, or it cannot be read.
    """
    try:
        # Without blocking: opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _OPEN)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnusableEntryError("it is a symbolic link") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnusableEntryError("it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that others see whole or not at all, however many write it at once.

    The content is on the disk before its name is. That the name is there after a power cut is
    not waited for: losing an entry costs one measurement.

    Raises:
        OSError: If it cannot be written; nothing is left then, and a former file stays.
    """
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        with suppress(OSError):  # gone after the replacement; else what matters is raised already
            temporary.unlink()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
