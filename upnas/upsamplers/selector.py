from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.projected import Projected
from upnas.upsamplers.switched import Switched

HIDDEN = 16


class Selector(Switched):
    """Learns which upsampler to use at which resolution.

    A small network, the gate, maps (log2 H, log2 W) of the input to one logit per arm; pi is their
    softmax. In training an arm is drawn with the straight-through Gumbel-softmax of Jang et al.,
    ICLR 2017, https://arxiv.org/abs/1611.01144, section 2.2: the output is the drawn arm's, the
    gate's gradient is that of the soft mixture, and only the drawn arm's weights learn. An arm is
    drawn with probability pi whatever the temperature, which sets how soft the gradient is; lower
    it during training. The gate starts uniform.

    Training costs the time and memory of all arms, because the gradient of the gate is each arm's
    output. In eval mode the likeliest arm alone is computed, but the device must be asked which one
    it is: :meth:`collapse` a trained network before it is measured or exported. Traced in eval mode
    without that (fake tensors, ``torch.export``), all arms run and the likeliest is taken.

    The cost of the choice can be trained for: give measured latencies with :meth:`set_arm_costs`
    and add a multiple of :meth:`cost_penalty` to the loss (expected latency, as in ProxylessNAS,
    Cai et al., ICLR 2019, https://arxiv.org/abs/1812.00332, section 3.3).

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels of the guide for guided arms; None means C.
        arms: Catalogue names, each once and with default parameters. Arms that keep channels get a
            1x1 convolution in front where C_out differs from C.
        temperature: Temperature tau at the start of training.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.

    Raises:
        CatalogueError: If an arm is unknown.
        ValueError: If there are no arms, an arm comes twice, or one cannot be an arm: it itself
            picks by resolution, is left out by the decoder (deferred), or reads the image; or if
            the temperature is not positive.
    """

    paper = "Jang et al., ICLR 2017, https://arxiv.org/abs/1611.01144 (the gate's training)"
    formula = "arm argmax_i pi_i(H, W), pi = softmax(MLP(log2 H, log2 W))"
    pitfalls = (
        "Training costs the time and memory of all arms.",
        "Collapse a trained network before measuring or exporting it; traced as it is, all arms "
        "run.",
        "Without a penalty on cost the gate only sees the loss.",
    )
    params_formula = (
        "C*C_out*(2*s - s % 2)**2 + C_out + (0 if C_out == C else C*C_out + C_out) + 82"
    )
    macs_formula = "C*C_out*(2*s - s % 2)**2"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
        arms: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = (
            "bilinear",
            "transposed",
        ),
        temperature: Annotated[float, Field(gt=0)] = 5.0,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        if not arms or len(set(arms)) != len(arms):
            raise ValueError(f"Selector needs at least one arm and each only once; got {arms}.")
        place = (channels, self.out_channels, scale_factor, guide_channels)
        self.names = arms
        self.arms = nn.ModuleDict(
            {_key(index, name): _arm(name, *place) for index, name in enumerate(arms)}
        )
        self.guided = any(arm.guided for arm in self.alternatives())
        self.guide_channels = channels if guide_channels is None else guide_channels
        self.gate = _Gate(len(arms))
        self.set_temperature(temperature)
        self._costs: dict[tuple[int, int], tuple[float, ...]] = {}

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature tau of the soft gradient; common is 5 down to 0.5 over training.

        Raises:
            ValueError: If it is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"Selector needs a positive temperature; got {temperature}.")
        self.temperature = temperature

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        resolution = self.deciding_resolution(x)
        logits: Tensor = self.gate(resolution)
        traced = torch.compiler.is_compiling() or isinstance(logits, FakeTensor)
        if not self.training and not traced:
            y: Tensor = self.collapse(resolution)(x, guide=guide)
            return y
        outputs = [arm(x, guide=guide) for arm in self.arms.values()]
        if self.training:
            draw = F.gumbel_softmax(logits, tau=self.temperature, hard=True)
            return _weighted_sum(draw, outputs)
        return torch.stack(outputs).index_select(0, logits.argmax(0, keepdim=True)).squeeze(0)

    def arm_probabilities(self, resolution: tuple[int, int]) -> Tensor:
        """Return pi for inputs of this (H, W): one probability per arm, differentiable."""
        probabilities: Tensor = self.gate(resolution).softmax(dim=0)
        return probabilities

    @override
    def alternatives(self) -> tuple[Upsampler, ...]:
        return tuple(arm for arm in self.arms.values() if isinstance(arm, Upsampler))

    @override
    def collapse(self, resolution: tuple[int, int]) -> Upsampler:
        return self.alternatives()[int(self.gate(resolution).argmax())]

    def set_arm_costs(self, resolution: tuple[int, int], costs_ms: Sequence[float]) -> None:
        """Store the measured latency of every arm for inputs of this (H, W).

        Args:
            resolution: Height and width of the input feature map.
            costs_ms: Latencies in milliseconds, in the order of the arms; replaces earlier ones.

        Raises:
            ValueError: If there is not one finite, non-negative cost per arm or all are zero.
        """
        usable = all(math.isfinite(cost) and cost >= 0 for cost in costs_ms) and any(costs_ms)
        if len(costs_ms) != len(self.arms) or not usable:
            raise ValueError(
                f"Selector needs one finite, non-negative latency for each of the arms "
                f"{', '.join(self.names)}, not all zero; got {list(costs_ms)} at {resolution}."
            )
        self._costs[resolution] = tuple(costs_ms)

    def cost_penalty(self) -> Tensor:
        """Return the expected relative latency of the choice, a scalar in [0, 1].

        The mean over the resolutions with known costs of sum_i pi_i cost_i / max_i cost_i; zero
        where none are known. Differentiable in the gate.
        """
        penalty = self.gate.out.bias.new_zeros(())
        for resolution, costs_ms in self._costs.items():
            relative = penalty.new_tensor(costs_ms) / max(costs_ms)
            penalty = penalty + (self.arm_probabilities(resolution) * relative).sum()
        return penalty / max(1, len(self._costs))

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, temperature={self.temperature}"


class _Gate(nn.Module):
    """Maps a resolution to one logit per arm; uniform at the start."""

    def __init__(self, num_arms: int):
        super().__init__()
        self.hidden = nn.Linear(2, HIDDEN)
        self.out = nn.Linear(HIDDEN, num_arms)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, resolution: tuple[int, int]) -> Tensor:
        # Sides from 8 to 512 are within [-1, 1].
        sides = self.out.weight.new_tensor([(math.log2(side) - 6) / 3 for side in resolution])
        # Outside autocast, so that the choice does not depend on where it is asked for.
        with torch.autocast(sides.device.type, enabled=False):
            logits: Tensor = self.out(torch.tanh(self.hidden(sides)))
        return logits


def selectors(module: nn.Module) -> list[tuple[str, Selector]]:
    """Return every selector in a network with its qualified name."""
    return [(name, child) for name, child in module.named_modules() if isinstance(child, Selector)]


def _weighted_sum(weights: Tensor, outputs: list[Tensor]) -> Tensor:
    total = weights[0] * outputs[0]
    for weight, output in zip(weights[1:], outputs[1:], strict=True):
        total = total + weight * output
    return total


def _key(index: int, name: str) -> str:
    """The name of an arm's module: torch allows no dots, which places have."""
    return name if name.isidentifier() else f"{index}_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"


def _arm(
    name: str, channels: int, out_channels: int, scale_factor: int, guide_channels: int | None
) -> Upsampler:
    # The catalogue lists this file's class, so it can only be asked at run time.
    from upnas.upsamplers.catalogue import build_upsampler, find_upsampler

    kind = find_upsampler(name)
    if issubclass(kind, Switched):
        raise ValueError(f"Selector: arm {name!r} itself picks by resolution; name its arms here.")
    if kind.deferred:
        raise ValueError(f"Selector: arm {name!r} is left out by the decoder; it is no arm.")
    if kind.guided and kind.guide_source == "image":
        raise ValueError(f"Selector: arm {name!r} reads the image; arms read the encoder skip.")
    projects = kind.keeps_channels and out_channels != channels
    arm = build_upsampler(
        name,
        out_channels if projects else channels,
        out_channels,
        scale_factor=scale_factor,
        guide_channels=guide_channels,
    )
    return Projected(channels, arm) if projects else arm
