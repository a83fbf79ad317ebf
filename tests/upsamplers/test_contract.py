"""What every catalogue entry promises; a new entry is tested without an edit here."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from upnas.upsamplers import UPSAMPLERS, Switched

from .helpers import CHANNELS, NAMES, VARIANTS, guide_for, perturb, run, variant

LABELS = sorted(VARIANTS)
SCALES = [(name, s) for name in NAMES for s in UPSAMPLERS[name].scale_factors or (2, 3, 4)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "scale_factor"), SCALES)
def test_scales_both_axes_and_changes_channels(name: str, scale_factor: int) -> None:
    upsampler = variant(name, scale_factor, out_channels=6)
    for height, width in [(1, 1), (7, 5), (16, 16)]:
        y = run(upsampler, torch.randn(2, CHANNELS, height, width))
        assert y.shape == (2, upsampler.out_channels, scale_factor * height, scale_factor * width)
    assert upsampler.out_channels == (CHANNELS if upsampler.keeps_channels else 6)


@pytest.mark.parametrize("label", LABELS)
def test_odd_size_is_the_crop_of_the_full_output(label: str) -> None:
    upsampler = variant(label).eval()
    x = torch.randn(2, CHANNELS, 4, 6)
    if upsampler.guided:
        assert run(upsampler, x, size=(7, 11)).shape[-2:] == (7, 11)
    else:
        torch.testing.assert_close(run(upsampler, x, size=(7, 11)), run(upsampler, x)[..., :7, :11])


@pytest.mark.parametrize("name", NAMES)
def test_unreachable_size_is_refused(name: str) -> None:
    upsampler = variant(name)
    with pytest.raises(ValueError, match=r"cannot reach size=\(9, 8\).*needs an input of \(5, 4\)"):
        run(upsampler, torch.randn(1, CHANNELS, 4, 4), size=(9, 8))


@pytest.mark.parametrize("name", NAMES)
def test_impossible_channels_and_scales_are_refused(name: str) -> None:
    kind = UPSAMPLERS[name]
    with pytest.raises(ValueError, match="needs positive channels"):
        kind(0)
    with pytest.raises(ValueError, match="needs positive channels"):
        kind(CHANNELS, scale_factor=0)
    if kind.keeps_channels:
        with pytest.raises(ValueError, match="keeps the number of channels; got 8 in and 6 out"):
            kind(CHANNELS, 6)
    if kind.guided:
        with pytest.raises(ValueError, match="needs guide="):
            variant(name)(torch.randn(1, CHANNELS, 4, 4))


# The rule trains one arm at a time; "adaptive-small" reaches both.
@pytest.mark.parametrize("label", sorted(set(LABELS) - {"adaptive"}))
def test_gradient_reaches_input_and_every_parameter(label: str) -> None:
    upsampler = variant(label)
    perturb(upsampler)
    # Two resolutions and several draws, so that every arm of a rule or a selector has its turn.
    inputs = [torch.randn(2, CHANNELS, *size, requires_grad=True) for size in [(5, 7), (12, 12)]]
    for x in inputs * 4:
        y = run(upsampler, x) * torch.randn(2, upsampler.out_channels, 1, 1)
        torch.autograd.backward(y.square().sum())
    for tensor in [*inputs, *upsampler.parameters()]:
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.any()


@pytest.mark.parametrize("label", LABELS)
def test_eval_is_deterministic_and_independent_of_the_batch(label: str) -> None:
    upsampler = variant(label).eval()
    perturb(upsampler)
    x = torch.randn(2, CHANNELS, 7, 5)
    torch.manual_seed(1)
    y = run(upsampler, x)
    torch.manual_seed(1)
    assert torch.equal(run(upsampler, x), y)
    if not upsampler.guided:
        torch.testing.assert_close(run(upsampler, x[1:]), y[1:])


@pytest.mark.parametrize("label", LABELS)
def test_state_dict_round_trip(label: str) -> None:
    upsampler = variant(label)
    perturb(upsampler)
    other = variant(label)
    other.load_state_dict(upsampler.state_dict())
    x = torch.randn(1, CHANNELS, 5, 7)
    torch.manual_seed(1)
    y = run(upsampler.eval(), x)
    torch.manual_seed(1)
    assert torch.equal(run(other.eval(), x), y)


@pytest.mark.parametrize(
    "label", [label for label in LABELS if UPSAMPLERS[VARIANTS[label][0]].keeps_constants]
)
@pytest.mark.parametrize("scale_factor", [2, 3])
def test_constant_stays_constant_whatever_the_weights(label: str, scale_factor: int) -> None:
    if label == "dysample-pl" and scale_factor == 3:
        pytest.skip("8 channels do not shuffle by 3")
    upsampler = variant(label, scale_factor).eval()
    perturb(upsampler, std=1.0)
    y = run(upsampler, torch.randn(1, CHANNELS, 1, 1).expand(2, CHANNELS, 7, 5))
    torch.testing.assert_close(y, y[:, :, :1, :1].expand_as(y))


@pytest.mark.parametrize("label", LABELS)
def test_memory_format_does_not_change_the_output(label: str) -> None:
    upsampler = variant(label).eval()
    perturb(upsampler)
    x = torch.randn(2, CHANNELS, 7, 5)
    torch.manual_seed(1)
    expected = run(upsampler, x)
    torch.manual_seed(1)
    channels_last = copy.deepcopy(upsampler).to(memory_format=torch.channels_last)
    y = run(channels_last, x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("label", LABELS)
def test_lower_precision_stays_close(label: str) -> None:
    upsampler = variant(label).eval()
    perturb(upsampler)
    # Smooth features, as a sampling position that is off by an ulp should not matter.
    x = F.interpolate(torch.randn(1, CHANNELS, 3, 3), size=(12, 10), mode="bilinear")
    torch.manual_seed(1)
    expected = run(upsampler, x)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = run(upsampler, x).float()
    torch.manual_seed(1)
    pure = run(upsampler.bfloat16(), x.bfloat16())
    assert pure.dtype == torch.bfloat16
    for y in (under_autocast, pure.float()):
        assert (y - expected).abs().max() < 0.04 * expected.abs().max()


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("training", [False, True])
def test_runs_on_fake_tensors(label: str, training: bool) -> None:
    with FakeTensorMode():
        upsampler = variant(label).train(training)
        y = run(upsampler, torch.empty(2, CHANNELS, 7, 5))
        assert y.shape == (2, upsampler.out_channels, 14, 10)


@pytest.mark.parametrize("label", LABELS)
def test_exports(label: str) -> None:
    upsampler = variant(label).eval()
    perturb(upsampler)
    x = torch.randn(1, CHANNELS, 5, 7)
    example = (x, None, guide_for(upsampler, x))
    program = torch.export.export(upsampler, example)
    expected = upsampler(*example)
    torch.testing.assert_close(program.module()(*example), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not issubclass(UPSAMPLERS[name], Switched)]
)
def test_exports_with_symbolic_sizes(name: str) -> None:
    upsampler = variant(name).eval()
    perturb(upsampler)

    def example(height: int, width: int) -> tuple[Tensor, None, Tensor | None]:
        x = torch.randn(1, CHANNELS, height, width)
        return x, None, guide_for(upsampler, x)

    height, width = (torch.export.Dim(side, min=2, max=512) for side in ("height", "width"))
    guide = {2: 2 * height, 3: 2 * width} if upsampler.guided else None
    program = torch.export.export(
        upsampler, example(5, 7), dynamic_shapes=({2: height, 3: width}, None, guide)
    )
    other = example(12, 9)
    expected = upsampler(*other)
    torch.testing.assert_close(program.module()(*other), expected, atol=1e-5, rtol=1e-4)


def test_builds_without_memory() -> None:
    with torch.device("meta"):
        for label in LABELS:
            upsampler = variant(label)
            assert all(parameter.is_meta for parameter in upsampler.parameters())


@pytest.mark.parametrize(
    "label",
    [
        "adaptive-small",
        "bilinear_conv1x1",
        "carafe-3",
        "dysample",
        "dysample-pl",
        "dysample-plus",
        "hybrid-3",
        "light_subpixel",
        "separable",
        "transposed",
        "unet_block",
    ],
)
def test_gradcheck(label: str) -> None:
    upsampler = variant(label).double()
    perturb(upsampler)
    x = torch.randn(1, CHANNELS, 3, 2, dtype=torch.float64, requires_grad=True)
    parameters = {
        name: p.detach().clone().requires_grad_() for name, p in upsampler.named_parameters()
    }
    assert torch.autograd.gradcheck(
        lambda x, *values: torch.func.functional_call(
            upsampler, dict(zip(parameters, values, strict=True)), (x,)
        ),
        (x, *parameters.values()),
        fast_mode=True,
    )
