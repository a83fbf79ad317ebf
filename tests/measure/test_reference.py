"""The reference network of measurements without a study."""

from __future__ import annotations

import pytest
import torch

from upnas.measure.reference import StandardReference


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16)], ids=str)
def test_features_at_the_resolution_of_the_input(size: tuple[int, int]) -> None:
    output = StandardReference(in_channels=5).eval()(torch.rand(2, 5, *size))
    assert output.shape == (2, 16, *size)


def test_it_is_the_same_network_every_time() -> None:
    """Ratios to it compare between runs; the seed of the process is neither read nor changed."""
    torch.manual_seed(1)
    one = StandardReference(3).state_dict()
    drawn = torch.rand(1)
    other = StandardReference(3).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)


def test_its_size_never_changes() -> None:
    convolutions = ((3, 16), (16, 32), (32, 64), (64, 32), (32, 16))
    expected = sum(9 * before * after + after for before, after in convolutions)
    assert sum(p.numel() for p in StandardReference(3).parameters()) == expected
