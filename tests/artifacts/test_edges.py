"""Edge widths, sharpness and band PSNR on ramps and steps whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.artifacts import band_psnr, edge_band, edge_rise_width, edge_sharpness


def ramp(width: float, angle: float = 0.0) -> Tensor:
    """An edge from 0.2 to 0.8 that rises linearly from column 28 on, (1, 3, 64, 64)."""
    places = torch.arange(64).double() - (28 + width / 2)
    across = math.cos(angle) * places + math.sin(angle) * places[:, None]
    return (0.2 + 0.6 * (across / width + 0.5).clamp(0, 1)).expand(1, 3, 64, 64)


@pytest.mark.parametrize("width", [1.0, 2.0, 5.0, 8.0])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_ramp_rises_in_eight_tenths_of_its_width(width: float, turn: int) -> None:
    image = ramp(width).rot90(turn, (2, 3))
    assert edge_rise_width(image, image, 0.01).item() == pytest.approx(0.8 * width, abs=1e-9)


def test_a_ramp_at_an_angle() -> None:
    image = ramp(6.0, angle=math.pi / 6)
    assert edge_rise_width(image, image, 0.02).item() == pytest.approx(4.8, abs=0.2)


@pytest.mark.parametrize(
    ("width", "scale", "expected"),
    [(2.0, 2, 2.4667), (2.0, 4, 4.5733), (8.0, 2, 6.3167), (8.0, 4, 8.1467)],
)
def test_the_steps_of_nearest_enlargement_are_one_edge(
    width: float, scale: int, expected: float
) -> None:
    truth = ramp(width)
    image = F.interpolate(F.avg_pool2d(truth, scale), scale_factor=scale)
    for dtype in (torch.float64, torch.float32):
        found = edge_rise_width(image.to(dtype), truth, 0.01).item()
        assert found == pytest.approx(expected, abs=1e-3)


def test_steps_by_hand() -> None:
    truth = ramp(2.0)
    image = torch.full_like(truth, 0.2)
    image[..., 28:32], image[..., 32:] = 0.5, 0.8
    # From column 27 to 28 it rises through 10 %, from 31 to 32 through 90 %.
    assert edge_rise_width(image, truth, 0.01).item() == pytest.approx(31.8 - 27.2, abs=1e-9)


def test_flat_ends_do_not_lengthen_a_rise() -> None:
    image = ramp(2.0).clone()
    image[..., :26] = 0.9  # the rise starts behind a fall, after 2 px or more of its lower level
    image[..., 33:] = 0.1
    assert edge_rise_width(image, ramp(2.0), 0.01).item() == pytest.approx(1.6, abs=1e-9)


def test_the_width_is_that_of_the_image_at_the_edges_of_the_truth() -> None:
    truth = ramp(2.0)
    widths = [edge_rise_width(ramp(width), truth, 0.01).item() for width in (2.0, 4.0, 8.0)]
    assert widths == pytest.approx([1.6, 3.2, 6.4], abs=1e-9)
    darker = 0.3 * ramp(4.0) + 0.1
    assert edge_rise_width(darker, truth, 0.01).item() == pytest.approx(widths[1], abs=1e-9)


def test_a_gaussian_edge() -> None:
    """An error function rises from 10 % to 90 % in 2 * 1.2816 sigma."""
    places = (torch.arange(64).double() - 31.5).expand(1, 1, 64, 64)
    image = 0.5 + 0.4 * torch.erf(places / 2.0 / math.sqrt(2))
    assert edge_rise_width(image, image, 0.02).item() == pytest.approx(2.5631 * 2.0, abs=0.1)


def test_a_missing_edge_has_the_whole_profile() -> None:
    truth = ramp(2.0)
    for image in (torch.full_like(truth, 0.3), 1 - truth, truth * 1e-3):
        assert edge_rise_width(image, truth, 0.02).item() == 16.0


def test_a_truth_without_edges() -> None:
    flat = torch.full((2, 3, 24, 24), 0.4)
    image = flat + 0.1
    assert not edge_band(flat).any()
    assert edge_rise_width(image, flat).tolist() == [0, 0]
    assert edge_sharpness(image, flat).tolist() == [1, 1]
    assert band_psnr(image, flat).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.4])
@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_the_band_of_a_step_is_its_two_columns_and_their_neighbours(
    turn: int, reach: int, share: float
) -> None:
    truth = torch.zeros(1, 1, 20, 20)
    truth[..., 10:] = 1.0
    band = edge_band(truth.rot90(turn, (2, 3)), share, reach).rot90(-turn, (1, 2))[0]
    assert band.all(0).nonzero().flatten().tolist() == list(range(9 - reach, 11 + reach))
    assert band.any(0).sum() == 2 * reach + 2


@pytest.mark.parametrize("falls", [False, True])
def test_the_band_of_a_diagonal_step_is_thin(falls: bool) -> None:
    places = torch.arange(32)
    truth = (places + places[:, None] >= 32).double()  # along one diagonal
    truth = (1 - truth if falls else truth)[None, None]
    for image in (truth, truth.flip(3)):
        band = edge_band(image, share=0.4, reach_px=0)[0, 6:-6]
        assert (band.sum(1) > 0).all()
        assert (band.sum(1) <= 2).all()


def test_the_band_leaves_most_of_a_texture_out() -> None:
    """An amplitude spectrum of 1/f: about half of it without thinning."""
    noise = torch.randn(4, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.fft.fftfreq(128)[:, None], torch.fft.rfftfreq(128)
    frequency = (rows.square() + columns.square()).sqrt().clamp(min=1 / 128)
    texture = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency)
    texture = (texture - texture.amin()) / (texture.amax() - texture.amin())
    coverage = edge_band(texture).double().mean((1, 2))
    assert (coverage > 0.1).all()
    assert (coverage < 0.35).all()


def test_band_psnr_sees_the_band_alone() -> None:
    truth = ramp(2.0)
    band = edge_band(truth)[:, None]
    images = truth + torch.where(band, 0.01, 0.2)
    assert band_psnr(images, truth).item() == pytest.approx(40.0)
    assert band_psnr(truth, truth).item() == math.inf
    images = truth + torch.where(band, 0.0, 0.2)
    assert band_psnr(images, truth).item() == math.inf


def test_sharpness_is_the_ratio_of_slopes() -> None:
    truth = ramp(8.0)
    assert edge_sharpness(truth, truth).item() == pytest.approx(1)
    assert edge_sharpness(0.5 * truth + 0.2, truth).item() == pytest.approx(0.5)
    narrow = edge_sharpness(ramp(16.0), truth, share=0.05, reach_px=0).item()
    assert narrow == pytest.approx(0.5, abs=1e-9)


def test_sharpness_and_width_agree_on_blur() -> None:
    truth = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    truth = truth.repeat_interleave(8, 2).repeat_interleave(8, 3)
    blurred = F.avg_pool2d(F.pad(truth, (2, 2, 2, 2), mode="replicate"), 5, 1)
    assert (edge_sharpness(blurred, truth) < 0.8).all()
    assert (edge_rise_width(blurred, truth) > 1.5 * edge_rise_width(truth, truth)).all()


def test_central_differences_do_not_take_checkerboard_for_sharpness() -> None:
    truth = ramp(8.0)
    columns = torch.arange(64)
    pattern = 0.05 * (-1.0) ** (columns + columns[:, None])
    assert edge_sharpness(truth + pattern, truth).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("function", [band_psnr, edge_rise_width, edge_sharpness])
def test_images_do_not_depend_on_each_other(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, images = torch.rand(2, 3, 3, 24, 20, generator=generator)
    together = function(images, truth)
    assert together.dtype == torch.float64
    alone = [function(one[None], other[None]) for one, other in zip(images, truth, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("function", [band_psnr, edge_rise_width, edge_sharpness])
def test_a_nan_is_not_hidden(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    truth = ramp(4.0)
    assert math.isnan(function(torch.full_like(truth, math.nan), truth).item())
    holed = truth.clone()
    holed[..., 3, 3] = math.nan
    for unknown in (holed, torch.full_like(truth, math.nan)):
        assert math.isnan(function(truth, unknown).item())


@pytest.mark.parametrize("function", [band_psnr, edge_rise_width, edge_sharpness])
def test_images_that_do_not_fit_are_refused(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    image = ramp(4.0)
    for images, truth in (
        (image, image[..., 1:]),
        (image[:, :1], image),
        (image[0], image[0]),
        (image[:, :, :1], image[:, :, :1]),
        (image, (255 * image).byte()),
    ):
        with pytest.raises(ValueError, match=r"floating \(B, C, H, W\) of equal shapes"):
            function(images, truth)
    with pytest.raises(ValueError, match=r"got torch.uint8 \(1, 3, 64, 64\)"):
        edge_band((255 * image).byte())
