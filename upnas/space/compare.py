"""What changed between two search spaces, and whether a study can be resumed across it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

# Neither changes what a trial is, nor what it can be compared with.
_FREE: Final = frozenset(
    {
        "name",
        "search.concurrency",
        "search.cpus_per_trial",
        "search.gpus_per_trial",
        "search.max_retries",
        "search.predict_costs",
    }
)
_MAY_GROW: Final = frozenset({"search.trials", "search.seeds"})


class Difference(NamedTuple):
    """One value that differs between two spaces.

    Attributes:
        path: Dotted YAML path.
        old: Its value; None where there was none.
        new: Its value; None where there is none.
        compatible: Whether the trials of the old space stay valid under the new one.
    """

    path: str
    old: Any
    new: Any
    compatible: bool


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Compare two results of :meth:`SearchSpace.to_config`, in the order of the new one."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    paths = [*after, *(path for path in before if path not in after)]
    return [
        Difference(path, before.get(path), after.get(path), _is_compatible(path, before, after))
        for path in paths
        if before.get(path) != after.get(path)
    ]


def _is_compatible(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    if path in _MAY_GROW:
        return bool(after[path] > before[path])
    return path in _FREE


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Entries that are no mappings, by dotted path; lists are compared as a whole."""
    for key, entry in value.items():
        path = f"{prefix}{key}"
        if isinstance(entry, Mapping):
            yield from _leaves(entry, f"{path}.")
        else:
            yield path, entry
