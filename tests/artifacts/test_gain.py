"""DC gains against the sums of kernel taps, read off the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from upnas.artifacts import dc_gain_spread, dc_gains, network_dc_gain_spread
from upnas.artifacts.gain import MAX_SPREAD
from upnas.upsamplers import (
    Bicubic,
    Bilinear,
    Carafe,
    DySample,
    GuidedUpsampler,
    Nearest,
    NearestConv,
    Projected,
    Selector,
    SubPixel,
    Transposed,
    Upsampler,
    find_upsampler,
    upsampler_names,
)


def spread_of(phases: Tensor) -> float:
    """The definition, for gains (phases, C, C_out)."""
    mean = phases.mean(0)
    deviations = [float((gain - mean).square().sum()) for gain in phases]
    return math.sqrt(sum(deviations) / len(deviations) / float(mean.square().sum()))


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
@pytest.mark.parametrize("kernel_size", [2, 4])
def test_transposed_convolution_by_its_taps(kernel_size: int, scale_factor: int) -> None:
    torch.manual_seed(0)
    s = scale_factor
    upsampler = Transposed(5, 3, scale_factor=s, kernel_size=kernel_size, init="default")  # type: ignore[arg-type]
    weight = upsampler.conv.weight.detach().double()  # (C, C_out, k, k)
    pad = int(upsampler.conv.padding[0])
    # Output o reads tap t of input i where o = s i - pad + t: phase p has t = p + pad (mod s).
    phases = torch.stack(
        [
            weight[:, :, (y + pad) % s :: s, (x + pad) % s :: s].sum((2, 3))
            for y in range(s)
            for x in range(s)
        ]
    )
    torch.testing.assert_close(dc_gains(upsampler), phases.permute(1, 2, 0))
    assert dc_gain_spread(upsampler) == pytest.approx(spread_of(phases), rel=1e-9)
    assert dc_gain_spread(upsampler) > 0.5


@pytest.mark.parametrize("scale_factor", [2, 3])
def test_sub_pixel_convolution_by_its_taps(scale_factor: int) -> None:
    torch.manual_seed(0)
    upsampler = SubPixel(4, 2, scale_factor=scale_factor)
    nn.init.normal_(upsampler.conv.weight)
    assert upsampler.conv.bias is not None
    nn.init.normal_(upsampler.conv.bias)  # drops out
    taps = upsampler.conv.weight.detach().double().sum((2, 3))  # (C_out * s * s, C)
    phases = taps.view(2, scale_factor**2, 4).permute(1, 2, 0)
    torch.testing.assert_close(dc_gains(upsampler), phases.permute(1, 2, 0))
    assert dc_gain_spread(upsampler) == pytest.approx(spread_of(phases), rel=1e-9)


def test_more_channels_than_are_probed_at_once() -> None:
    torch.manual_seed(0)
    upsampler = Transposed(70, 2, kernel_size=2, init="default")
    taps = upsampler.conv.weight.detach().double().flatten(2)
    torch.testing.assert_close(dc_gains(upsampler), taps)


@pytest.mark.parametrize(
    "upsampler",
    [
        Nearest(3),
        Bilinear(3),
        Bicubic(3, scale_factor=3),
        Carafe(8),
        DySample(8),
        SubPixel(3),
        Transposed(3),
        NearestConv(3),
    ],
    ids=lambda upsampler: type(upsampler).__name__,
)
def test_no_spread_by_construction_or_initialisation(upsampler: Upsampler) -> None:
    assert dc_gain_spread(upsampler) < 1e-6


def test_kernels_that_sum_to_one_have_no_spread_whatever_the_weights() -> None:
    """So it is for every entry of the catalogue that promises to keep constants, and for CARAFE."""
    kinds: list[type[Upsampler]] = [find_upsampler(name) for name in upsampler_names()]
    kinds = [kind for kind in kinds if kind.keeps_constants and 2 in kind.dims]
    kinds.append(Carafe)
    for kind in kinds:
        torch.manual_seed(0)
        upsampler = kind(8)
        for parameter in upsampler.parameters():
            nn.init.normal_(parameter)
        assert dc_gain_spread(upsampler) < 1e-9, kind


def test_three_axes() -> None:
    assert dc_gains(Nearest(2, spatial_dims=3)).shape == (2, 2, 8)
    assert dc_gain_spread(Nearest(2, spatial_dims=3)) == 0


@pytest.mark.parametrize(
    ("convolution", "reach"),
    [
        (nn.ConvTranspose2d(4, 6, 3, 2, padding=1, output_padding=1, groups=2), 4),
        (nn.ConvTranspose2d(2, 3, (5, 4), (3, 2), padding=(2, 0), dilation=(1, 3)), 6),
        (nn.ConvTranspose2d(2, 2, 2, 4), 2),  # half of the phases of an axis have no tap
        (nn.ConvTranspose3d(2, 3, 3, (1, 2, 3), padding=1), 3),
    ],
)
def test_a_transposed_convolution_of_pytorch_by_its_response(
    convolution: nn.ConvTranspose2d | nn.ConvTranspose3d, reach: int
) -> None:
    """To a constant in each channel, in a block away from the border."""
    convolution = convolution.double()
    channels, dims = convolution.in_channels, len(convolution.stride)
    units = torch.eye(channels).double().view(channels, channels, *(1,) * dims)
    x = units.expand(-1, -1, *(2 * reach + 1,) * dims)
    with torch.no_grad():
        y = convolution(x) - convolution(torch.zeros_like(x))
    for axis, s in enumerate(convolution.stride, start=2):
        y = y.narrow(axis, reach * s, s)
    torch.testing.assert_close(dc_gains(convolution), y.flatten(2))


def test_a_transposed_convolution_of_pytorch_in_closed_form() -> None:
    """3 x 3 with stride 2: phases of 1, 2, 2 and 4 taps, mean 9/4, variance 25/4 - 81/16."""
    convolution = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1)
    nn.init.ones_(convolution.weight)
    expected = math.sqrt(25 / 4 - 81 / 16) / (9 / 4)
    assert dc_gain_spread(convolution) == pytest.approx(expected)
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(convolution), Nearest(1))
    assert network_dc_gain_spread(network) == pytest.approx(expected)
    ours = Transposed(3, kernel_size=4, init="default")
    assert dc_gain_spread(ours.conv) == pytest.approx(dc_gain_spread(ours))
    torch.testing.assert_close(dc_gains(ours.conv), dc_gains(ours))


class Gated(GuidedUpsampler):
    """Nearest, times a gain per phase of a guide that is not constant, and 1 else."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None
        flat = guide.amax((1, 2, 3), keepdim=True) == guide.amin((1, 2, 3), keepdim=True)
        u = nn.functional.interpolate(x, size=self.upsampled_size(x))
        return torch.where(flat, u * guide[:, :1], guide[:, :1] * u)


def test_a_guide_is_constant() -> None:
    assert dc_gain_spread(Gated(4, guide_channels=3)) == 0
    assert dc_gain_spread(Projected(2, Gated(4, guide_channels=3))) < 1e-12


class ThirdPartyGuided(Upsampler):
    """Nearest, times 1, 1, 3, 3 and a guide; guided, but no :class:`GuidedUpsampler`."""

    guided = True

    def __init__(self, channels: int, guide_channels: int):
        super().__init__(channels)
        self.guide_channels = guide_channels

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None
        assert guide.shape[1] == self.guide_channels
        return torch.kron(x, x.new_tensor([[1.0, 1.0], [3.0, 3.0]])) * guide[:, :1]


@pytest.mark.parametrize("guide_channels", [3, 4])
def test_guided_upsamplers_of_a_third_party(guide_channels: int) -> None:
    """They are measured, not taken for the end of the network's upsamplers."""
    upsampler = ThirdPartyGuided(4, guide_channels)
    assert dc_gain_spread(upsampler) == pytest.approx(0.5)
    network = nn.Sequential(Nearest(4), upsampler)
    assert network_dc_gain_spread(network) == pytest.approx(0.5)
    assert dc_gain_spread(Projected(4, upsampler)) == pytest.approx(0.5)


class PhaseGain(Upsampler):
    """Nearest, times a factor per phase."""

    def __init__(self, *gains: float):
        super().__init__(1)
        self.gains = nn.Parameter(torch.tensor(gains, dtype=torch.float32).view(1, 1, 2, 2))

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return torch.kron(x, self.gains) + 7.0


def test_closed_form() -> None:
    """Gains 1, 1, 3, 3: mean 2, standard deviation 1."""
    assert dc_gain_spread(PhaseGain(1, 1, 3, 3)) == pytest.approx(0.5)
    assert dc_gain_spread(PhaseGain(0, 0, 0, 0)) == 0


@pytest.mark.parametrize("gains", [(1, -1, 1, -1), (1, -1, 1, -1 + 1e-6)])
def test_gains_that_cancel_have_a_finite_spread(gains: tuple[float, ...]) -> None:
    """A trial's record holds finite numbers only."""
    assert dc_gain_spread(PhaseGain(*gains)) == MAX_SPREAD
    assert network_dc_gain_spread(nn.Sequential(PhaseGain(*gains))) == MAX_SPREAD
    assert math.isfinite(MAX_SPREAD)


def test_a_network_has_the_worst_of_its_upsamplers() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1), PhaseGain(1, 1, 3, 3), nn.Sequential(PhaseGain(1, 1, 1, 1))
    )
    assert network_dc_gain_spread(network) == pytest.approx(0.5)
    assert network_dc_gain_spread(network[1]) == pytest.approx(0.5)
    assert network_dc_gain_spread(nn.Conv2d(1, 1, 1)) == 0


def test_a_selector_is_measured_as_what_it_is_pinned_to() -> None:
    torch.manual_seed(0)
    selector = Selector(4, arms=("bilinear", "transposed"))
    arm = selector.arms["transposed"]
    assert isinstance(arm, Transposed)
    nn.init.normal_(arm.conv.weight)
    selector.pin((64, 64))
    with torch.no_grad():
        selector.gate.out.bias.copy_(torch.tensor([1.0, 0.0]))
        assert network_dc_gain_spread(nn.Sequential(selector)) == pytest.approx(0, abs=1e-12)
        selector.gate.out.bias.copy_(torch.tensor([0.0, 1.0]))
    assert network_dc_gain_spread(nn.Sequential(selector)) == pytest.approx(dc_gain_spread(arm))


def test_the_upsampler_stays_as_it_is() -> None:
    upsampler = SubPixel(3).train()
    dc_gain_spread(upsampler)
    assert upsampler.training
    assert upsampler.conv.weight.dtype == torch.float32


def test_fractional_factors_have_no_phases() -> None:
    with pytest.raises(ValueError, match="phases need integer scale factors"):
        dc_gains(Bilinear(3, scale_factor=1.5))
