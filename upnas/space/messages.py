"""Errors of pydantic in the words of the YAML.

What is allowed at a place is read from the JSON schema of the model that refused it, so a bound or
a choice is written once, in the model, and every message knows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from upnas.errors import suggest_name
from upnas.space.source import Mistake, YamlPath, child, value_at

Schema = Mapping[str, Any]

_SCALARS = {"integer": "a whole number", "number": "a number", "string": "a word"}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "greater than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "pattern": "matching {}",
}


def show_value(value: Any) -> str:
    """Write a value as the YAML would."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show_value, value))}]"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, value))}" if value else "{}"
    return repr(value)


def unknown(what: str, value: Any, known: Iterable[str]) -> str:
    """The text of a mistake in a name: the value, the nearest known word, everything allowed."""
    known = [str(name) for name in known]
    allowed = ", ".join(known) or "none"
    return (
        f"unknown {what} {show_value(value)}.{suggest_name(str(value), known)} Allowed: {allowed}."
    )


def mistakes_of(error: ValidationError, kind: Any, data: Any, base: YamlPath = ()) -> list[Mistake]:
    """Translate a failed validation.

    Args:
        error: From validating ``data`` as ``kind``.
        kind: The model or annotation.
        data: What was validated.
        base: YAML path of ``data``.
    """
    found: dict[YamlPath, Mistake] = {}
    for item in error.errors(include_url=False):
        path = _data_path(item, data)
        found.setdefault(path, _mistake(item, path, _schema_of(kind), data))
    # A value that fits no branch of a union is reported once, where the deepest branch failed.
    deepest = [
        mistake
        for path, mistake in found.items()
        if not any(other != path and other[: len(path)] == path for other in found)
    ]
    return [
        Mistake((*base, *mistake.path), mistake.text, at_key=mistake.at_key) for mistake in deepest
    ]


@cache
def _schema_of(kind: Any) -> Schema:
    return TypeAdapter(kind).json_schema()


def _data_path(item: ErrorDetails, data: Any) -> YamlPath:
    """The location without the names of union branches, which are no keys of the data."""
    path: YamlPath = ()
    for i, part in enumerate(item["loc"]):
        is_last = i == len(item["loc"]) - 1
        is_missing = item["type"] == "missing" and is_last and isinstance(part, str)
        exists = part in data if isinstance(data, Mapping) else _has_index(data, part)
        if exists or is_missing:
            path = (*path, part)
            data = child(data, part)
    if item["type"].startswith("union_tag"):
        path = (*path, item["ctx"]["discriminator"].strip("'"))
    return path


def _has_index(data: Any, part: str | int) -> bool:
    return isinstance(data, tuple) and isinstance(part, int) and part < len(data)


def _mistake(item: ErrorDetails, path: YamlPath, root: Schema, data: Any) -> Mistake:
    if "[key]" in item["loc"]:
        words = "default, or the number of a stage (1 = deepest)"
        key = item["input"]
        return Mistake(path, f"got {show_value(key)}.{_hint(key, words)} Allowed: {words}.", True)
    match item["type"]:
        case "extra_forbidden" | "invalid_key":
            keys = _keys(_at(root, path[:-1], data), root, value_at(data, path[:-1]))
            return Mistake(path, unknown("key", path[-1], keys), at_key=True)
        case "value_error" | "assertion_error":
            return Mistake(path, str(item["ctx"]["error"]))
        case "union_tag_invalid":
            tags = [tag.strip() for tag in item["ctx"]["expected_tags"].split(",")]
            return Mistake(path, unknown("value", item["ctx"]["tag"], [t.strip("'") for t in tags]))
        case "union_tag_not_found":
            tags = list(_at(root, path[:-1], data)["discriminator"]["mapping"])
            return Mistake(path, f"missing. Allowed: {', '.join(tags)}.")
    allowed = _allowed(_at(root, path, data), root)
    if item["type"] == "missing" and path[-1:] == item["loc"][-1:]:
        return Mistake(path, f"missing. Allowed: {allowed}.")
    value = item["input"]
    return Mistake(path, f"got {show_value(value)}.{_hint(value, allowed)} Allowed: {allowed}.")


def _hint(value: Any, allowed: str) -> str:
    if not isinstance(value, str):
        return ""
    return " Remove the quotes." if value.isdigit() else suggest_name(value, allowed.split(", "))


def _at(root: Schema, path: YamlPath, data: Any) -> Schema:
    """The schema of the value at a path."""
    schema: Schema = root
    for part in path:
        schema = _step(schema, part, data, root) or {}
        data = child(data, part)
    return _resolved(schema, root)


def _resolved(schema: Schema, root: Schema) -> Schema:
    if "$ref" in schema:
        definition = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        return {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _step(schema: Schema, part: str | int, data: Any, root: Schema) -> Schema | None:
    schema = _resolved(schema, root)
    if part in schema.get("properties", {}):
        return schema["properties"][part]  # type: ignore[no-any-return]
    if isinstance(part, int) and part < len(schema.get("prefixItems", ())):
        return schema["prefixItems"][part]  # type: ignore[no-any-return]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            return schema[key]  # type: ignore[no-any-return]
    for branch in _branches(schema, data):
        step = _step(branch, part, data, root)
        if step is not None:
            return step
    return None


def _branches(schema: Schema, data: Any) -> list[Schema]:
    """The branches of a union; only the one that the data asks for, where it says so."""
    discriminator = schema.get("discriminator")
    if discriminator and isinstance(data, Mapping):
        tag = data.get(discriminator["propertyName"])
        if tag in discriminator["mapping"]:
            return [{"$ref": discriminator["mapping"][tag]}]
    return [*schema.get("anyOf", ()), *schema.get("oneOf", ())]


def _keys(schema: Schema, root: Schema, data: Any = None) -> list[str]:
    """The keys that a mapping may have."""
    schema = _resolved(schema, root)
    branches = [key for branch in _branches(schema, data) for key in _keys(branch, root, data)]
    return [*schema.get("properties", {}), *branches]


def _allowed(schema: Schema, root: Schema) -> str:
    """Say in words what a schema allows."""
    schema = _resolved(schema, root)
    if "enum" in schema:
        return ", ".join(show_value(value).strip("'") for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "discriminator" in schema:
        tags = " or ".join(schema["discriminator"]["mapping"])
        return f"a mapping with the key {schema['discriminator']['propertyName']}: {tags}"
    branches = [b for b in schema.get("anyOf", ()) if b.get("type") != "null"]
    if branches:
        return " or ".join(dict.fromkeys(_allowed(branch, root) for branch in branches))
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "array":
            return _allowed_list(schema, root)
        case "object":
            keys = ", ".join(_keys(schema, root))
            return f"a mapping with the keys {keys}" if keys else "a mapping"
    text = _SCALARS.get(schema.get("type", ""), "any value")
    bounds = [words.format(schema[key]) for key, words in _BOUNDS.items() if key in schema]
    return ", ".join([text, *bounds])


def _allowed_list(schema: Schema, root: Schema) -> str:
    if "prefixItems" in schema:
        items = [_allowed(item, root) for item in schema["prefixItems"]]
        if len(set(items)) == 1:
            return f"a list of {len(items)}, each {items[0]}"
        return f"a list of {len(items)}: {'; '.join(items)}"
    least = schema.get("minItems", 0)
    size = "" if not least else f" of at least {least}"
    return f"a list{size}, each {_allowed(schema.get('items', {}), root)}"
