"""YAML text -> plain values with the place of every key and value.

The text is composed into ruamel's node graph and the values are made here from its mappings,
sequences and scalars alone, so a file cannot name a Python object, repeat a key or contain itself.
Sequences become tuples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from upnas.errors import SpaceError
from upnas.space.source import Mark, Mistake, Source, YamlPath

# Far above any search space, far below what nested aliases can expand to.
MAX_VALUES: Final = 20_000
_TAG: Final = "tag:yaml.org,2002:"


def read_source(path: Path, name: str | None = None) -> Source:
    """Read a YAML file.

    Args:
        path: The file.
        name: What messages call it; by default the path.

    Raises:
        SpaceError: If the file is not UTF-8 or not a YAML mapping, repeats a key, or uses tags.
    """
    name = str(path) if name is None else name
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        byte = error.object[error.start]
        raise SpaceError(
            f"{name}:{line}: byte 0x{byte:02x} is not UTF-8 text. Save the file as UTF-8."
        ) from None
    return parse_source(text, name)


def parse_source(text: str, name: str) -> Source:
    """Parse YAML text; see :func:`read_source`."""
    try:
        node = YAML(typ="safe", pure=True).compose(text)
        if node is None:
            raise SpaceError(
                f"{name}:1: the file is empty. A search space needs task, model and stages."
            )
        if not isinstance(node, MappingNode):
            raise SpaceError(
                f"{name}:{node.start_mark.line + 1}: the top level is {_kind(node)}; a search "
                f"space is a mapping with the keys task, model and stages."
            )
        reader = _Reader()
        data = reader.mapping(node, ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        context = f" {error.context}" if error.context else ""
        raise SpaceError(f"{name}:{line}: not valid YAML{context}: {error.problem}.") from None
    except YAMLError as error:
        reason = str(error).splitlines()[0]
        raise SpaceError(f"{name}: not valid YAML: {reason}.") from None
    except RecursionError:
        raise SpaceError(f"{name}: not valid here: values are nested too deeply.") from None
    source = Source(name, data, reader.values, reader.keys)
    if reader.mistakes:
        raise source.error(reader.mistakes)
    return source


def _kind(node: Node) -> str:
    return "a list" if isinstance(node, SequenceNode) else f"{node.value!r}"


def _mark(node: Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


class _Reader:
    """Makes values from nodes and remembers where each stood."""

    def __init__(self) -> None:
        self.values: dict[YamlPath, Mark] = {}
        self.keys: dict[YamlPath, Mark] = {}
        self.mistakes: list[Mistake] = []
        self._scalars = YAML(typ="safe", pure=True).constructor
        self._open: list[Node] = []  # the nodes being read, outermost first

    def value(self, node: Node, path: YamlPath) -> Any:
        # ruamel places the absent value of `key:` behind what follows it.
        is_absent = isinstance(node, ScalarNode) and node.value == "" and node.style is None
        self.values[path] = self.keys.get(path, _mark(node)) if is_absent else _mark(node)
        if node in self._open or len(self.values) > MAX_VALUES:
            reason = "contains itself" if node in self._open else "is too large"
            raise MarkedYAMLError(problem=f"the value {reason}", problem_mark=node.start_mark)
        self._open.append(node)
        try:
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return self.mapping(node, path)
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return tuple(self.value(n, (*path, i)) for i, n in enumerate(node.value))
            if isinstance(node, ScalarNode):
                return self.scalar(node, path)
            return self._refuse_tag(node, path)
        finally:
            self._open.pop()

    def scalar(self, node: ScalarNode, path: YamlPath) -> Any:
        try:
            match str(node.tag).removeprefix(_TAG):
                case "str" | "timestamp":
                    return node.value
                case "null":
                    return None
                case "bool":
                    return self._scalars.construct_yaml_bool(node)
                case "int":
                    return self._scalars.construct_yaml_int(node)
                case "float":
                    return float(self._scalars.construct_yaml_float(node))
        except (ValueError, KeyError):  # an explicit tag that does not fit: !!int many
            pass
        return self._refuse_tag(node, path)

    def mapping(self, node: MappingNode, path: YamlPath) -> dict[str | int, Any]:
        """The entries of a mapping; its own keys win over merged ones (``<<: *anchor``)."""
        merges = [entry for entry in node.value if entry[0].tag == _TAG + "merge"]
        for key_node, _ in merges[1:]:
            self._repeated(key_node, (*path, "<<"), _mark(merges[0][0]))
        merged = self._merged(merges[0][1], path) if merges else {}
        own: dict[str | int, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            place = (*path, key)
            if key in own:
                self._repeated(key_node, place, self.keys[place])
                continue
            if key in merged:
                self._forget(place)
            self.keys[place] = _mark(key_node)
            own[key] = self.value(value_node, place)
        return {**merged, **own}

    def _repeated(self, key: Node, path: YamlPath, first: Mark) -> None:
        text = f"the key is written twice, first in line {first.line}; keep one of the two."
        self.mistakes.append(Mistake(path, text, mark=_mark(key)))

    def _key(self, node: Node, path: YamlPath) -> str | int | None:
        key = self.scalar(node, path) if isinstance(node, ScalarNode) else None
        if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
            return key
        text = repr(node.value) if isinstance(node, ScalarNode) else "a list or mapping"
        self.mistakes.append(
            Mistake(path, f"{text} cannot be a key; keys are words or numbers.", mark=_mark(node))
        )
        return None

    def _merged(self, node: Node, path: YamlPath) -> dict[str | int, Any]:
        parts = node.value if isinstance(node, SequenceNode) else [node]
        entries: dict[str | int, Any] = {}
        for part in reversed(parts):  # the first mapping of a list wins
            if not isinstance(part, MappingNode) or part in self._open:
                raise MarkedYAMLError(
                    problem="'<<' merges another mapping: write <<: *anchor",
                    problem_mark=part.start_mark,
                )
            self._open.append(part)
            entries.update(self.mapping(part, path))
            self._open.pop()
        return entries

    def _forget(self, place: YamlPath) -> None:
        """Drop the places of a merged value that an own key replaces."""
        for places in (self.values, self.keys):
            for path in [p for p in places if p[: len(place)] == place]:
                del places[path]

    def _refuse_tag(self, node: Node, path: YamlPath) -> None:
        self.mistakes.append(
            Mistake(
                path,
                f"the tag {str(node.tag).replace(_TAG, '!!')!r} is not allowed; "
                f"write plain words, numbers, lists and mappings.",
                mark=_mark(node),
            )
        )
