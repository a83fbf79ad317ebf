"""Differences between two spaces and whether a study survives them."""

from __future__ import annotations

from typing import Any

import pytest

from upnas.space import Difference, difference, space_from_config

BASE: dict[str, Any] = {
    "name": "one",
    "task": {"type": "super_resolution"},
    "model": {"decoder": "sr"},
    "stages": {"default": {"upsampler": ["nearest", "bilinear"]}},
    "search": {"trials": 10, "seeds": 2, "rungs": [1, 2]},
}


def changed(section: str, **values: Any) -> list[Difference]:
    new = {**BASE, section: {**BASE.get(section, {}), **values}}
    return difference(space_from_config(BASE).to_config(), space_from_config(new).to_config())


def test_equal_spaces_do_not_differ() -> None:
    assert changed("search") == []


def test_written_default_is_no_difference() -> None:
    assert changed("training", batch=8) == []


@pytest.mark.parametrize(
    ("section", "values", "compatible"),
    [
        ("search", {"trials": 11}, True),
        ("search", {"trials": 9}, False),
        ("search", {"seeds": 3}, True),
        ("search", {"seeds": 1}, False),
        ("search", {"concurrency": 4}, True),
        ("search", {"cpus_per_trial": 2}, True),
        ("search", {"gpus_per_trial": 0.5}, True),
        ("search", {"max_retries": 9}, True),
        ("search", {"rungs": [1, 3]}, False),
        ("search", {"sampler": "random"}, False),
        ("search", {"seed": 1}, False),
        ("training", {"learning_rate": 0.1}, False),
        ("task", {"scale": 4}, False),
        ("model", {"channels": 16}, False),
        ("stages", {"1": {"upsampler": "nearest"}}, False),
        ("constraints", {"latency_ms": {"max": 3}}, False),
    ],
)
def test_what_a_resumed_study_may_change(
    section: str, values: dict[str, Any], compatible: bool
) -> None:
    found = changed(section, **values)
    assert found
    assert all(one.compatible for one in found) is compatible


def test_path_and_values() -> None:
    assert changed("search", trials=12) == [Difference("search.trials", 10, 12, True)]


@pytest.mark.parametrize(
    "update",
    [
        {"objectives": [{"metric": "psnr"}]},
        {"targets": [{"name": "phone"}]},
        {"targets": [{"name": "laptop", "input": [3, 64, 64]}]},
    ],
)
def test_goals_may_not_change(update: dict[str, Any]) -> None:
    old, new = space_from_config(BASE), space_from_config({**BASE, **update})
    (found,) = difference(old.to_config(), new.to_config())
    assert not found.compatible


def test_name_may_change() -> None:
    new = space_from_config({**BASE, "name": "two"}).to_config()
    found = difference(space_from_config(BASE).to_config(), new)
    assert found == [Difference("name", "one", "two", True)]


def test_removed_value_is_a_difference() -> None:
    old = space_from_config({**BASE, "constraints": {"exportable": "onnx"}}).to_config()
    found = difference(old, space_from_config(BASE).to_config())
    assert found == [Difference("constraints.exportable", "onnx", None, False)]
