"""What every catalogue entry promises; a new entry is tested without an edit here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from upnas.upsamplers import (
    UPSAMPLERS,
    Switched,
    Upsampler,
    build_upsampler,
    check_contract,
    parameters_model,
)

from .helpers import CHANNELS, NAMES, VARIANTS, features, guide_for, perturb, run, variant

LABELS = sorted(VARIANTS)
SCALES = [(name, s) for name in NAMES for s in UPSAMPLERS[name].scales or (2, 3, 4)]
Inputs = tuple[Tensor, None, Tensor | None]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def generic(label: str, scale_factor: int = 2) -> Upsampler:
    """A variant away from the zeros and ties of its initial weights, in eval mode."""
    upsampler = variant(label, scale_factor).eval()
    perturb(upsampler)
    return upsampler


def smooth(x: Tensor) -> Tensor:
    """Features in which a sampling position that is off by an ulp does not matter."""
    mode = "bilinear" if x.dim() == 4 else "trilinear"
    small = torch.randn(*x.shape[:2], *(min(3, side) for side in x.shape[2:]))
    return F.interpolate(small, size=tuple(x.shape[2:]), mode=mode)


@pytest.mark.parametrize(("name", "scale_factor"), SCALES)
def test_scales_all_axes_and_changes_channels(name: str, scale_factor: int) -> None:
    upsampler = variant(name, scale_factor, out_channels=6)
    for height, width in [(1, 1), (7, 5), (16, 16)]:
        x = features(upsampler, height, width)
        sides = tuple(side * scale_factor for side in x.shape[2:])
        assert run(upsampler, x).shape == (2, upsampler.out_channels, *sides)
    assert upsampler.out_channels == (CHANNELS if upsampler.keeps_channels else 6)


@pytest.mark.parametrize("name", [name for name in NAMES if UPSAMPLERS[name].per_axis])
def test_axes_may_have_their_own_factors(name: str) -> None:
    kind = UPSAMPLERS[name]
    factors = (2, 3) if min(kind.dims) == 2 else (1, 2, 3)
    upsampler = build_upsampler(
        name, CHANNELS, scale_factor=factors, spatial_dims=len(factors)
    ).eval()
    x = features(upsampler, 4, 5)
    sides = tuple(side * s for side, s in zip(x.shape[2:], factors, strict=True))
    assert run(upsampler, x).shape[2:] == sides
    odd = tuple(side - s + 1 for side, s in zip(sides, factors, strict=True))
    assert run(upsampler, x, size=odd).shape[2:] == odd


@pytest.mark.parametrize("name", [name for name in NAMES if not UPSAMPLERS[name].per_axis])
def test_other_factors_than_one_for_both_axes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs the same scale factor for all axes; got \(2, 3\)"):
        UPSAMPLERS[name](CHANNELS, scale_factor=(2, 3))


@pytest.mark.parametrize("label", LABELS)
def test_odd_size_is_the_crop_of_the_full_output(label: str) -> None:
    upsampler = variant(label).eval()
    x = features(upsampler, 4, 6)
    size = tuple(2 * side - 1 for side in x.shape[2:])
    crop: tuple[slice, ...] = (slice(None), slice(None), *(slice(side) for side in size))
    if upsampler.guided:
        guide = guide_for(upsampler, x, size)
        assert guide is not None
        continued = F.pad(guide, (0, 1, 0, 1), mode="replicate")
        expected = run(upsampler, x, guide=continued)[crop]
        torch.testing.assert_close(run(upsampler, x, size, guide), expected)
    else:
        torch.testing.assert_close(run(upsampler, x, size), run(upsampler, x)[crop])


@pytest.mark.parametrize("name", NAMES)
def test_unreachable_size_is_refused(name: str) -> None:
    upsampler = variant(name)
    x = features(upsampler, 4, 4)
    size = (*(2 * side for side in x.shape[2:-2]), 9, 8)
    with pytest.raises(
        ValueError, match=r"cannot reach size=\(.*9, 8\).*needs an input of \(.*5, 4"
    ):
        upsampler(x, size=size)


@pytest.mark.parametrize("name", NAMES)
def test_other_axes_channels_and_sizes_are_refused(name: str) -> None:
    upsampler = variant(name)
    x = features(upsampler, 4, 4)
    for wrong in (x[0], x[:, :5], x.unsqueeze(-1)):
        with pytest.raises(ValueError, match=r"needs features \(B, 8, .*H, W\); got"):
            upsampler(wrong)
    with pytest.raises(ValueError, match=r"needs a size of \d integers; got \(9,\)"):
        upsampler(x, size=(9,))
    with pytest.raises(ValueError, match="scale_factor=inf"):
        UPSAMPLERS[name](CHANNELS, scale_factor=float("inf"))


@pytest.mark.parametrize("name", NAMES)
def test_impossible_channels_scales_and_guides_are_refused(name: str) -> None:
    kind = UPSAMPLERS[name]
    place = {"spatial_dims": 3} if kind.dims == {3} else {}
    with pytest.raises(ValueError, match="needs positive channels"):
        kind(0, **place)
    with pytest.raises(ValueError, match="scale_factor=0"):
        kind(CHANNELS, scale_factor=0, **place)
    with pytest.raises(ValueError, match=r"-D features"):
        build_upsampler(name, CHANNELS, spatial_dims=4)
    if kind.keeps_channels:
        with pytest.raises(ValueError, match="keeps the number of channels; got 8 in and 6 out"):
            kind(CHANNELS, 6, **place)
    if kind.guided:
        x = torch.randn(1, CHANNELS, 4, 4)
        with pytest.raises(ValueError, match="needs guide="):
            variant(name)(x)
        with pytest.raises(
            ValueError, match=r"guide at the output resolution \(8, 8\); got .*4, 4"
        ):
            variant(name)(x, guide=x)
        with pytest.raises(ValueError, match="there is no guide here"):
            build_upsampler(name, CHANNELS, guide_channels=0)


@pytest.mark.parametrize("name", [name for name in NAMES if UPSAMPLERS[name].guided])
def test_a_pixel_of_the_guide_acts_where_it_is(name: str) -> None:
    """On a tall map and with other channels than x: neither axes nor channels are mixed up."""
    upsampler = build_upsampler(name, CHANNELS, guide_channels=5).eval()
    perturb(upsampler)
    x, guide = torch.randn(2, CHANNELS, 24, 6), torch.randn(2, 5, 48, 12)
    y = run(upsampler, x, guide=guide)
    guide[0, :, 24, 4] += 3 * torch.rand(5)
    change = (run(upsampler, x, guide=guide) - y).abs()
    assert y.shape == (2, CHANNELS, 48, 12)
    assert not change[1].any()
    assert change[0, :, 22:27, 2:7].any()
    if name != "resfu_like":  # its group norm reads the whole map
        assert not change[:, :, :8].any()
        assert not change[:, :, 41:].any()


@pytest.mark.parametrize("name", [name for name in NAMES if UPSAMPLERS[name].guided])
def test_a_guide_of_another_batch_or_other_channels_is_refused(name: str) -> None:
    upsampler = build_upsampler(name, CHANNELS, guide_channels=5)
    x = torch.randn(2, CHANNELS, 4, 4)
    for shape in [(1, 5, 8, 8), (2, 6, 8, 8)]:
        with pytest.raises(ValueError, match="needs a guide of batch 2 and 5 channels"):
            upsampler(x, guide=torch.randn(shape))


# The rule trains one arm at a time; "adaptive-small" reaches both.
@pytest.mark.parametrize("label", sorted(set(LABELS) - {"adaptive"}))
def test_gradient_reaches_input_guide_and_every_parameter(label: str) -> None:
    upsampler = variant(label)
    perturb(upsampler)
    tensors: list[Tensor] = list(upsampler.parameters())
    # Two resolutions and several draws, so that every arm of a rule or a selector has its turn.
    inputs = []
    for size in [(5, 7), (12, 12)]:
        x = features(upsampler, *size).requires_grad_()
        guide = guide_for(upsampler, x)
        tensors.append(x)
        if guide is not None and label != "max_unpool":  # which only compares values of the guide
            tensors.append(guide.requires_grad_())
        inputs.append((x, guide))
    for x, guide in inputs * 4:
        y = run(upsampler, x, guide=guide)
        torch.autograd.backward((y * torch.randn_like(y)).sum())
    for tensor in tensors:
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.any()


@pytest.mark.parametrize("label", LABELS)
def test_eval_is_deterministic_and_independent_of_the_batch(label: str) -> None:
    upsampler = generic(label)
    x = features(upsampler, 7, 5)
    guide = guide_for(upsampler, x)
    y = run(upsampler, x, guide=guide)
    assert torch.equal(run(upsampler, x, guide=guide), y)
    alone = run(upsampler, x[1:], guide=None if guide is None else guide[1:])
    torch.testing.assert_close(alone, y[1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("label", LABELS)
def test_state_dict_round_trip(label: str) -> None:
    upsampler, other = generic(label), variant(label).eval()
    other.load_state_dict(upsampler.state_dict())
    x = features(upsampler, 5, 7, batch=1)
    guide = guide_for(upsampler, x)
    assert torch.equal(run(other, x, guide=guide), run(upsampler, x, guide=guide))


@pytest.mark.parametrize("label", LABELS)
def test_a_state_dict_is_all_that_a_module_from_meta_needs(label: str) -> None:
    upsampler = generic(label)
    with torch.device("meta"):
        other = variant(label).eval()
    torch.use_deterministic_algorithms(True)  # fills empty memory with NaN
    try:
        other = other.to_empty(device="cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    other.load_state_dict(upsampler.state_dict())
    x = features(upsampler, 5, 7, batch=1)
    guide = guide_for(upsampler, x)
    assert torch.equal(run(other, x, guide=guide), run(upsampler, x, guide=guide))


@pytest.mark.parametrize("label", [label for label in LABELS if variant(label).keeps_constants])
@pytest.mark.parametrize("scale_factor", [2, 3])
def test_constant_stays_constant_whatever_the_weights(label: str, scale_factor: int) -> None:
    if label == "dysample-pl" and scale_factor == 3:
        pytest.skip("8 channels do not shuffle by 3")
    upsampler = variant(label, scale_factor).eval()
    perturb(upsampler, std=1.0)
    x = features(upsampler, 7, 5)
    corner = (slice(None), slice(None), *(slice(1) for _ in x.shape[2:]))
    x = x[corner].expand_as(x)
    y = run(upsampler, x)
    torch.testing.assert_close(y, y[corner].expand_as(y), atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # weights sum to one in float32
        y = run(upsampler, x)
    tolerance = 1e-4 if y.dtype == torch.float32 else 1e-2  # an ulp of the output's own
    torch.testing.assert_close(y, y[corner].expand_as(y), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("label", LABELS)
def test_keeps_channels_last_with_the_same_values(label: str) -> None:
    upsampler = generic(label)
    x = features(upsampler, 7, 5)
    guide = guide_for(upsampler, x)
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    expected = run(upsampler, x, guide=guide)
    y = run(
        copy.deepcopy(upsampler).to(memory_format=layout),
        x.to(memory_format=layout),
        guide=None if guide is None else guide.to(memory_format=layout),
    )
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("label", LABELS)
def test_lower_precision_stays_close(label: str) -> None:
    upsampler = generic(label)
    x = smooth(features(upsampler, 12, 10, batch=1))
    guide = guide_for(upsampler, x)
    # Representable in bfloat16, as max_unpool compares its values.
    guide = None if guide is None else smooth(guide).bfloat16().float()
    expected = run(upsampler, x, guide=guide)
    tolerance = 0.04 * expected.abs().max()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            y = run(upsampler, x, guide=guide)
        assert (y.float() - expected).abs().max() < tolerance
    low = run(upsampler.bfloat16(), x.bfloat16(), guide=None if guide is None else guide.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.float() - expected).abs().max() < tolerance


@pytest.mark.parametrize("label", [label for label in LABELS if variant(label).guided])
@pytest.mark.parametrize("size", [None, (9, 7)])
def test_guided_keep_the_dtype_under_autocast(label: str, size: tuple[int, int] | None) -> None:
    name, parameters = VARIANTS[label]
    for guide_channels in {CHANNELS, CHANNELS if parameters.get("variant") == "i" else 6}:
        upsampler = build_upsampler(name, CHANNELS, guide_channels=guide_channels, **parameters)
        x = features(upsampler, 5, 4).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert run(upsampler, x, size).dtype == torch.bfloat16


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("training", [False, True])
def test_runs_on_fake_tensors(label: str, training: bool) -> None:
    with FakeTensorMode():
        upsampler = variant(label).train(training)
        x = features(upsampler, 7, 5)
        assert run(upsampler, x).shape[2:] == tuple(2 * side for side in x.shape[2:])


def test_builds_without_memory() -> None:
    with torch.device("meta"):
        for label in LABELS:
            upsampler = variant(label)
            assert all(parameter.is_meta for parameter in upsampler.parameters())


@pytest.mark.parametrize("label", LABELS)
def test_gradcheck(label: str) -> None:
    """In eval mode: a selector draws at random in training, and collapses in eval."""
    upsampler = generic(label).double()
    if isinstance(upsampler, Switched):
        upsampler = upsampler.collapse((3, 2))
    x = features(upsampler, 3, 2, batch=1).double()
    guide = guide_for(upsampler, x)
    names = [name for name, _ in upsampler.named_parameters()]

    def function(x: Tensor, guide: Tensor | None, *values: Tensor) -> Tensor:
        arguments = {"x": x, "guide": guide}
        weights = dict(zip(names, values, strict=True))
        y: Tensor = torch.func.functional_call(upsampler, weights, (), arguments)
        return y

    values = [p.detach().clone().requires_grad_() for p in upsampler.parameters()]
    guide = None if guide is None else guide.requires_grad_()
    arguments: tuple[Any, ...] = (x.requires_grad_(), guide, *values)
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True, nondet_tol=1e-12)


#: Raised by torch.use_deterministic_algorithms on CUDA, from its documentation.
NO_DETERMINISTIC_CUDA = (
    "_embedding_bag_backward",  # stands in for grid_sample on a CPU, see functional/sampling.py
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "max_unpool2d",
    "reflection_pad2d_backward",
    "_adaptive_avg_pool2d_backward",
    "put_",
    "avg_pool3d_backward",
)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("label", LABELS)
def test_determinism_is_as_declared(label: str) -> None:
    upsampler = variant(label).train()
    perturb(upsampler)
    x = features(upsampler, 5, 7).requires_grad_()
    guide = guide_for(upsampler, x)
    gradients: list[Tensor] = []
    for _ in range(2):
        x.grad = None
        torch.manual_seed(1)
        with Operations() as operations:
            torch.autograd.backward(run(upsampler, x, guide=guide).square().sum())
        assert x.grad is not None
        gradients.append(x.grad)
    assert torch.equal(*gradients)  # on a CPU
    raising = operations.names & set(NO_DETERMINISTIC_CUDA)
    if not isinstance(upsampler, Switched):  # whose arms speak for themselves
        assert bool(raising) == (upsampler.nondeterministic is not None), raising


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", NAMES)
def test_determinism_on_a_gpu_is_as_declared(name: str) -> None:
    upsampler = variant(name).cuda()
    x = features(upsampler, 5, 7).cuda().requires_grad_()
    guide = guide_for(upsampler, x)
    guide = None if guide is None else guide.cuda()
    torch.use_deterministic_algorithms(True)
    try:
        if UPSAMPLERS[name].nondeterministic is None:
            torch.autograd.backward(run(upsampler, x, guide=guide).sum())
        else:
            with pytest.raises(RuntimeError, match="deterministic"):
                torch.autograd.backward(run(upsampler, x, guide=guide).sum())
    finally:
        torch.use_deterministic_algorithms(False)


def example(upsampler: Upsampler, height: int, width: int) -> Inputs:
    x = features(upsampler, height, width, batch=1)
    return x, None, guide_for(upsampler, x)


@pytest.mark.parametrize("label", LABELS)
def test_exports(label: str) -> None:
    upsampler = generic(label)
    inputs = example(upsampler, 5, 7)
    program = torch.export.export(upsampler, inputs)
    torch.testing.assert_close(program.module()(*inputs), upsampler(*inputs), atol=1e-5, rtol=1e-4)


PLAIN = [name for name in NAMES if not issubclass(UPSAMPLERS[name], Switched)]


@pytest.mark.parametrize("name", PLAIN)
def test_exports_with_symbolic_sizes(name: str) -> None:
    upsampler = generic(name)
    dims = range(2, 2 + upsampler.spatial_dims)
    symbols = {axis: torch.export.Dim(f"side{axis}", min=2, max=512) for axis in dims}
    shapes = (
        {**symbols},
        None,
        {a: 2 * s for a, s in symbols.items()} if upsampler.guided else None,
    )
    program = torch.export.export(upsampler, example(upsampler, 5, 7), dynamic_shapes=shapes)
    other = example(upsampler, 12, 9)
    torch.testing.assert_close(program.module()(*other), upsampler(*other), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_compiles_in_one_graph(name: str, training: bool) -> None:
    """Captured by Dynamo and differentiated by AOTAutograd; Inductor only writes the kernels."""
    torch.compiler.reset()
    upsampler = generic(name).train(training and name != "selector")  # it draws at random
    x, _, guide = example(upsampler, 5, 7)
    compiled: Callable[..., Tensor] = torch.compile(upsampler, backend="aot_eager", fullgraph=True)
    outcomes = []
    for function in (upsampler, compiled):
        x = x.detach().clone().requires_grad_()
        y = function(x, None, guide)
        torch.autograd.backward(y.square().mean())
        outcomes.append((y.detach(), x.grad))
    torch.testing.assert_close(outcomes[1], outcomes[0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["carafe", "dysample", "fade", "nearest_conv", "sapa", "subpixel"])
def test_compiles_with_inductor(name: str) -> None:
    torch.compiler.reset()
    upsampler = generic(name)
    inputs = example(upsampler, 9, 12)
    compiled = torch.compile(upsampler, fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(*inputs), upsampler(*inputs), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_onnx_runtime_agrees_or_the_class_says_why_not(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    upsampler = generic(name)
    if isinstance(upsampler, Switched):
        upsampler = upsampler.collapse((6, 8))
    inputs = example(upsampler, 6, 8)
    expected = upsampler(*inputs).detach()

    def exported() -> Tensor:
        program = torch.onnx.export(upsampler, inputs, dynamo=True, verbose=False)
        assert program is not None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        tensors = [tensor for tensor in inputs if tensor is not None]
        feeds = zip(session.get_inputs(), tensors, strict=True)
        return torch.from_numpy(session.run(None, {i.name: t.numpy() for i, t in feeds})[0])

    if UPSAMPLERS[name].not_onnx is None:
        torch.testing.assert_close(exported(), expected, atol=1e-4, rtol=1e-4)
    else:
        try:
            y = exported()
        except Exception:
            return
        assert not torch.allclose(y, expected, atol=1e-4, rtol=1e-4), "it does export: say so"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale_factor", [2, 3])
def test_formulas_are_the_numbers(name: str, scale_factor: int) -> None:
    """Parameters are counted, MACs per input pixel come from the module."""
    kind = UPSAMPLERS[name]
    if kind.scales is not None and scale_factor not in kind.scales:
        pytest.skip(f"defined for {sorted(kind.scales)}")
    out = 36 if kind.keeps_channels else 10
    guide = None
    place: dict[str, int] = {"scale_factor": scale_factor, "spatial_dims": min(kind.dims)}
    if kind.guided:
        guide = place["guide_channels"] = 36 if kind.guide_source == "skip" else 3
    upsampler = build_upsampler(name, 36, out, **place)
    symbols = {
        "C": 36,
        "C_out": out,
        "C_guide": guide,
        "s": scale_factor,
        **dict(parameters_model(name)()),
    }
    count = sum(parameter.numel() for parameter in upsampler.parameters())
    assert evaluate(kind.params_formula, symbols) == count
    assert evaluate(kind.macs_formula, symbols) == upsampler.macs_per_pixel()


def evaluate(formula: str, symbols: dict[str, object]) -> object:
    return eval(formula, {"__builtins__": {"min": min, "max": max}}, symbols)


#: Six cascaded x2 modules with C = 256 behind SegFormer-B1: (parameters, GMAC), as published.
#: FADE, Lu et al., arXiv:2207.10392; SAPA, Lu et al., arXiv:2209.12866; IndexNet therein.
PUBLISHED: dict[str, tuple[dict[str, Any], float, float]] = {
    "carafe": ({}, 0.4449e6, 1.45),
    "fade": ({}, 0.285e6, 2.65),
    "fade_lite": ({}, 80.0e3, 0.89),
    "indexnet": ({}, 12.6e6, 30.65),
    "sapa": ({}, 104_832, 1.02),  # 0.1 M in the table
    "sapa-i": ({"variant": "i"}, 0, 0.75),
    "subpixel": ({}, 14.2e6, 34.4),
}
NUM_PIXELS = 14_592  # low-resolution pixels that the six modules see together


@pytest.mark.parametrize("label", PUBLISHED)
def test_costs_are_the_published_ones(label: str) -> None:
    parameters, num_parameters, gmacs = PUBLISHED[label]
    with torch.device("meta"):
        upsampler = build_upsampler(label.removesuffix("-i"), 256, **parameters)
    counted = 6 * sum(parameter.numel() for parameter in upsampler.parameters())
    assert counted == pytest.approx(num_parameters, rel=0.03, abs=500)
    assert upsampler.macs_per_pixel() * NUM_PIXELS / 1e9 == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_says_what_a_person_should_know(name: str) -> None:
    kind = UPSAMPLERS[name]
    assert kind.formula
    assert kind.pitfalls
    assert all(pitfall.endswith(".") for pitfall in kind.pitfalls)
    text = kind.paper
    assert not text or "http" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_check_of_third_parties_accepts_it(name: str) -> None:
    if name == "adaptive":
        pytest.skip("trains one arm at a time, which the check cannot know")
    check_contract(UPSAMPLERS[name])
