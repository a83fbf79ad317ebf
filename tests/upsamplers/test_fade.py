from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import Fade, FadeLite

from .helpers import num_parameters, perturb

CASES: list[tuple[type[Fade], dict[str, Any]]] = [
    (Fade, {"embedding_channels": 4, "kernel_size": 3}),
    (Fade, {"embedding_channels": 2, "kernel_size": 5, "guide_channels": 2}),
    (Fade, {"embedding_channels": 4, "kernel_size": 3, "scale_factor": 3, "padding": "replicate"}),
    (Fade, {"embedding_channels": 4, "kernel_size": 3, "guide_channels": 2, "gate": False}),
    (FadeLite, {"kernel_size": 3}),
    (FadeLite, {"kernel_size": 3, "scale_factor": 3, "guide_channels": 4}),
]


def generic(kind: type[Fade], **parameters: Any) -> Fade:
    torch.manual_seed(0)
    upsampler = kind(3, **parameters).double()
    perturb(upsampler, std=0.3)
    return upsampler


def inputs(upsampler: Fade, height: int, width: int) -> tuple[Tensor, Tensor]:
    s = upsampler.scale_factor
    guide = torch.randn(1, upsampler.guide_channels, s * height, s * width, dtype=torch.float64)
    return torch.randn(1, upsampler.channels, height, width, dtype=torch.float64), guide


@pytest.mark.parametrize(("kind", "parameters"), CASES)
@torch.no_grad()
def test_is_the_equation(kind: type[Fade], parameters: dict[str, Any]) -> None:
    """Kernels, reassembly and gate of section 4, output pixel by output pixel."""
    upsampler = generic(kind, **parameters)
    x, guide = inputs(upsampler, 3, 4)
    y = upsampler(x, guide=guide)[0]
    s, k = upsampler.scale_factor, parameters["kernel_size"]
    embedded_guide, embedded = upsampler.compress_guide(guide)[0], upsampler.compress(x)[0]
    passed = guide if upsampler.project_guide is None else upsampler.project_guide(guide)
    for row in range(3 * s):
        for column in range(4 * s):
            i, j = row // s, column // s
            logits = convolved(upsampler, embedded_guide, row, column)
            logits += convolved(upsampler, embedded, i, j)
            weights = (logits - logits.logsumexp(0)).exp()
            expected = torch.zeros(3, dtype=torch.float64)
            for n in range(k * k):
                u, v = i + n // k - k // 2, j + n % k - k // 2
                if upsampler.padding == "replicate":
                    u, v = min(max(u, 0), 2), min(max(v, 0), 3)
                if 0 <= u < 3 and 0 <= v < 4:
                    expected += weights[n] * x[0, :, u, v]
            if upsampler.gate is not None:
                w, b = upsampler.gate.weight[0, :, 0, 0], upsampler.gate.bias
                assert b is not None
                gate = 1 / (1 + math.exp(-(w @ x[0, :, i, j] + b).item()))
                expected = gate * passed[0, :, row, column] + (1 - gate) * expected
            torch.testing.assert_close(y[:, row, column], expected)


def convolved(upsampler: Fade, embedded: Tensor, row: int, column: int) -> Tensor:
    """The 3x3 convolution of zero-padded features at one position; one logit per tap."""
    weight, bias = upsampler.encode.weight, upsampler.encode.bias
    assert bias is not None
    logits = bias.clone()
    for i in range(3):
        for j in range(3):
            u, v = row + i - 1, column + j - 1
            if 0 <= u < embedded.shape[1] and 0 <= v < embedded.shape[2]:
                taps, pixel = weight[:, :, i, j], embedded[:, u, v]
                logits += taps @ pixel if upsampler.encode.groups == 1 else taps[:, 0] * pixel
    return logits


@pytest.mark.parametrize(("kind", "parameters"), CASES)
def test_both_forms_of_the_semi_shift_convolution_agree(
    kind: type[Fade], parameters: dict[str, Any]
) -> None:
    """From low to high resolution, as here, and the other way, on a map that is not square."""
    upsampler = generic(kind, **parameters)
    x, guide = inputs(upsampler, 3, 5)
    s, encode = upsampler.scale_factor, upsampler.encode
    padded = F.pad(upsampler.compress_guide(guide), [1, 1, 1, 1])
    from_features = encode(upsampler.compress(x))
    logits = upsampler.semi_shift(x, guide)
    for i in range(s):
        for j in range(s):  # one phase of the guide at a time, at the resolution of the features
            from_guide = F.conv2d(
                padded[..., i:, j:], encode.weight, encode.bias, stride=s, groups=encode.groups
            )
            torch.testing.assert_close(logits[..., i::s, j::s], from_guide + from_features)


@pytest.mark.parametrize("kind", [Fade, FadeLite])
def test_odd_guide_is_continued_by_its_last_row_and_column(kind: type[Fade]) -> None:
    upsampler = generic(kind)
    x, guide = inputs(upsampler, 4, 6)
    odd = guide[..., :7, :11]
    continued = F.pad(odd, [0, 1, 0, 1], mode="replicate")
    y = upsampler(x, size=(7, 11), guide=odd)
    torch.testing.assert_close(y, upsampler(x, guide=continued)[..., :7, :11])


@torch.no_grad()
def test_gate_chooses_between_guide_and_reassembly() -> None:
    upsampler = generic(Fade)
    x, guide = inputs(upsampler, 4, 3)
    ungated = Fade(3, gate=False).double()
    ungated.load_state_dict(upsampler.state_dict(), strict=False)
    assert upsampler.gate is not None
    assert upsampler.gate.bias is not None
    upsampler.gate.bias.fill_(50.0)
    torch.testing.assert_close(upsampler(x, guide=guide), guide)
    upsampler.gate.bias.fill_(-50.0)
    torch.testing.assert_close(upsampler(x, guide=guide), ungated(x, guide=guide))


@pytest.mark.parametrize("kind", [Fade, FadeLite])
def test_zero_padding_darkens_the_border_and_replication_does_not(kind: type[Fade]) -> None:
    x, guide = torch.ones(1, 8, 6, 7), torch.randn(1, 8, 12, 14)
    y = kind(8, gate=False)(x, guide=guide)
    torch.testing.assert_close(y[..., 4:-4, 4:-4], torch.ones(1, 8, 4, 6))
    assert (y[..., :2, :] < 0.95).all()
    y = kind(8, gate=False, padding="replicate")(x, guide=guide)
    torch.testing.assert_close(y, torch.ones_like(guide))


@pytest.mark.parametrize(
    ("kind", "parameters", "gmacs"), [(Fade, 285e3, 2.65), (FadeLite, 80.0e3, 0.89)]
)
def test_costs_are_the_published_ones(kind: type[Fade], parameters: float, gmacs: float) -> None:
    """Six modules with C = 256 behind SegFormer-B1, which see 14592 input pixels."""
    upsampler = kind(256)
    assert 6 * num_parameters(upsampler) == pytest.approx(parameters, rel=1e-3)
    assert upsampler.macs_per_pixel() * 14_592 / 1e9 == pytest.approx(gmacs, abs=0.005)


def test_costs_without_gate_and_with_another_guide() -> None:
    plain = Fade(8)
    assert num_parameters(plain) - num_parameters(Fade(8, gate=False)) == 9
    assert plain.macs_per_pixel() - Fade(8, gate=False).macs_per_pixel() == 8 + 2 * 4 * 8
    guided = Fade(8, guide_channels=6)  # embedded from 2 channels less, projected for the gate
    assert num_parameters(guided) - num_parameters(plain) == -2 * 64 + 7 * 8
    assert guided.macs_per_pixel() - plain.macs_per_pixel() == 4 * (-2 * 64 + 6 * 8)


@pytest.mark.parametrize("kind", [Fade, FadeLite])
def test_even_kernel_is_refused(kind: type[Fade]) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} needs an odd kernel_size; got 4"):
        kind(8, kernel_size=4)  # type: ignore[arg-type]
