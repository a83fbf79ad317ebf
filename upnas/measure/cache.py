"""Costs that were measured before, on disk: shared by studies, processes and nodes.

One JSON file per entry, ``<folder>/costs/<machine fingerprint>/<digest of the key>.json``. It
holds the key in clear, so that an entry is believed only if it is the one that was asked for, and
a checksum, so that a torn file is found out. Files appear whole or not at all. Nothing here can
fail a trial: what cannot be read or written is named in the log, and the costs are measured.

Only measurements to be trusted are kept: neither predictions nor unsteady latencies. A latency is
kept as pairs with the reference; see :func:`rebased` for its milliseconds in another study.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import Field, NonNegativeInt, PositiveInt

from upnas.errors import UpnasError
from upnas.measure.cache_entry import (
    UnusableEntryError,
    costs_in,
    digest_of,
    entry_of,
    read_file,
    write_file,
)
from upnas.measure.fingerprint import describe_fingerprint, machine_fingerprint
from upnas.measure.sources import candidate_digest
from upnas.records import Candidate, Costs, Latency, Record, Target, TaskSignature

logger = logging.getLogger(__name__)

_HEX: Final = r"^[0-9a-f]+$"


class CacheError(UpnasError):
    """The folder of the cost cache cannot be looked at or cleared."""


class CostKey(Record):
    """What must agree for a cost to be used again; see :func:`cost_key`."""

    machine: str = Field(pattern=_HEX, description="machine_fingerprint of the target.")
    candidate_digest: str = Field(pattern=_HEX)
    candidate: Candidate
    signature: TaskSignature
    target: Target = Field(description="Its name does not count.")
    reference: str = Field(pattern=_HEX, description="candidate_digest of the reference network.")
    pinned_input: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        description="Channels, height and width at which upsamplers that pick by resolution were "
        "pinned: the first target's input."
    )
    settings: str = Field(description="Precision of the measurement, and what else it was asked.")

    @property
    def parts(self) -> dict[str, Any]:
        """Everything that counts, as JSON values."""
        parts = self.model_dump(mode="json")
        del parts["target"]["name"]
        return parts

    @property
    def digest(self) -> str:
        """32 hex digits of :attr:`parts`."""
        return digest_of(self.parts)[:32]


class CacheInfo(Record):
    """How much a cache holds, for all machines that share it."""

    num_entries: NonNegativeInt
    num_bytes: NonNegativeInt
    folder: Path


def cost_key(
    candidate: Candidate,
    signature: TaskSignature,
    target: Target,
    *,
    reference: Candidate,
    pinned_input: tuple[int, int, int],
    settings: str,
) -> CostKey:
    """Make the key of a measurement on this machine.

    Args:
        candidate: Without learned selectors: their costs depend on what they learned.
        signature: Of the task that the network is built for.
        target: One that this machine serves.
        reference: The network that the candidate is timed in pairs with.
        pinned_input: Channels, height and width of the study's first target's input.
        settings: Precision of the measurement, and what else was measured; compared as text.

    Raises:
        CatalogueError: If an upsampler cannot be loaded.
    """
    return CostKey(
        machine=machine_fingerprint(target),
        candidate_digest=candidate_digest(candidate),
        candidate=candidate,
        signature=signature,
        target=target,
        reference=candidate_digest(reference),
        pinned_input=pinned_input,
        settings=settings,
    )


def rebased(costs: Costs, reference_ms: float) -> Costs:
    """Return costs with the latency in terms of another time of the reference.

    Samples and ratios stay: the ratio to the reference is what carries over from one study to
    the next, and ``median_ms`` becomes that ratio times the new time.

    Args:
        costs: Costs without a latency come back as they are.
        reference_ms: The reference's own time on the target in the present study, positive.
    """
    if costs.latency is None:
        return costs
    changed = costs.latency.model_dump() | {"reference_ms": reference_ms}
    return costs.model_copy(update={"latency": Latency.model_validate(changed)})


class CostCache:
    """Finds and keeps costs; any number of processes may share a folder.

    Can be pickled. Each file that is ignored and the first failure to write are logged once.

    Args:
        folder: None means ``$UPNAS_CACHE``, else ``upnas`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = (_default_folder() if folder is None else folder).absolute()
        self._warned: set[Path] = set()

    def get(self, key: CostKey) -> Costs | None:
        """Return what was kept under a key, with the name of the key's target; None for nothing.

        A file that is torn, damaged, of another version, a link, or under another's name is
        ignored with a warning, and left alone.
        """
        path = self._path(key)
        try:
            costs = costs_in(read_file(path), key.parts)
            return costs.model_copy(update={"target": key.target.name})
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        except UnusableEntryError as error:
            reason = str(error)
        self._warn(
            path,
            f"Cost cache: {path} is ignored: {reason}. The costs are measured anew; delete the "
            "file if this comes again.",
        )
        return None

    def put(self, key: CostKey, costs: Costs) -> None:
        """Keep costs under a key, in place of what was there.

        Costs that are not to be trusted (not measured, unsteady, of another machine) are passed
        over. A full disk or a folder that cannot be written is a warning.
        """
        if not _is_worth_keeping(key, costs):
            return
        # For people: the key has the digest only.
        content = entry_of(key.parts, costs, machine_parts=describe_fingerprint(key.target))
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, content)
        except OSError as error:
            self._warn(
                self.folder,
                f"Cost cache: {path} cannot be written: {error.strerror}. Costs are measured "
                "again next time; free space, or set UPNAS_CACHE to a folder that can be written.",
            )

    def describe(self) -> CacheInfo:
        """Count the entries of all machines.

        Raises:
            CacheError: If the folder cannot be read.
        """
        sizes = []
        try:
            for path in self._files():
                if path.suffix == ".json":
                    with suppress(FileNotFoundError):  # somebody clears it
                        sizes.append(path.lstat().st_size)
        except OSError as error:
            raise self._error("read", error) from error
        return CacheInfo(num_entries=len(sizes), num_bytes=sum(sizes), folder=self.folder)

    def clear(self) -> int:
        """Delete all entries, and what killed writers left; return the number of entries.

        Files that the cache did not name are left alone, and links are not followed.

        Raises:
            CacheError: If a file cannot be deleted.
        """
        num_entries = 0
        try:
            for path in list(self._files()):
                path.unlink(missing_ok=True)
                num_entries += path.suffix == ".json"
        except OSError as error:
            raise self._error("cleared", error) from error
        return num_entries

    def _path(self, key: CostKey) -> Path:
        return self.folder / "costs" / key.machine / f"{key.digest}.json"

    def _files(self) -> Iterator[Path]:
        """Entries and temporary files."""
        costs = self.folder / "costs"
        for machine in costs.iterdir() if costs.is_dir() else ():
            if re.fullmatch(r"[0-9a-f]+", machine.name) and stat.S_ISDIR(machine.lstat().st_mode):
                for path in machine.iterdir():
                    if re.fullmatch(r"[0-9a-f]{32}\.(json|tmp)", path.name):
                        yield path

    def _warn(self, about: Path, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            logger.warning(message)

    def _error(self, what: str, error: OSError) -> CacheError:
        return CacheError(
            f"{error.filename or self.folder}: the cost cache cannot be {what}: {error.strerror}. "
            "Change the permissions, or set UPNAS_CACHE to a folder of your own."
        )


def _default_folder() -> Path:
    if chosen := os.environ.get("UPNAS_CACHE"):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # also where it is unset; the specification ignores relative ones
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # a container's user without a home
            base = Path(tempfile.gettempdir()) / f"upnas-{os.getuid()}"
    return base / "upnas"


def _is_worth_keeping(key: CostKey, costs: Costs) -> bool:
    is_measured = costs.latency is not None and costs.predicted is None and costs.unserved is None
    is_steady = costs.latency is not None and costs.latency.unsteady is None
    return is_measured and is_steady and costs.machine in ("", key.machine)
