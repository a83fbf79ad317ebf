"""Choices are checked by the classes themselves, not only by build_upsampler."""

from __future__ import annotations

import inspect
import re
import typing
from typing import Any, Literal

import pytest
import torch

from upnas.upsamplers import UPSAMPLERS
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.functional.reassembly import reassemble, similarity

#: Every parameter of the catalogue that is one of a few words or numbers.
CHOICES = [
    (name, parameter, typing.get_args(annotation))
    for name, kind in sorted(UPSAMPLERS.items())
    for parameter, annotation in typing.get_type_hints(kind.__init__).items()
    if typing.get_origin(annotation) is Literal
]
WORDS = [choice for choice in CHOICES if isinstance(choice[2][0], str)]
NUMBERS = [choice for choice in CHOICES if isinstance(choice[2][0], int)]


def build(name: str, **parameters: Any) -> None:
    kind = UPSAMPLERS[name]
    if len(kind.dims) > 1:
        parameters["spatial_dims"] = min(kind.dims)
    kind(4, **parameters)


@pytest.mark.parametrize(("name", "parameter", "allowed"), WORDS)
def test_unknown_words_are_refused(name: str, parameter: str, allowed: tuple[str, ...]) -> None:
    owner, listed = UPSAMPLERS[name].__name__, ", ".join(map(repr, allowed))
    for wrong in ("nonsense", allowed[0].upper(), allowed[0][:-1]):
        sentence = f"{owner}: {parameter} must be one of {listed}; got {wrong!r}."
        with pytest.raises(ValueError, match=re.escape(sentence)):
            build(name, **{parameter: wrong})


@pytest.mark.parametrize(("name", "parameter", "allowed"), CHOICES)
def test_offered_choices_are_accepted(name: str, parameter: str, allowed: tuple[Any, ...]) -> None:
    for value in allowed:
        build(name, **{parameter: value})


@pytest.mark.parametrize(("name", "parameter", "allowed"), NUMBERS)
def test_even_and_odd_sides_do_not_mix(name: str, parameter: str, allowed: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=parameter):
        build(name, **{parameter: allowed[0] + 1})


def test_the_catalogue_has_choices() -> None:
    found = {(name, parameter) for name, parameter, _ in WORDS}
    assert found >= {
        ("transposed", "init"),
        ("fir", "padding"),
        ("sapa", "variant"),
        ("sapa", "padding"),
        ("fade", "padding"),
        ("fade_lite", "padding"),
        ("dysample", "style"),
        ("subpixel", "activation"),
        ("nearest_conv", "form"),
        ("separable", "form"),
        ("eucb", "form"),
        ("indexnet", "kind"),
        ("bilinear_conv1x1", "order"),
        ("nearest", "sizing"),
        ("trilinear", "sizing"),
    }
    words = {
        parameter.name
        for kind in UPSAMPLERS.values()
        for parameter in inspect.signature(kind.__init__).parameters.values()
        if isinstance(parameter.default, str)
    }
    assert words == {parameter for _, parameter in found}


def test_functions_refuse_an_unknown_padding() -> None:
    x, kernels = torch.zeros(1, 2, 3, 3), torch.zeros(1, 9, 3, 3)
    sentence = "padding must be one of 'zeros', 'replicate'; got 'replicat'"
    with pytest.raises(ValueError, match=f"reassemble: {sentence}"):
        reassemble(x, kernels, 1, "replicat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"similarity: {sentence}"):
        similarity(x, x, 3, 1, "replicat")  # type: ignore[arg-type]


@pytest.mark.parametrize("allowed", [Literal["a", "b"], ("a", "b")])
def test_check_choice(allowed: object) -> None:
    check_choice("Owner", "letter", "b", allowed)
    with pytest.raises(ValueError, match=r"^Owner: letter must be one of 'a', 'b'; got 'c'\.$"):
        check_choice("Owner", "letter", "c", allowed)
