from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.errors import UpnasError
from upnas.upsamplers import (
    Adaptive,
    Bilinear,
    BilinearConv1x1,
    NearestConv,
    Selector,
    Switched,
    Transposed,
    collapse,
    pin,
    record_resolutions,
)

from .test_selector import by_side


class Decoder(nn.Module):
    """Three stages: 8 -> 16 -> 32 -> 64, a fixed one in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Adaptive(4, 6, threshold=10)
        self.rest = nn.Sequential(NearestConv(6), Selector(6, 3, arms=("transposed", "unet_block")))
        self.last = nn.ModuleDict({"up": Adaptive(3, threshold=10)})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last["up"](x=self.rest(self.first(x)))
        return y


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder()
    by_side(decoder.rest[1])  # type: ignore[arg-type]
    return decoder


def test_the_output_stays_and_the_unused_arms_go(decoder: Decoder) -> None:
    x = torch.randn(2, 4, 8, 6)
    collapsed = collapse(decoder.eval(), x)
    assert isinstance(collapsed, Decoder)
    assert not any(isinstance(module, Switched) for module in collapsed.modules())
    assert isinstance(collapsed.first, Transposed)
    assert isinstance(collapsed.rest[1], Transposed)
    assert isinstance(collapsed.last["up"], Bilinear)
    torch.testing.assert_close(collapsed(x), decoder(x), atol=1e-6, rtol=0)


def test_the_resolution_of_the_example_decides(decoder: Decoder) -> None:
    x = torch.randn(2, 4, 64, 64)
    collapsed = collapse(decoder.eval(), x)
    assert isinstance(collapsed, Decoder)
    assert isinstance(collapsed.first, BilinearConv1x1)
    assert not isinstance(collapsed.rest[1], Transposed)
    torch.testing.assert_close(collapsed(x), decoder(x), atol=1e-6, rtol=0)


def test_the_network_itself_is_left_alone(decoder: Decoder) -> None:
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    decoder.rest[0].eval()
    collapsed = collapse(decoder, torch.randn(2, 4, 8, 8))
    assert isinstance(decoder.first, Adaptive)
    after = decoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert isinstance(collapsed, Decoder)
    assert [collapsed.training, collapsed.rest[0].training] == [True, False]
    assert all(parameter.requires_grad for parameter in collapsed.parameters())
    shared = {p.data_ptr() for p in decoder.parameters()} & {
        p.data_ptr() for p in collapsed.parameters()
    }
    assert not shared


def test_a_lone_upsampler_becomes_its_arm() -> None:
    adaptive = Adaptive(4, threshold=10)
    assert isinstance(collapse(adaptive, torch.randn(1, 4, 8, 8)), Transposed)
    assert isinstance(collapse(adaptive, torch.randn(1, 4, 8, 12)), Bilinear)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = self.right = Adaptive(4, threshold=100)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(x) + self.right(2 * x)
        return y


def test_a_shared_upsampler_is_replaced_everywhere() -> None:
    network = Branches()
    x = torch.randn(1, 4, 4, 4)
    collapsed = collapse(network, x)
    assert isinstance(collapsed, Branches)
    assert collapsed.left is collapsed.right
    assert isinstance(collapsed.right, Transposed)
    torch.testing.assert_close(collapsed(x), network(x))


def test_resolutions_are_those_of_the_features(decoder: Decoder) -> None:
    decoder.train()
    assert record_resolutions(decoder, torch.randn(1, 4, 8, 6)) == {
        "first": (8, 6),
        "rest.1": (32, 24),
        "last.up": (64, 48),
    }
    assert all(module.training for module in decoder.modules())
    assert record_resolutions(nn.Conv2d(4, 4, 1), torch.randn(1, 4, 8, 6)) == {}


def test_what_cannot_be_collapsed_is_named() -> None:
    shared = Adaptive(4, threshold=10)
    message = r"Adaptive '0' sees several resolutions in one forward: \[\(8, 8\), \(16, 16\)\]"
    with pytest.raises(UpnasError, match=message):
        collapse(nn.Sequential(shared, shared), torch.randn(1, 4, 8, 8))
    network = nn.Sequential(nn.Identity())
    network[0].unused = Adaptive(4)
    with pytest.raises(UpnasError, match=r"Adaptive '0\.unused': the example input does not reach"):
        collapse(network, torch.randn(1, 4, 8, 8))


def test_pinned_network_decides_by_the_pinned_resolution() -> None:
    network = Adaptive(8, threshold=16)
    crop, image = torch.rand(1, 8, 8, 8), torch.rand(1, 8, 32, 32)
    pin(network, image)
    torch.testing.assert_close(network(crop), F.interpolate(crop, scale_factor=2, mode="bilinear"))
    pin(network, crop)
    torch.testing.assert_close(network(image), network.small(image))
