from __future__ import annotations

import pytest
import torch

from upnas.upsamplers import Adaptive, Bilinear, BilinearConv1x1, Transposed


@pytest.mark.parametrize(
    ("resolution", "kind"),
    [
        ((1, 1), Transposed),
        ((7, 7), Transposed),
        ((8, 8), BilinearConv1x1),
        ((4, 8), BilinearConv1x1),
        ((9, 2), BilinearConv1x1),
    ],
)
def test_the_longer_side_decides(resolution: tuple[int, int], kind: type) -> None:
    upsampler = Adaptive(4, 6, threshold=8)
    arm = upsampler.collapse(resolution)
    assert isinstance(arm, kind)
    x = torch.randn(2, 4, *resolution)
    torch.testing.assert_close(upsampler(x), arm(x), atol=1e-6, rtol=0)


def test_the_default_threshold_is_128() -> None:
    upsampler = Adaptive(4)
    assert isinstance(upsampler.collapse((127, 127)), Transposed)
    assert isinstance(upsampler.collapse((1, 128)), Bilinear)


def test_arms_are_shared_with_the_collapsed() -> None:
    upsampler = Adaptive(4, 6)
    assert upsampler.collapse((8, 8)) is upsampler.small
    assert upsampler.collapse((128, 8)) is upsampler.large
    assert {arm.out_channels for arm in (upsampler.small, upsampler.large)} == {6}
