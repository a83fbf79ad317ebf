"""Which modules count as the same, and which do not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from upnas.measure.export.families import family
from upnas.upsamplers import Bilinear, DySample, Nearest, Upsampler


class Holder(nn.Module):
    """Whatever attributes a module may have."""

    outer: list[nn.Module]

    def __init__(self, **attributes: Any):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


class Loud:
    def __call__(self) -> None:
        """Is something to call, as a callback would be."""


def test_other_weights_modes_and_hooks_are_the_same_family() -> None:
    one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    conv = nn.Conv2d(3, 8, 3)
    other = nn.Sequential(conv, nn.BatchNorm2d(8)).eval().requires_grad_(False)
    other.register_forward_pre_hook(lambda module, args: None)
    conv.weight.zero_()
    assert family(one) == family(other) == family(copy.deepcopy(one))
    assert hash(family(one)) == hash(family(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: Bilinear(4), lambda: Nearest(4)),
        (lambda: Bilinear(4), lambda: Bilinear(8)),
        (lambda: Bilinear(4), lambda: Bilinear(4, scale_factor=(1, 2))),
        (lambda: DySample(8, style="lp"), lambda: DySample(8, style="pl")),
        (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 8, 5)),
        (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 8, 3, bias=False)),
        (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 8, 3, padding=1)),
        (lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 8, 3, dtype=torch.float64)),
        (lambda: nn.Sequential(nn.ReLU()), lambda: nn.Sequential(nn.ReLU(), nn.ReLU())),
        (lambda: nn.Sequential(nn.ReLU()), lambda: nn.Sequential(nn.GELU())),
        (lambda: nn.Conv2d(3, 8, 3), lambda: weight_norm(nn.Conv2d(3, 8, 3))),
        (lambda: Holder(x=True), lambda: Holder(x=1)),
        (lambda: Holder(x=[1, 2]), lambda: Holder(x=[2, 1])),
        (lambda: Holder(x={"a": 1}), lambda: Holder(x={"a": 2})),
        (lambda: Holder(x=[nn.ReLU()]), lambda: Holder(x=[nn.GELU()])),
        (lambda: Holder(x=SimpleNamespace(k=1)), lambda: Holder(x=SimpleNamespace(k=2))),
        (lambda: Holder(x=torch.zeros(2)), lambda: Holder(x=torch.zeros(3))),
        (lambda: Holder(x=torch.relu), lambda: Holder(x=torch.tanh)),
    ],
)
def test_what_runs_otherwise_is_another_family(
    one: Callable[[], nn.Module], other: Callable[[], nn.Module]
) -> None:
    assert family(one()) == family(one())
    assert family(one()) != family(other())


def test_one_module_in_two_places_is_not_two_modules_of_which_one_differs() -> None:
    shared = nn.Conv2d(4, 4, 1)
    twice = nn.ModuleDict({"a": shared, "b": shared})
    assert family(twice) != family(nn.ModuleDict({"a": shared}))
    assert family(twice) == family(nn.ModuleDict({"a": shared, "b": nn.Conv2d(4, 4, 1)}))


def test_a_module_that_knows_what_it_is_part_of_has_a_family() -> None:
    def of_two() -> Holder:
        inner = Holder(outer=[])
        holder = Holder(inner=inner)
        inner.outer.append(holder)  # in a list torch does not see it
        return holder

    assert family(of_two()) == family(of_two())


def test_what_cannot_be_looked_into_is_a_family_of_its_own() -> None:
    kept = Holder(x=Loud()), Holder(x=Loud())
    assert family(kept[0]) == family(kept[0])
    assert family(kept[0]) != family(kept[1])


def test_a_network_without_its_upsamplers() -> None:
    def network(upsampler: nn.Module, enlargement: nn.Module | None, width: int = 4) -> Holder:
        return Holder(
            stage=nn.Sequential(upsampler, nn.Conv2d(4, width, 1)), enlargement=enlargement
        )

    def around(net: nn.Module) -> object:
        return family(net, without=(Upsampler,))

    bilinear = network(Bilinear(4), None)
    assert family(bilinear) != family(network(DySample(4), None))
    assert around(bilinear) == around(network(DySample(4), None))
    assert around(bilinear) == around(network(Bilinear(4), Bilinear(1)))
    assert around(bilinear) != around(network(Bilinear(4), None, width=5))


def test_calls_are_not_needed() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    family(Never())
