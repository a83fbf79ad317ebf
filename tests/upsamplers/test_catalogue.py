from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pydantic
import pytest

import upnas.upsamplers
from upnas.upsamplers import (
    UPSAMPLERS,
    Carafe,
    CatalogueError,
    DySample,
    Nearest,
    build_upsampler,
    catalogue,
    find_upsampler,
    parameters_model,
)


def test_builds_by_name() -> None:
    upsampler = build_upsampler("carafe", 8, scale_factor=3, compressed_channels=16, kernel_size=3)
    assert isinstance(upsampler, Carafe)
    assert (upsampler.channels, upsampler.out_channels, upsampler.scale_factor) == (8, 8, 3)
    assert upsampler.compress.out_channels == 16
    assert upsampler.encode.out_channels == 81


def test_the_catalogue_is_read_only() -> None:
    with pytest.raises(TypeError):
        UPSAMPLERS["mine"] = Nearest  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(UPSAMPLERS))
def test_defaults_are_valid_and_reach_the_class(name: str) -> None:
    defaults = dict(parameters_model(name)())
    assert isinstance(build_upsampler(name, 8, **defaults), UPSAMPLERS[name])


@pytest.mark.parametrize("name", sorted(UPSAMPLERS))
def test_every_class_documents_its_parameters(name: str) -> None:
    documentation = UPSAMPLERS[name].__doc__ or ""
    assert "Shape:" in documentation
    for parameter in parameters_model(name).model_fields:
        assert f"\n        {parameter}: " in documentation


def test_parameters_come_from_the_signature() -> None:
    fields = parameters_model("dysample").model_fields
    assert {name: field.default for name, field in fields.items()} == {
        "style": "lp",
        "groups": 4,
        "dynamic_scope": False,
    }
    assert not parameters_model("nearest").model_fields


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("transposed", {"kernel_size": "4"}),
        ("transposed", {"kernel_size": 3}),
        ("transposed", {"kernel_size": True}),
        ("carafe", {"compressed_channels": 0}),
        ("carafe", {"compressed_channels": "64"}),
        ("carafe", {"compressed_channels": 64.0}),
        ("dysample", {"dynamic_scope": 1}),
        ("selector", {"arms": []}),
        ("selector", {"arms": [1]}),
        ("selector", {"temperature": 0}),
        ("nearest", {"anything": 1}),
    ],
)
def test_wrong_values_are_refused(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        parameters_model(name)(**parameters)
    with pytest.raises(CatalogueError, match=f"Upsampler '{name}': .*{next(iter(parameters))}"):
        build_upsampler(name, 8, **parameters)


def test_messages_say_what_is_allowed() -> None:
    with pytest.raises(CatalogueError, match=r"kernel_size=3: Input should be 2 or 4"):
        build_upsampler("transposed", 8, kernel_size=3)
    with pytest.raises(CatalogueError, match=r"unknown parameter 'group'. Did you mean 'groups'\?"):
        build_upsampler("dysample", 8, group=2)
    with pytest.raises(CatalogueError, match=r"'karafe'. Did you mean 'carafe'\? Available: adapt"):
        build_upsampler("karafe", 8)
    with pytest.raises(CatalogueError, match="Unknown upsampler"):
        parameters_model("karafe")


def test_yaml_lists_become_tuples() -> None:
    assert dict(parameters_model("selector")(arms=["nearest"]))["arms"] == ("nearest",)


@pytest.fixture
def third_parties(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    entries: list[EntryPoint] = []
    monkeypatch.setattr(upnas.upsamplers, "entry_points", lambda group: entries)
    catalogue.cache_clear()
    yield entries
    catalogue.cache_clear()


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group="upnas.upsamplers")


def test_third_parties_join_by_entry_point(third_parties: list[EntryPoint]) -> None:
    third_parties.append(entry("mine", "upnas.upsamplers.dysample:DySample"))
    assert find_upsampler("mine") is DySample
    assert set(catalogue()) == {*UPSAMPLERS, "mine"}


def test_third_parties_cannot_take_a_name(third_parties: list[EntryPoint]) -> None:
    third_parties.append(entry("carafe", "upnas.upsamplers.dysample:DySample"))
    with pytest.raises(CatalogueError, match=r"'carafe' = .*taken by upnas\.upsamplers\.carafe"):
        catalogue()


def test_third_parties_must_give_an_upsampler(third_parties: list[EntryPoint]) -> None:
    third_parties.append(entry("mine", "collections:OrderedDict"))
    with pytest.raises(CatalogueError, match=r"'mine' .* not a subclass"):
        catalogue()
