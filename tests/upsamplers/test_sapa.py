from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers import Sapa

from .helpers import num_parameters, perturb

Variant = Literal["b", "i", "g"]


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("b", {"guide_channels": 2}),
        ("b", {"scale_factor": 3, "padding": "replicate"}),
        ("i", {"kernel_size": 5}),
        ("g", {"guide_channels": 2}),
        ("g", {"scale_factor": 3, "padding": "replicate"}),
    ],
)
@torch.no_grad()
def test_is_the_equation(variant: Variant, parameters: dict[str, Any]) -> None:
    """Similarities, softmax and reassembly, output pixel by output pixel."""
    torch.manual_seed(0)
    parameters = {"kernel_size": 3, "embedding_channels": 4} | parameters
    upsampler = Sapa(3, variant=variant, **parameters).double()
    perturb(upsampler, std=0.5)
    s, k = upsampler.scale_factor, upsampler.kernel_size
    x = torch.randn(1, 3, 3, 4, dtype=torch.float64)
    guide = torch.randn(1, upsampler.guide_channels, 3 * s, 4 * s, dtype=torch.float64)
    y = upsampler(x, guide=guide)[0]
    for row in range(3 * s):
        for column in range(4 * s):
            i, j = row // s, column // s
            query = upsampler.query(normalised(guide[0, :, row, column], upsampler.norm_guide))
            if variant == "g":
                features = normalised(x[0, :, i, j], upsampler.norm)
                gate = 1 / (1 + (-upsampler.gate(features)).exp())
                query = gate * query + (1 - gate) * upsampler.own_query(features)
            logits, values = [], []
            for n in range(k * k):
                u, v = i + n // k - k // 2, j + n % k - k // 2
                if upsampler.padding == "replicate":
                    u, v = min(max(u, 0), 2), min(max(v, 0), 3)
                if 0 <= u < 3 and 0 <= v < 4:
                    key = upsampler.key(normalised(x[0, :, u, v], upsampler.norm))
                    logits.append(query @ key)
                    values.append(x[0, :, u, v])
                else:  # joins the softmax
                    logits.append(torch.zeros((), dtype=torch.float64))
                    values.append(torch.zeros(3, dtype=torch.float64))
            weights = torch.stack(logits).exp()
            expected = (weights / weights.sum()) @ torch.stack(values)
            torch.testing.assert_close(y[:, row, column], expected)


def normalised(features: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Layer norm of one pixel."""
    centred = features - features.mean()
    scaled = centred / (centred.square().mean() + norm.eps).sqrt()
    return scaled if not norm.elementwise_affine else scaled * norm.weight + norm.bias


def test_takes_the_values_of_the_side_that_resembles_the_guide() -> None:
    """The guide's edge, not the grid of the features, decides where the output changes."""
    left = torch.tensor([1.0, -1.0]).repeat(16).view(1, 32, 1, 1)
    x = torch.cat([left.expand(1, 32, 4, 2), -left.expand(1, 32, 4, 3)], dim=3)
    guide = torch.cat([left.expand(1, 32, 8, 3), -left.expand(1, 32, 8, 7)], dim=3)
    y = Sapa(32, variant="i", padding="replicate")(x, guide=guide)
    torch.testing.assert_close(y, guide)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_padded_logits_join_the_softmax(kernel_size: Literal[3, 5]) -> None:
    """Without any preference the corner averages over the whole window, zeros included."""
    x, guide = torch.ones(1, 4, 5, 6), torch.randn(1, 4, 10, 12)
    upsampler = Sapa(4, kernel_size=kernel_size)
    nn.init.zeros_(upsampler.query.weight)  # type: ignore[arg-type]  # a Linear's
    y = upsampler(x, guide=guide)
    inside = (kernel_size // 2 + 1) ** 2
    torch.testing.assert_close(y[0, :, 0, 0], torch.full((4,), inside / kernel_size**2))
    upsampler = Sapa(4, kernel_size=kernel_size, padding="replicate")
    torch.testing.assert_close(upsampler(x, guide=guide), torch.ones_like(guide))


def test_starts_near_a_box_blur() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 9, 9)
    blurred = F.interpolate(F.avg_pool2d(x, 5, stride=1, padding=2), scale_factor=2)
    y = Sapa(16)(x, guide=torch.randn(1, 16, 18, 18))
    assert (y - blurred).std() < 0.1 * blurred.std()


@pytest.mark.parametrize(
    ("variant", "parameters", "gmacs"), [("b", 104_832, 1.018), ("i", 0, 0.747)]
)
def test_costs_are_the_published_ones(variant: Variant, parameters: int, gmacs: float) -> None:
    """Six modules with C = 256 behind SegFormer-B1, which see 14592 input pixels."""
    upsampler = Sapa(256, variant=variant)
    assert 6 * num_parameters(upsampler) == parameters  # 0.1 M in the table
    assert upsampler.macs_per_pixel() * 14_592 / 1e9 == pytest.approx(gmacs, abs=5e-4)


def test_gate_costs_a_projection_of_the_features() -> None:
    base, gated = Sapa(8), Sapa(8, variant="g")
    assert num_parameters(gated) - num_parameters(base) == (8 * 32 + 32) + (8 + 1)
    assert gated.macs_per_pixel() - base.macs_per_pixel() == 8 * 32 + 8 + 2 * 4 * 32


def test_inner_product_needs_equal_channels() -> None:
    with pytest.raises(ValueError, match=r"guide_channels == channels; got 6 and 8.*variant='b'"):
        Sapa(8, variant="i", guide_channels=6)


def test_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="Sapa needs an odd kernel_size; got 4"):
        Sapa(8, kernel_size=4)  # type: ignore[arg-type]
