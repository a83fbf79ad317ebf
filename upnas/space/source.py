"""Values with the place of each in its file, and the one way to say that something is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from upnas.errors import SpaceError

YamlPath = tuple[str | int, ...]

MAX_MISTAKES: Final = 10


class Mark(NamedTuple):
    """A place in the file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong.

    Attributes:
        path: YAML path of the value, or of the key that is missing.
        text: What is wrong and what is allowed.
        at_key: The mistake is the key, not its value.
        mark: The place, where the path does not give it (a repeated key).
    """

    path: YamlPath
    text: str
    at_key: bool = False
    mark: Mark | None = None


@dataclass(frozen=True)
class Source:
    """The values of a YAML file and where they stand.

    Attributes:
        name: What messages call the file.
        data: The top-level mapping; sequences are tuples.
        values: Path -> place of the value.
        keys: Path -> place of the key, for entries of mappings.
        overridden: Paths whose value came from outside the file.
    """

    name: str
    data: Mapping[str | int, Any]
    values: Mapping[YamlPath, Mark] = field(default_factory=dict)
    keys: Mapping[YamlPath, Mark] = field(default_factory=dict)
    overridden: frozenset[YamlPath] = frozenset()

    def show(self, path: YamlPath) -> str:
        """Write a path as in ``stages.default.upsampler[3]``."""
        text, value = "", self.data
        for part in path:
            is_index = isinstance(value, tuple)
            text += f"[{part}]" if is_index else f".{part}" if text else f"{part}"
            value = child(value, part)
        return text

    def mark(self, mistake: Mistake) -> Mark:
        """The place of a mistake; for a missing key the place of what should hold it."""
        if mistake.mark is not None:
            return mistake.mark
        order = (self.keys, self.values) if mistake.at_key else (self.values, self.keys)
        for places in order:
            if mistake.path in places:
                return places[mistake.path]
        for length in range(len(mistake.path) - 1, 0, -1):
            if mistake.path[:length] in self.keys:
                return self.keys[mistake.path[:length]]
        return Mark(1, 1)

    def error(self, mistakes: Sequence[Mistake]) -> SpaceError:
        """One exception for several mistakes: a line each, in the order of the file."""
        ordered = sorted(dict.fromkeys(mistakes), key=self.mark)
        lines = [self._line(mistake) for mistake in ordered[:MAX_MISTAKES]]
        if len(ordered) > MAX_MISTAKES:
            lines.append(f"{self.name}: and {len(ordered) - MAX_MISTAKES} more mistakes.")
        return SpaceError("\n".join(lines))

    def _line(self, mistake: Mistake) -> str:
        path = self.show(mistake.path)
        if any(mistake.path[: len(start)] == start for start in self.overridden):
            return f"{self.name}: override {path}: {mistake.text}"
        where = f"{self.name}:{self.mark(mistake).line}"
        return f"{where}: {path}: {mistake.text}" if path else f"{where}: {mistake.text}"

    def override(self, overrides: Mapping[str, Any]) -> Source:
        """Replace values by dotted path (``search.trials``, ``stages.3.upsampler``).

        Raises:
            SpaceError: If a path leads through something that is no mapping or list.
        """
        data: Any = self.data
        paths = set(self.overridden)
        for dotted, value in overrides.items():
            path = tuple(int(part) if part.isdecimal() else part for part in dotted.split("."))
            try:
                data = _replaced(data, path, plain(value))
            except LookupError as error:
                raise SpaceError(
                    f"{self.name}: override {dotted}: {error.args[0]!r} is not a part of a "
                    f"mapping or list; write a path such as 'search.trials'."
                ) from None
            paths.add(path)
        return replace(self, data=data, overridden=frozenset(paths))


def child(value: Any, part: str | int) -> Any:
    """The entry of a mapping or tuple, or None where there is none."""
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, tuple) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def value_at(data: Any, path: YamlPath) -> Any:
    """The value at a path, or None where there is none."""
    for part in path:
        data = child(data, part)
    return data


def plain(value: Any) -> Any:
    """Copy JSON-like values with every list as a tuple."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(entry) for entry in value)
    return value


def _replaced(value: Any, path: YamlPath, new: Any) -> Any:
    if not path:
        return new
    part, rest = path[0], path[1:]
    if value is None or isinstance(value, Mapping):
        return {**(value or {}), part: _replaced(child(value, part), rest, new)}
    if isinstance(value, tuple) and isinstance(part, int) and part < len(value):
        return (*value[:part], _replaced(value[part], rest, new), *value[part + 1 :])
    raise LookupError(part)
