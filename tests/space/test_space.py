"""Candidates of a search space: enumeration, choices by name and their inverse."""

from __future__ import annotations

import itertools
import math
import pickle
import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upnas.errors import SpaceError
from upnas.records import Candidate, ModelSpec, StageChoice, Value
from upnas.space import SearchSpace, space_from_config
from upnas.space.choices import default_choice

# Upsampler -> parameters that may be searched, with their possible values.
PARAMETERS: dict[str, dict[str, list[Value]]] = {
    "nearest": {},
    "bilinear": {"align_corners": [False, True]},
    "transposed": {"kernel_size": [2, 4], "init": ["tied", "default"]},
    "carafe": {"compressed_channels": [8, 16, 32], "kernel_size": [3, 5]},
    "selector": {"arms": [("bilinear", "transposed"), ("nearest", "bilinear"), ("nearest",)]},
}


@st.composite
def entries(draw: st.DrawFn) -> dict[str, object]:
    """One entry of `stages`: some upsamplers with some of their parameters."""
    names = draw(st.lists(st.sampled_from(list(PARAMETERS)), min_size=1, max_size=3, unique=True))
    entry: dict[str, object] = {"upsampler": names}
    for name in names:
        searched = {
            parameter: draw(st.lists(st.sampled_from(values), min_size=1, unique=True))
            for parameter, values in PARAMETERS[name].items()
            if draw(st.booleans())
        }
        if searched:
            entry[name] = searched
    return entry


def make_space(stages: list[dict[str, object]]) -> SearchSpace:
    return space_from_config(
        {
            "name": "drawn",
            "task": {"type": "super_resolution", "scale": 4},
            "model": {"decoder": "sr", "channels": 8, "num_blocks": 1},
            "stages": {str(number): entry for number, entry in enumerate(stages, start=1)},
        }
    )


spaces = st.lists(entries(), min_size=2, max_size=2).map(make_space)


@cache
def fixed_space() -> SearchSpace:
    return make_space(
        [
            {"upsampler": ["nearest", "transposed"], "transposed": {"kernel_size": [2, 4]}},
            {
                "upsampler": ["selector", "bilinear"],
                "selector": {"arms": [["bilinear", "transposed"], ["nearest"]]},
            },
        ]
    )


def count(entry: dict[str, object]) -> int:
    """The options of one entry, counted from the YAML's own lists."""
    names = entry["upsampler"]
    assert isinstance(names, list)
    total = 0
    for name in names:
        parameters = entry.get(name, {})
        assert isinstance(parameters, dict)
        total += math.prod(len(values) for values in parameters.values())
    return total


@settings(max_examples=50, deadline=None)
@given(st.lists(entries(), min_size=2, max_size=2))
def test_enumeration_is_complete_and_distinct(stages: list[dict[str, object]]) -> None:
    space = make_space(stages)
    candidates = list(space.candidates())
    assert space.num_candidates == math.prod(count(entry) for entry in stages)
    assert len(candidates) == space.num_candidates
    assert len({candidate.key for candidate in candidates}) == len(candidates)


@settings(max_examples=50, deadline=None)
@given(spaces, st.randoms(use_true_random=False))
def test_parameters_and_choose_are_inverse(space: SearchSpace, rng: random.Random) -> None:
    candidate = space.random_candidate(rng)
    assert space.contains(candidate)
    parameters = space.parameters(candidate)
    asked: dict[str, tuple[Value, ...]] = {}

    def suggest(name: str, values: tuple[Value, ...]) -> Value:
        asked[name] = values
        return parameters[name]

    assert space.choose(suggest) == candidate
    assert asked.keys() == parameters.keys()
    assert all(len(set(values)) > 1 for values in asked.values())
    assert all(isinstance(v, str | int | float | bool) for vs in asked.values() for v in vs)


@settings(max_examples=50, deadline=None)
@given(spaces)
def test_config_is_read_back_as_an_equal_space(space: SearchSpace) -> None:
    copy = space_from_config(space.to_config())
    assert copy == space
    assert copy.to_config() == space.to_config()
    first = [c.key for c in itertools.islice(copy.candidates(), 20)]
    assert first == [c.key for c in itertools.islice(space.candidates(), 20)]


def test_names_and_values_of_choices() -> None:
    asked: dict[str, tuple[Value, ...]] = {}

    def last(name: str, values: tuple[Value, ...]) -> Value:
        asked[name] = values
        return values[-1] if name == "stage1.upsampler" else values[0]

    candidate = fixed_space().choose(last)
    assert asked == {
        "stage1.upsampler": ("nearest", "transposed"),
        "stage1.transposed.kernel_size": (2, 4),
        "stage2.upsampler": ("selector", "bilinear"),
        "stage2.selector.arms": ("bilinear+transposed", "nearest"),
    }
    assert candidate.stages == (
        StageChoice(
            upsampler="transposed",
            parameters=dict(default_choice("transposed").parameters) | {"kernel_size": 2},
        ),
        StageChoice(
            upsampler="selector",
            parameters={"arms": ("bilinear", "transposed"), "temperature": 5.0},
        ),
    )


def test_enumeration_order() -> None:
    texts = [str(candidate) for candidate in fixed_space().candidates()]
    assert len(texts) == 9
    first = str(default_choice("nearest"))
    assert texts[0].startswith(f"{first} | selector(arms=bilinear+transposed")
    assert texts[1].startswith(f"{first} | selector(arms=nearest")
    assert texts[3].startswith("transposed(init=tied, kernel_size=2, ")


def test_random_candidates_reach_the_whole_space() -> None:
    rng = random.Random(0)
    drawn = {fixed_space().random_candidate(rng).key for _ in range(200)}
    assert drawn == {candidate.key for candidate in fixed_space().candidates()}


def test_candidates_are_lazy() -> None:
    every = {name: dict(parameters) for name, parameters in PARAMETERS.items() if parameters}
    entry: dict[str, object] = {"upsampler": list(PARAMETERS), **every}
    space = make_space([entry, entry])
    assert space.num_candidates == (1 + 2 + 4 + 6 + 3) ** 2
    assert next(iter(space.candidates())).stages[0].upsampler == "nearest"


@pytest.mark.parametrize("change", ["model", "parameter", "stages"])
def test_candidates_outside_the_space(change: str) -> None:
    space = fixed_space()
    inside = next(space.candidates())
    other = {
        "model": inside.model_copy(update={"model": ModelSpec(decoder="sr")}),
        "parameter": inside.model_copy(update={"stages": (StageChoice(upsampler="nearest"),) * 2}),
        "stages": inside.model_copy(update={"stages": inside.stages[:1]}),
    }[change]
    assert space.contains(inside)
    assert not space.contains(other)
    with pytest.raises(SpaceError, match="is not in the search space 'drawn'"):
        space.parameters(other)


def test_suggested_value_that_is_no_choice() -> None:
    with pytest.raises(SpaceError, match=r"stage1\.upsampler: 'carafe' .* Allowed: nearest, tran"):
        fixed_space().choose(lambda name, values: "carafe")


def test_baselines_need_not_be_in_the_space() -> None:
    space = fixed_space()
    baselines = dict(space.baselines())
    assert {name: [s.upsampler for s in c.stages] for name, c in baselines.items()} == {
        "all-bilinear": ["bilinear"] * 2,
        "all-transposed": ["transposed"] * 2,
        "resolution-rule": ["adaptive"] * 2,
    }
    assert all(candidate.model == space.model for candidate in baselines.values())
    assert not any(space.contains(candidate) for candidate in baselines.values())
    assert baselines["all-transposed"].stages[0] == default_choice("transposed")


def test_baseline_in_the_space_is_the_same_candidate() -> None:
    space = make_space([{"upsampler": ["bilinear", "nearest"]}] * 2)
    assert space.contains(dict(space.baselines())["all-bilinear"])


def test_space_travels_to_workers() -> None:
    copy: SearchSpace = pickle.loads(pickle.dumps(fixed_space()))
    assert copy == fixed_space()
    assert [c.key for c in copy.candidates()] == [c.key for c in fixed_space().candidates()]


def test_equal_candidates_of_two_spellings_have_one_key() -> None:
    short = make_space([{"upsampler": "transposed"}] * 2)
    long = make_space(
        [{"upsampler": ["transposed"], "transposed": {"init": "tied", "kernel_size": [4]}}] * 2
    )
    keys: list[list[str]] = [[c.key for c in space.candidates()] for space in (short, long)]
    assert keys[0] == keys[1]
    assert short == long


def test_recorded_space_names_its_mistakes() -> None:
    config = fixed_space().to_config()
    config["stages"]["1"]["upsampler"] = ["carefe"]
    with pytest.raises(SpaceError, match=r"study\.json:1: stages\.1\.upsampler\[0\]: .*'carafe'"):
        space_from_config(config)


def test_candidate_survives_json() -> None:
    for candidate in fixed_space().candidates():
        assert fixed_space().contains(Candidate.model_validate_json(candidate.model_dump_json()))
