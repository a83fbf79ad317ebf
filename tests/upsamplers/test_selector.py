from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from upnas.upsamplers import (
    CatalogueError,
    Projected,
    Selector,
    Transposed,
    build_upsampler,
    selectors,
)

from .helpers import perturb

ARMS = ("bilinear", "transposed", "nearest_conv")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def prefer(selector: Selector, arm: int, logit: float = 50.0) -> None:
    with torch.no_grad():
        selector.gate.out.bias.zero_()
        selector.gate.out.bias[arm] = logit


def by_side(selector: Selector) -> None:
    """Weights with which small maps take the first arm and large ones the last; 64 is the tie."""
    with torch.no_grad():
        selector.gate.hidden.weight.fill_(1)
        selector.gate.hidden.bias.zero_()
        selector.gate.out.weight.zero_()
        selector.gate.out.weight[0] = -1
        selector.gate.out.weight[-1] = 1


def test_starts_uniform_everywhere() -> None:
    selector = Selector(4, arms=ARMS)
    for resolution in [(1, 1), (16, 32), (512, 512)]:
        expected = torch.full((3,), 1 / 3)
        torch.testing.assert_close(selector.arm_probabilities(resolution), expected)


def test_probabilities_are_the_softmax_of_the_gate() -> None:
    selector = Selector(4, arms=ARMS).double()
    perturb(selector, std=0.5)
    gate = selector.gate
    inputs = [(math.log2(16) - 6) / 3, (math.log2(100) - 6) / 3]
    hidden = [
        math.tanh(sum(w * z for w, z in zip(row, inputs, strict=True)) + b)
        for row, b in zip(gate.hidden.weight.tolist(), gate.hidden.bias.tolist(), strict=True)
    ]
    logits = [
        sum(w * h for w, h in zip(row, hidden, strict=True)) + b
        for row, b in zip(gate.out.weight.tolist(), gate.out.bias.tolist(), strict=True)
    ]
    total = sum(math.exp(logit) for logit in logits)
    expected = torch.tensor([math.exp(logit) / total for logit in logits], dtype=torch.float64)
    torch.testing.assert_close(selector.arm_probabilities((16, 100)), expected)


@pytest.mark.parametrize("arm", [0, 1, 2])
def test_eval_computes_the_likeliest_arm_only(arm: int) -> None:
    selector = Selector(4, 6, arms=ARMS).eval()
    prefer(selector, arm, logit=0.1)
    calls = []
    for name, module in selector.arms.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    x = torch.randn(2, 4, 5, 7)
    y = selector(x)
    assert calls == [ARMS[arm]]
    torch.testing.assert_close(y, selector.arms[ARMS[arm]](x), atol=1e-6, rtol=0)


def test_the_choice_depends_on_the_resolution() -> None:
    selector = Selector(4, arms=ARMS).eval()
    by_side(selector)
    assert selector.collapse((16, 16)) is selector.arms["bilinear"]
    assert selector.collapse((256, 256)) is selector.arms["nearest_conv"]
    for size in [(16, 16), (128, 70)]:
        x = torch.randn(1, 4, *size)
        torch.testing.assert_close(selector(x), selector.collapse(size)(x), atol=1e-6, rtol=0)


def test_training_outputs_one_drawn_arm() -> None:
    selector = Selector(4, 6, arms=ARMS)
    x = torch.randn(2, 4, 5, 7)
    outputs = [arm(x) for arm in selector.arms.values()]
    drawn = [0, 0, 0]
    for _ in range(60):
        y = selector(x)
        errors = [(y - output).abs().max().item() for output in outputs]
        assert min(errors) < 1e-5
        drawn[errors.index(min(errors))] += 1
    assert min(drawn) > 5  # uniform: 20 each expected


@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_arms_are_drawn_by_their_probability_at_any_temperature(temperature: float) -> None:
    selector = Selector(1, arms=("nearest", "transposed"), temperature=temperature)
    prefer(selector, 0, logit=math.log(4))  # probabilities 0.8 and 0.2
    nn.init.zeros_(selector.arms["transposed"].conv.weight)  # type: ignore[union-attr, arg-type]
    x = torch.ones(1, 1, 1, 1)
    with torch.no_grad():
        nearest = sum(selector(x).mean().item() > 0.5 for _ in range(1000))
    assert nearest / 1000 == pytest.approx(0.8, abs=0.05)


def test_gradient_of_the_gate_is_that_of_the_soft_mixture() -> None:
    selector = Selector(2, arms=("nearest", "bilinear"), temperature=2.0).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    direction = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    torch.manual_seed(7)
    torch.autograd.backward((selector(x) * direction).sum())
    # The same noise, through the soft weights.
    torch.manual_seed(7)
    gumbel = -torch.empty(2, dtype=torch.float64).exponential_().log()
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    soft = ((logits + gumbel) / 2.0).softmax(0)
    values = torch.stack([(arm(x) * direction).sum() for arm in selector.arms.values()])
    (gradient,) = torch.autograd.grad((soft * values).sum(), logits)
    torch.testing.assert_close(selector.gate.out.bias.grad, gradient)


def train_gate(selector: Selector, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def test_the_gate_learns_the_better_arm() -> None:
    selector = Selector(1, arms=("nearest", "bilinear"))
    bilinear = build_upsampler("bilinear", 1)
    optimizer = torch.optim.Adam(selector.gate.parameters(), lr=0.05)
    for step in range(60):
        selector.set_temperature(5.0 * 0.1 ** (step / 60))
        x = torch.randn(4, 1, 6, 6)
        train_gate(selector, (selector(x) - bilinear(x)).square().mean(), optimizer)
    assert selector.arm_probabilities((6, 6))[1] > 0.8


def test_cost_penalty_is_the_expected_relative_latency() -> None:
    selector = Selector(4, arms=ARMS).double()
    perturb(selector, std=0.5)
    assert selector.cost_penalty().item() == 0
    costs = {(16, 16): (1.0, 4.0, 2.0), (64, 32): (3.0, 0.0, 1.0)}
    for resolution, costs_ms in costs.items():
        selector.set_arm_costs(resolution, costs_ms)
    expected = 0.0
    for resolution, costs_ms in costs.items():
        pi = selector.arm_probabilities(resolution).tolist()
        expected += sum(p * c for p, c in zip(pi, costs_ms, strict=True)) / max(costs_ms) / 2
    assert selector.cost_penalty().item() == pytest.approx(expected)


def test_cost_penalty_teaches_the_cheapest_arm_at_each_resolution() -> None:
    selector = Selector(4, arms=ARMS)
    costs = {(16, 16): (9.0, 1.0, 5.0), (256, 256): (9.0, 5.0, 1.0)}
    for resolution, costs_ms in costs.items():
        selector.set_arm_costs(resolution, costs_ms)
    optimizer = torch.optim.Adam(selector.gate.parameters(), lr=0.05)
    for _ in range(100):
        train_gate(selector, selector.cost_penalty(), optimizer)
    assert isinstance(selector.collapse((16, 16)), Transposed)
    assert selector.collapse((256, 256)) is selector.arms["nearest_conv"]


def test_autocast_does_not_change_the_choice() -> None:
    selector = Selector(4, arms=ARMS)
    perturb(selector)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = selector.arm_probabilities((32, 48))
    assert torch.equal(under_autocast, selector.arm_probabilities((32, 48)))


def test_traced_in_eval_mode_it_still_takes_the_likeliest_arm() -> None:
    selector = Selector(4, 6, arms=ARMS).eval()
    x = torch.randn(1, 4, 5, 7)
    for arm, name in enumerate(ARMS):
        prefer(selector, arm)
        program = torch.export.export(selector, (x,)).module()
        torch.testing.assert_close(program(x), selector.arms[name](x), atol=1e-6, rtol=0)


def test_arms_that_keep_channels_are_projected() -> None:
    selector = Selector(4, 6, arms=("carafe", "transposed"))
    arm = selector.arms["carafe"]
    assert isinstance(arm, Projected)
    assert (arm.channels, arm.out_channels) == (4, 6)
    x = torch.randn(1, 4, 3, 5)
    torch.testing.assert_close(arm(x), arm.upsampler(arm.project(x)))
    assert arm(x).shape == (1, 6, 6, 10)
    assert not isinstance(Selector(4, arms=("carafe",)).arms["carafe"], Projected)


def test_finds_the_selectors_of_a_network() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ModuleDict({"up": Selector(4)}), Selector(4))
    found = selectors(network)
    assert [name for name, _ in found] == ["1.up", "2"]
    assert all(isinstance(module, Selector) for _, module in found)


def test_mistakes_are_refused() -> None:
    with pytest.raises(
        CatalogueError, match=r"Unknown upsampler 'bilinaer'\. Did you mean 'bilinear'"
    ):
        Selector(4, arms=("bilinaer",))
    for nested in ("selector", "adaptive"):
        with pytest.raises(ValueError, match=f"arm '{nested}' itself picks by resolution"):
            Selector(4, arms=("bilinear", nested))
    for arms in ((), ("nearest", "nearest")):
        with pytest.raises(ValueError, match="at least one arm and each only once"):
            Selector(4, arms=arms)
    with pytest.raises(ValueError, match=r"positive temperature; got 0\.0"):
        Selector(4).set_temperature(0.0)


@pytest.mark.parametrize(
    "costs", [(1.0,), (1.0, -1.0), (math.nan, 1.0), (math.inf, 1.0), (0.0, 0.0)]
)
def test_impossible_costs_are_refused(costs: tuple[float, ...]) -> None:
    selector = Selector(4)
    with pytest.raises(ValueError, match="one finite, non-negative latency for each of the arms"):
        selector.set_arm_costs((8, 8), costs)
