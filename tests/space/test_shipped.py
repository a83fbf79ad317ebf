"""Every shipped search space: it loads, it is headed as promised, and its candidates are sound."""

from __future__ import annotations

import random

import pytest

from upnas.models import build_model
from upnas.space import describe, load_space, shipped_folder, shipped_spaces, space_from_config


@pytest.mark.parametrize("name", shipped_spaces())
def test_random_candidates_round_trip_and_build(name: str) -> None:
    space = load_space(name)
    assert space.name == name
    rng = random.Random(0)
    for _ in range(30):
        candidate = space.random_candidate(rng)
        parameters = space.parameters(candidate)
        assert space.choose(lambda key, _, p=parameters: p[key]) == candidate  # type: ignore[misc]
    assert build_model(candidate, space.task, load_pretrained=False) is not None


@pytest.mark.parametrize("name", shipped_spaces())
def test_recorded_space_is_the_shipped_one(name: str) -> None:
    space = load_space(name)
    assert space_from_config(space.to_config()) == space


@pytest.mark.parametrize("name", shipped_spaces())
def test_header_states_question_trials_hardware_and_minutes(name: str) -> None:
    text = (shipped_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    header = text[: text.index("\nname:")]
    assert all(line.startswith("#") or not line for line in header.splitlines())
    for word in ("Question:", "Trials:", "Hardware:", "Expected:", "minutes"):
        assert word in header
    assert str(load_space(name).search.trials) in header


def test_description_of_the_unet_space() -> None:
    space = load_space("unet")
    shown = describe(space)
    assert shown.num_candidates == space.num_candidates
    assert shown.encoder == "mobilenetv3_small_050, depth 3, from scratch"
    assert [stage.label for stage in shown.stages] == ["8->4", "4->2", "2->1"]
    assert [stage.skip_channels for stage in shown.stages] == [8, 16, 0]
    deepest = {choice.upsampler: choice for choice in shown.stages[0].choices}
    assert dict(deepest["transposed"].searched) == {"kernel_size": (2, 4)}
    assert deepest["transposed"].num_options == 2
    assert shown.stages[0].num_options == len(space.stages[0].options)
    assert shown.epochs == space.search.rungs[-1]
