"""The exceptions that upnas raises for its users.

::

    UpnasError                a message for a person; the command line prints it and exits with 2
    +-- SpaceError            a mistake in a search space (YAML): file, line, path, value, allowed
    +-- DataError             data that cannot be read or does not fit the task
    +-- StudyError            a run folder that cannot be created, read or resumed
    +-- TargetError           a target that this machine cannot serve
    |   +-- BusyDeviceError   a device that other programs use, where that was to be refused
    +-- CatalogueError        an unknown or broken upsampler (in ``upnas.upsamplers``)

Errors of a single trial are no exceptions: they become a failed ``TrialRecord`` with a reason.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UpnasError(Exception):
    """What went wrong, where, what is allowed and what to do next, in the user's words."""


class SpaceError(UpnasError):
    """A search space is wrong."""


class DataError(UpnasError):
    """Data cannot be read or does not fit the task."""


class StudyError(UpnasError):
    """A run folder cannot be created, read or resumed."""


class TargetError(UpnasError):
    """A target cannot be served by this machine."""


class BusyDeviceError(TargetError):
    """Other programs use the device, and the user asked to refuse that (``--strict``)."""


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException, most: int = 300) -> str:
    """Return ``Type: message`` on one line: what follows in torch's messages is a stack."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:most]}" if lines else type(error).__name__
