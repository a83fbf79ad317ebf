from __future__ import annotations

from typing import Any

import pydantic
import pytest

from upnas.upsamplers import (
    UPSAMPLERS,
    Carafe,
    CatalogueError,
    Nearest,
    build_upsampler,
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
    kind = UPSAMPLERS[name]
    defaults = dict(parameters_model(name)())
    assert isinstance(build_upsampler(name, 8, spatial_dims=min(kind.dims), **defaults), kind)


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


def test_the_place_in_the_network_is_no_parameter() -> None:
    for name in UPSAMPLERS:
        structural = {"scale_factor", "spatial_dims", "guide_channels"}
        assert not structural & set(parameters_model(name).model_fields)
    with pytest.raises(ValueError, match="not defined for 3-D features"):
        build_upsampler("carafe", 8, spatial_dims=3)


def test_yaml_lists_become_tuples() -> None:
    assert dict(parameters_model("selector")(arms=["nearest"]))["arms"] == ("nearest",)
