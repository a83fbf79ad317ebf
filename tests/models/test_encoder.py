"""Encoders: channels, reductions and exact feature sizes; mistakes are named."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from upnas.errors import DataError, SpaceError
from upnas.models.encoder import Encoder, encoder_info
from upnas.records import EncoderSpec

ENCODERS = [
    "resnet18",
    "mobilenetv3_small_050",
    "test_efficientnet",
    "test_convnext",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b0",
]
SIZES = [(64, 64), (65, 77), (63, 65), (1, 1)]


@pytest.mark.parametrize("name", ENCODERS)
def test_info_and_feature_sizes(name: str) -> None:
    spec = EncoderSpec(name=name, depth=4)
    info = encoder_info(spec)
    with torch.device("meta"):
        timms = timm.create_model(name, features_only=True)
    assert list(info.channels) == timms.feature_info.channels()[:4]  # type: ignore[union-attr,operator]
    assert list(info.reductions) == timms.feature_info.reduction()[:4]  # type: ignore[union-attr,operator]
    encoder = Encoder(spec, in_channels=3, pretrained=False).eval()
    for height, width in SIZES:
        with torch.inference_mode():
            features = encoder(torch.randn(2, 3, height, width))
        assert [tuple(feature.shape) for feature in features] == [
            (2, c, math.ceil(height / r), math.ceil(width / r))
            for c, r in zip(info.channels, info.reductions, strict=True)
        ]


def test_blocks_behind_the_deepest_feature_are_not_kept() -> None:
    def num_parameters(depth: int) -> int:
        spec = EncoderSpec(name="mobilenetv3_small_050", depth=depth)
        encoder = Encoder(spec, in_channels=3, pretrained=False)
        return sum(parameter.numel() for parameter in encoder.parameters())

    assert num_parameters(2) < 2_000
    assert num_parameters(5) > 100 * num_parameters(2)


def test_padding_repeats_the_border() -> None:
    encoder = Encoder(EncoderSpec(name="resnet18", depth=2), 1, pretrained=False).eval()
    x = torch.randn(1, 1, 7, 5)
    padded = torch.cat([x, x[..., -1:, :]], dim=2)
    padded = torch.cat([padded, *[padded[..., -1:]] * 3], dim=3)  # 8 x 8
    with torch.inference_mode():
        for feature, expected in zip(encoder(x), encoder(padded), strict=True):
            rows, columns = feature.shape[-2:]
            torch.testing.assert_close(feature, expected[..., :rows, :columns], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (EncoderSpec(name="resnet81"), r"no encoder 'resnet81'\. Did you mean 'resnet18"),
        (EncoderSpec(name="resnet18.a1_in2k"), r"Did you mean 'resnet18\.a1_in1k'"),
        (EncoderSpec(name="vit_tiny_patch16_224"), r"one fixed input size.*resnet18"),
        (EncoderSpec(name="resnet18", depth=6), r"gives 5 features .*depth is 6\. Allowed: 1 to 5"),
        (EncoderSpec(name="convmixer_768_32", depth=1), r"not hierarchical: .*\[7, 7, 7\]"),
        (EncoderSpec(name="botnet50ts_256", pretrained=True), "no pretrained weights"),
    ],
    ids=lambda value: value.name if isinstance(value, EncoderSpec) else None,
)
def test_mistakes_are_named(spec: EncoderSpec, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        encoder_info(spec)


def test_a_tag_is_allowed() -> None:
    plain, tagged = EncoderSpec(name="resnet18"), EncoderSpec(name="resnet18.a1_in1k")
    assert encoder_info(tagged) == encoder_info(plain)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EncoderSpec(name="resnet18", pretrained=True, depth=1)
    encoder_info(spec)

    def offline(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DataError, match=r"'resnet18' cannot be fetched .*pretrained: false"):
        Encoder(spec, 3, pretrained=True)
