"""Relative errors, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from upnas.measure.export.numerics import output_error


def test_the_error_is_the_norm_of_the_difference_over_that_of_the_expected() -> None:
    assert output_error(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0])) == 4 / 5
    assert output_error(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0])) == 1.0


def test_equal_outputs_have_no_error() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert output_error(x, x.clone()) == 0.0


def test_a_common_factor_is_the_error_of_any_tensor() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert output_error(1.25 * x, x) == pytest.approx(0.25, rel=1e-6)


def test_rounding_to_bfloat16_costs_less_than_its_half_unit() -> None:
    x = torch.rand(10_000) + 1
    error = output_error(x.bfloat16(), x)
    assert 2**-8 / 10 < error < 2**-8


def test_float64_resolves_what_float32_would_round_away() -> None:
    expected = torch.ones(1, dtype=torch.float64)
    assert output_error(expected + 1e-12, expected) == pytest.approx(1e-12, rel=1e-3)
    # The square of the difference is below float32's smallest number.
    assert output_error(torch.tensor([1e-30]), torch.tensor([2e-30])) == pytest.approx(0.5)


def test_zeros_equal_zeros_and_nothing_else_can_be_told_of_them() -> None:
    zeros = torch.zeros(3)
    assert output_error(zeros, zeros) == 0.0
    assert output_error(zeros[:0], zeros[:0]) == 0.0
    with pytest.raises(ValueError, match=r"should be zero everywhere; its L2 norm is 2e-09\."):
        output_error(torch.tensor([0.0, 2e-9, 0.0]), zeros)


def test_other_shapes_are_refused_even_where_they_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"the shape \(1, 4\) instead of \(3, 4\)"):
        output_error(torch.zeros(1, 4), torch.zeros(3, 4))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_refused(bad: float) -> None:
    fine, broken = torch.ones(4), torch.tensor([1.0, bad, 1.0, bad])
    with pytest.raises(ValueError, match=r"^The output has 2 of 4 values that are not finite"):
        output_error(broken, fine)
    with pytest.raises(ValueError, match=r"^The expected output has 2 of 4 values"):
        output_error(fine, broken)
