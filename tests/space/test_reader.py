"""YAML files: what is read, where it stood, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from upnas.errors import SpaceError
from upnas.space.reader import MAX_VALUES, parse_source, read_source


def message(text: str) -> str:
    with pytest.raises(SpaceError) as caught:
        parse_source(text, "my.yaml")
    return str(caught.value)


def test_values_of_yaml_1_2() -> None:
    source = parse_source("a: [1, 2.5, 3e-3, yes, true, ~, '7', 2020-01-01]\n3: {b: x}", "my.yaml")
    assert source.data == {
        "a": (1, 2.5, 0.003, "yes", True, None, "7", "2020-01-01"),
        3: {"b": "x"},
    }


def test_places_of_keys_and_values() -> None:
    source = parse_source("a:\n  - 1\n  - {b: 2}\nc:\n", "my.yaml")
    assert source.values[("a", 1, "b")] == (3, 9)
    assert source.keys[("a", 1, "b")] == (3, 6)
    assert source.keys[("a",)] == (1, 1)
    assert source.values[("c",)] == (4, 1)  # an absent value stands at its key
    assert source.show(("a", 1, "b")) == "a[1].b"


def test_number_as_key_is_not_shown_as_index() -> None:
    assert parse_source("stages: {3: {}}", "my.yaml").show(("stages", 3)) == "stages.3"


def test_anchors_and_merge_keys() -> None:
    text = "base: &base {x: 1, y: 2}\nmore: {<<: *base, y: 3}\nsame: *base\n"
    source = parse_source(text, "my.yaml")
    assert source.data["more"] == {"x": 1, "y": 3}
    assert source.data["same"] == source.data["base"]
    assert source.values[("more", "x")].line == 1
    assert source.values[("more", "y")].line == 2


def test_first_of_several_merged_mappings_wins() -> None:
    text = "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n"
    source = parse_source(text, "my.yaml")
    assert source.data["c"] == {"x": 1, "y": 2}
    assert source.values[("c", "x")].line == 1


def test_every_repeated_key_is_named_with_both_lines() -> None:
    assert message("a: 1\nb: {c: 1,\n  c: 2}\na: 3\n").splitlines() == [
        "my.yaml:3: b.c: the key is written twice, first in line 2; keep one of the two.",
        "my.yaml:4: a: the key is written twice, first in line 1; keep one of the two.",
    ]


def test_repeated_merge_key() -> None:
    text = message("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n")
    assert text == (
        "my.yaml:4: b.<<: the key is written twice, first in line 3; keep one of the two."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2\n", "my.yaml:2: not valid YAML while parsing a flow sequence: expected"),
        ("a: 1\n b: 2\n", "my.yaml:2: not valid YAML: mapping values are not allowed here."),
        ("a: *b\n", "my.yaml:1: not valid YAML: found undefined alias 'b'."),
        ("a: 1\n---\nb: 2\n", "my.yaml:2: not valid YAML expected a single document"),
        ("a: \x07\n", "my.yaml: not valid YAML: unacceptable character"),
        ("", "my.yaml:1: the file is empty. A search space needs task, model and stages."),
        ("# only words\n", "my.yaml:1: the file is empty."),
        ("- a\n- b\n", "my.yaml:1: the top level is a list; a search space is a mapping"),
        ("just words\n", "my.yaml:1: the top level is 'just words'; a search space is a mapping"),
        ("a: 1\nb: !!python/name:os.system x\n", "my.yaml:2: b: the tag '!!python/name:os.system'"),
        ("a: 1\nb: !thing {c: 1}\n", "my.yaml:2: b: the tag '!thing' is not allowed"),
        ("a: !!int many\n", "my.yaml:1: a: the tag '!!int' is not allowed"),
        ("a: 1\n[b]: 2\n", "my.yaml:2: a list or mapping cannot be a key"),
        ("a: {true: 2}\n", "my.yaml:1: a: 'true' cannot be a key; keys are words or numbers."),
        ("a: 1\nb: &b [1, *b]\n", "my.yaml:2: not valid YAML: the value contains itself."),
        ("a: &a {b: 1, <<: *a}\n", "my.yaml:1: not valid YAML: '<<' merges another mapping"),
        ("a: {<<: 3}\n", "my.yaml:1: not valid YAML: '<<' merges another mapping"),
        ("a: " + "[" * 5000, "my.yaml: not valid here: values are nested too deeply."),
    ],
)
def test_refused_text(text: str, expected: str) -> None:
    assert message(text).startswith(expected)


def test_aliases_cannot_expand_without_end() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert MAX_VALUES < 10**12
    assert "the value is too large" in message("\n".join(lines))


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes("a: 1\nb: caf\xe9\n".encode("latin-1"))
    with pytest.raises(SpaceError, match=r"my\.yaml:2: byte 0xe9 is not UTF-8 text\. Save"):
        read_source(path)


def test_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_source(path).data == {"a": 1}
