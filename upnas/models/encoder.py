"""Encoders: any timm model that supports ``features_only`` and is hierarchical."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.errors import DataError, SpaceError, suggest_name
from upnas.records import EncoderSpec


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What an encoder gives, read from timm's ``feature_info``; shallowest feature first.

    Attributes:
        channels: Channels of each feature map.
        reductions: Input side / feature side of each feature map.
    """

    channels: tuple[int, ...]
    reductions: tuple[int, ...]


def _create(
    spec: EncoderSpec, *, in_channels: int, pretrained: bool, features: tuple[int, ...] | None
) -> nn.Module:
    """Create the timm feature extractor; a mistake in the specification is a SpaceError."""
    options: dict[str, Any] = {
        "features_only": True,
        "in_chans": in_channels,
        "pretrained": pretrained,
    }
    if features is not None:
        options["out_indices"] = features
    config = timm.get_pretrained_cfg(spec.name)
    is_fixed = config is not None and config.fixed_input_size
    if is_fixed:
        options["strict_img_size"] = False  # window transformers: timm pads the windows itself
    failure: Exception | None = None
    # timm's "getter" drops the blocks behind the deepest feature and gives (B, C, H, W), as the
    # default does not for some families (MobileNet; Swin). A few know the default alone.
    feature_classes: tuple[dict[str, Any], ...] = ({"feature_cls": "getter"}, {})
    for feature_class in feature_classes:
        try:
            return timm.create_model(spec.name, **options, **feature_class)
        except (TypeError, RuntimeError, AttributeError) as error:
            failure = error
        except OSError as error:
            raise DataError(
                f"the pretrained weights of encoder {spec.name!r} cannot be fetched ({error}). "
                "Connect this machine, fill the Hugging Face cache, or set pretrained: false."
            ) from error
    if is_fixed:
        raise SpaceError(
            f"encoder {spec.name!r} works at one fixed input size, which dense prediction cannot "
            "promise. Choose a convolutional or window-based one, e.g. resnet18 or "
            "swin_tiny_patch4_window7_224."
        ) from failure
    raise SpaceError(
        f"encoder {spec.name!r} does not support timm's features_only. "
        "Choose one that does, e.g. resnet18, mobilenetv3_small_100 or convnext_tiny."
    ) from failure


def _check_name(spec: EncoderSpec) -> None:
    """Refuse a name, a tag or a wish for weights that timm does not know."""
    names = timm.list_models(include_tags=False)
    tagged = timm.list_models(pretrained=True, include_tags=True)
    if spec.name not in names and spec.name not in tagged:
        hint = suggest_name(spec.name, tagged if "." in spec.name else names)
        raise SpaceError(
            f"timm knows no encoder {spec.name!r}.{hint} `timm.list_models()` lists them all."
        )
    if spec.pretrained and spec.name not in tagged and not timm.is_model_pretrained(spec.name):
        raise SpaceError(
            f"timm has no pretrained weights of encoder {spec.name!r}. Set pretrained: false, or "
            "choose one that `timm.list_pretrained()` lists."
        )


@lru_cache(maxsize=64)
def encoder_info(spec: EncoderSpec) -> EncoderInfo:
    """Channels and reductions of the first ``spec.depth`` features of an encoder.

    Raises:
        SpaceError: If timm does not know the encoder or the weights asked for, it has no
            ``features_only``, it gives fewer features than ``spec.depth``, or its features are not
            a pyramid of powers of two.
    """
    _check_name(spec)
    with torch.device("meta"):  # the layout alone, without allocating or initialising weights
        encoder = _create(spec, in_channels=3, pretrained=False, features=None)
    channels = tuple(encoder.feature_info.channels())  # type: ignore[operator, union-attr]
    reductions = tuple(encoder.feature_info.reduction())  # type: ignore[operator, union-attr]
    if spec.depth > len(channels):
        raise SpaceError(
            f"encoder {spec.name!r} gives {len(channels)} features (reductions "
            f"{list(reductions)}); depth is {spec.depth}. Allowed: 1 to {len(channels)}."
        )
    grows = all(b > a for a, b in pairwise(reductions))
    if not grows or any(r & (r - 1) for r in reductions):
        raise SpaceError(
            f"encoder {spec.name!r} is not hierarchical: its reductions are {list(reductions)}, "
            "and a U-Net needs growing powers of two. Choose e.g. resnet18, convnext_tiny, "
            "swin_tiny_patch4_window7_224 or pvt_v2_b0."
        )
    return EncoderInfo(channels[: spec.depth], reductions[: spec.depth])


class Encoder(nn.Module):
    """A timm feature extractor whose features have exactly ceil(side / reduction) pixels.

    timm encoders round odd sides up or down, or refuse them; here the input is extended to a
    multiple of the deepest reduction by repeating its last row and column (zeros would draw a
    false edge), and the features are cropped.

    Shape:
        (B, in_channels, H, W) -> one (B, C_i, ceil(H / r_i), ceil(W / r_i)) per feature,
        shallowest first, for any H, W >= 1.
    """

    def __init__(self, spec: EncoderSpec, in_channels: int, *, pretrained: bool):
        super().__init__()
        self.info = encoder_info(spec)
        self.features = _create(
            spec, in_channels=in_channels, pretrained=pretrained, features=tuple(range(spec.depth))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the features, shallowest first."""
        height, width = x.shape[-2:]
        multiple = self.info.reductions[-1]
        bottom, right = -height % multiple, -width % multiple
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        features = []
        for feature, reduction in zip(self.features(x), self.info.reductions, strict=True):
            rows, columns = math.ceil(height / reduction), math.ceil(width / reduction)
            features.append(feature[..., :rows, :columns])
        return tuple(features)
