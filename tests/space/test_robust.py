"""Whatever stands in a search space, the answer is a space or a SpaceError."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from upnas.errors import SpaceError
from upnas.space import load_space, space_from_config

CONFIGS = [load_space("unet").to_config(), load_space("sr").to_config()]
CONFIGS[0]["constraints"] = {"latency_ms": {"max": 3.0}, "exportable": "onnx"}
WORDS = ["auto", "unet", "dice", "latency_ms", "transposed", "kernel_size", "1", "default", "x"]
scalars = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(WORDS)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_replaced_value(data: st.DataObject) -> None:
    config = copy.deepcopy(data.draw(st.sampled_from(CONFIGS)))
    place: Any = config
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
    place[key] = data.draw(values)
    if isinstance(place, dict) and data.draw(st.booleans()):
        place[data.draw(st.sampled_from(WORDS))] = data.draw(values)
    message = ""
    try:
        space = space_from_config(config)
        assert space_from_config(space.to_config()) == space
    except SpaceError as error:
        message = str(error)
    assert all(line.startswith("study.json:1: ") for line in message.splitlines()[:10])
