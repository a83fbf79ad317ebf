"""Networks: shapes, gradients, purity, and what a record alone brings back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.errors import SpaceError
from upnas.models import DECODERS, build_model, decoder_of, describe_stages, rebuild_model
from upnas.models.super_resolution import SuperResolution
from upnas.models.unet import UNet, UNetStage
from upnas.records import (
    Candidate,
    EncoderSpec,
    ModelSpec,
    TaskSignature,
    TrialRecord,
    TrialState,
)
from upnas.upsamplers import UPSAMPLERS, GuidedUpsampler

from .helpers import SEGMENTATION, SMALL_ENCODER, sr, sr_signature, unet

NAMES = sorted(name for name, kind in UPSAMPLERS.items() if 2 in kind.dims)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenetv3_small_050",
        "test_efficientnet",
        "test_convnext",
        "swin_tiny_patch4_window7_224",
        "pvt_v2_b0",
    ],
)
def test_unet_keeps_the_size(name: str) -> None:
    encoder = EncoderSpec(name=name, depth=3)
    num_stages = len(describe_stages(ModelSpec(decoder="unet", encoder=encoder), SEGMENTATION))
    candidate = unet(*["bilinear"] * num_stages, encoder=encoder, num_convs=1)
    model = build_model(candidate, SEGMENTATION).eval()
    for size in [(64, 64), (65, 77), (33, 32)]:
        with torch.inference_mode():
            assert model(torch.randn(1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decoder", ["unet", "sr"])
def test_every_upsampler_in_every_stage_learns(decoder: str, name: str) -> None:
    task = SEGMENTATION if decoder == "unet" else sr_signature(4)
    candidate = (unet if decoder == "unet" else sr)(name, name)
    if decoder == "sr" and UPSAMPLERS[name].guided:
        with pytest.raises(ValueError, match="is guided, but there is no guide here"):
            build_model(candidate, task)
        return
    model = build_model(candidate, task).train()
    torch.manual_seed(0)
    with torch.no_grad():  # away from zeros, behind which gradients vanish
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    for _ in range(8 if name == "selector" else 1):  # each forward draws one of its two arms
        outputs = model(torch.randn(2, 3, 13, 11))
        outputs.square().mean().backward()
    scale = task.scale_factor
    assert outputs.shape == (2, task.out_channels, 13 * scale, 11 * scale)
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_stages_of_a_unet() -> None:
    spec = unet("nearest", "nearest").model
    deep, shallow = describe_stages(spec, SEGMENTATION)
    assert (deep.label, deep.channels, deep.skip_channels) == ("4->2", 8, 16)
    assert (deep.out_channels, deep.scale_in) == (16, 0.25)
    assert (shallow.label, shallow.channels, shallow.skip_channels) == ("2->1", 16, 0)
    assert (shallow.out_channels, shallow.scale_in) == (16, 0.5)
    chosen = unet("nearest", "nearest", channels=(12, 6)).model
    assert [info.out_channels for info in describe_stages(chosen, SEGMENTATION)] == [12, 6]
    assert [info.channels for info in describe_stages(chosen, SEGMENTATION)] == [8, 12]


def test_a_unet_has_stages_where_the_encoder_has_no_skip() -> None:
    spec = EncoderSpec(name="test_convnext", depth=1)  # its first feature is at stride 4
    stages = describe_stages(ModelSpec(decoder="unet", encoder=spec), SEGMENTATION)
    assert [(info.label, info.skip_channels) for info in stages] == [("4->2", 0), ("2->1", 0)]


class Recorder(GuidedUpsampler):
    """Nearest interpolation that remembers its guide."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        self.seen = guide
        return F.interpolate(x, scale_factor=2.0)


class ImageRecorder(Recorder):
    guide_source = "image"


@pytest.mark.parametrize("kind", [Recorder, ImageRecorder])
@pytest.mark.parametrize("encoder", ["mobilenetv3_small_050", "test_convnext"])
def test_guided_upsamplers_get_the_skip_or_the_image(encoder: str, kind: type[Recorder]) -> None:
    depth = 2 if encoder == "mobilenetv3_small_050" else 1
    candidate = unet("nearest", "nearest", encoder=EncoderSpec(name=encoder, depth=depth))
    model = build_model(candidate, SEGMENTATION).eval()
    assert isinstance(model, UNet)
    infos = describe_stages(candidate.model, SEGMENTATION)
    wants_skip = kind.guide_source == "skip"
    deep, shallow = (
        kind(info.channels, guide_channels=(info.skip_channels if wants_skip else 0) or 3)
        for info in infos
    )
    model.stages[0].upsampler, model.stages[1].upsampler = deep, shallow
    image = torch.randn(1, 3, 13, 10)
    model(image)
    # A last stage has no skip, and this convnext's first feature is at stride 4: no skip at all.
    has_skip = kind is Recorder and depth == 2
    half = F.avg_pool2d(image, 2, ceil_mode=True)
    expected = model.encoder(image)[0] if has_skip else half
    assert deep.seen is not None
    torch.testing.assert_close(deep.seen[:, :, :7, :5], expected)
    assert shallow.seen is not None
    torch.testing.assert_close(shallow.seen[:, :, :13], image)


def test_a_deferred_unet_stays_small_and_is_enlarged_once() -> None:
    model = build_model(unet("deferred", "nearest"), SEGMENTATION).eval()
    assert isinstance(model, UNet)
    image = torch.randn(2, 3, 13, 10)
    skip, deepest = model.encoder(image)  # strides 2 and 4
    pooled = F.avg_pool2d(skip, 2, ceil_mode=True)  # without padding: averages of what is there
    deep, shallow = model.stages
    assert isinstance(deep, UNetStage)
    assert isinstance(shallow, UNetStage)
    y = deep.block(torch.cat([deepest, pooled], dim=1))  # still at stride 4
    y = model.head(shallow.block(F.interpolate(y, scale_factor=2.0)[..., :7, :5]))
    expected = F.interpolate(y, scale_factor=2.0, mode="bilinear")[..., :13, :10]
    torch.testing.assert_close(model(image), expected)


def test_a_deferred_super_resolution_network_works_at_low_resolution() -> None:
    model = build_model(sr("deferred", "deferred"), sr_signature(4)).eval()
    assert isinstance(model, SuperResolution)
    x = torch.rand(1, 3, 5, 6)
    features = model.stem(x)
    residual = model.head(features + model.trunk(features))
    expected = F.interpolate(x, scale_factor=4.0, mode="bicubic") + F.interpolate(
        residual, scale_factor=4.0, mode="bilinear"
    )
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("scale", [2, 4])
def test_super_resolution_starts_from_bicubic(scale: int) -> None:
    candidate = sr(*["subpixel"] * (scale // 2))
    model = build_model(candidate, sr_signature(scale)).eval()
    x = torch.rand(2, 3, 7, 5)
    with torch.inference_mode():
        assert model(x).shape == (2, 3, 7 * scale, 5 * scale)
        assert isinstance(model.head, nn.Conv2d)
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)  # type: ignore[arg-type]
        bicubic = F.interpolate(x, scale_factor=scale, mode="bicubic", align_corners=False)
        torch.testing.assert_close(model(x), bicubic, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("candidate", "task", "message"),
    [
        (
            unet("nearest", "nearest", channels=(8,)),
            SEGMENTATION,
            r"has 1 entries.*2 stages \(4->2 2->1\)",
        ),
        (unet("nearest"), SEGMENTATION, r"2 stages \(4->2, 2->1\).*names 1 upsamplers"),
        (unet("nearest", "nearest"), sr_signature(2), "wants x2. Use decoder: sr"),
        (sr("nearest"), SEGMENTATION, "power of two"),
        (sr("nearest", "nearest"), sr_signature(2), "names 2 upsamplers"),
        (
            sr("nearest"),
            TaskSignature(name="depth", in_channels=3, out_channels=1, scale_factor=2),
            "3 in and 1 out",
        ),
        (
            Candidate(model=ModelSpec(decoder="unet"), stages=()),
            SEGMENTATION,
            "needs model.encoder",
        ),
        (
            Candidate(model=ModelSpec(decoder="sr", encoder=SMALL_ENCODER), stages=()),
            sr_signature(2),
            "remove model.encoder",
        ),
        (
            unet(encoder=EncoderSpec(name="vgg11", depth=1)),
            SEGMENTATION,
            "does not reduce the resolution",
        ),
    ],
)
def test_mistakes_are_named(candidate: Candidate, task: TaskSignature, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        build_model(candidate, task)


def test_an_unknown_decoder_is_named() -> None:
    with pytest.raises(SpaceError, match=r"'unett'\. Did you mean 'unet'\? Allowed: sr, unet"):
        decoder_of("unett")
    assert {name: decoder_of(name) for name in DECODERS} == dict(DECODERS)


def test_equal_arguments_give_equal_weights_and_touch_no_random_state() -> None:
    before = torch.get_rng_state()
    first = build_model(unet("carafe", "transposed"), SEGMENTATION, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = build_model(unet("carafe", "transposed"), SEGMENTATION, seed=3).state_dict()
    other = build_model(unet("carafe", "transposed"), SEGMENTATION, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    for part in ("encoder", "stages.0.upsampler", "stages.1.block", "head"):
        names = [name for name in first if name.startswith(part) and name.endswith("weight")]
        assert any(not torch.equal(first[name], other[name]) for name in names)


@pytest.mark.parametrize(
    ("one", "other", "task"),
    [
        (unet("carafe", "bilinear"), unet("dysample", "transposed"), SEGMENTATION),
        (sr("carafe", "bilinear"), sr("dysample", "transposed"), sr_signature(4)),
    ],
    ids=["unet", "sr"],
)
def test_candidates_with_one_seed_share_all_weights_but_the_upsamplers(
    one: Candidate, other: Candidate, task: TaskSignature
) -> None:
    first, second = (build_model(c, task, seed=1).state_dict() for c in (one, other))
    upsamplers = ("upsampler",) if task is SEGMENTATION else ("stages",)
    shared = [name for name in first if not any(word in name for word in upsamplers)]
    assert {name.split(".")[0] for name in shared} >= {"head"}
    assert all(torch.equal(first[name], second[name]) for name in shared)
    assert len(shared) == len([n for n in second if not any(word in n for word in upsamplers)])


def test_a_pretrained_encoder_is_not_fetched_for_a_state_dict() -> None:
    spec = SMALL_ENCODER.model_copy(update={"pretrained": True})
    candidate = unet("nearest", "nearest", encoder=spec)
    plain = build_model(unet("nearest", "nearest"), SEGMENTATION).state_dict()
    rebuilt = rebuild_model(candidate, SEGMENTATION, plain)
    assert all(torch.equal(tensor, plain[name]) for name, tensor in rebuilt.state_dict().items())


@pytest.mark.parametrize(
    "stages",
    [
        (("transposed", {"kernel_size": 2, "init": "default"}), "carafe"),
        (("selector", {"arms": ("nearest", "subpixel")}), "adaptive"),
    ],
    ids=["parameters", "switched"],
)
def test_a_record_and_the_weights_rebuild_the_network(stages: tuple[Any, Any]) -> None:
    candidate = unet(*stages, channels=(12, 6), num_convs=1)
    model = build_model(candidate, SEGMENTATION, seed=5)
    x = torch.randn(4, 3, 19, 23)
    model.train()(x)  # moves the statistics of the batch normalisation
    record = TrialRecord(
        number=0, candidate=candidate, task=SEGMENTATION, seed=5, state=TrialState.RUNNING
    )
    read = TrialRecord.model_validate_json(record.model_dump_json())
    assert read.candidate.key == candidate.key
    rebuilt = rebuild_model(read.candidate, read.task, model.state_dict())
    assert not rebuilt.training
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(x), model.eval()(x), rtol=0, atol=0)


def test_wrong_weights_are_refused() -> None:
    weights = build_model(unet("nearest", "nearest"), SEGMENTATION).state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        rebuild_model(unet("transposed", "nearest"), SEGMENTATION, weights)
