"""Costs from a stage table, counted by hand."""

from __future__ import annotations

import pytest

from upnas.prediction import LatencyModel, predict_costs, predicted_peak_bytes
from upnas.records import StageTable

from .synthetic import candidate, stage_cost

MIB = 2**20
TABLE = StageTable(
    target="laptop",
    reference=candidate(0, 0),
    stages=(
        (
            stage_cost(0, 0.1, activation_bytes=3 * MIB),
            stage_cost(1, 0.2, activation_bytes=5 * MIB, static_bytes=4 * MIB),
        ),
        (
            stage_cost(0, 0.1, activation_bytes=4 * MIB),
            stage_cost(1, 0.2, activation_bytes=9 * MIB, static_bytes=8 * MIB),
            stage_cost(2, None, activation_bytes=None),
        ),
    ),
    num_parameters=1000,
    static_bytes=2 * MIB,
    machine="abc",
)


@pytest.mark.parametrize(
    ("codes", "peak_mib"),
    [((0, 0), 2 + 4), ((1, 0), 2 + 4 + 5), ((0, 1), 2 + 8 + 9), ((1, 1), 2 + 4 + 8 + 9)],
)
def test_the_peak_is_all_weights_and_the_worst_stage(codes: tuple[int, int], peak_mib: int) -> None:
    assert predicted_peak_bytes(TABLE, candidate(*codes)) == peak_mib * MIB


def test_costs_hold_the_prediction_and_what_is_exact() -> None:
    model = LatencyModel.fit(TABLE, [])
    (costs,) = predict_costs(model, [candidate(1, 1)], reference_ms=20.0)
    assert costs is not None
    assert costs.target == "laptop"
    assert costs.machine == "abc"
    assert not costs.is_measured
    assert costs.latency_ms == pytest.approx(1.2 * 20)
    assert costs.peak_memory_mib == 23
    assert costs.num_parameters == 1000 + MIB + 2 * MIB


def test_a_stage_without_costs_must_be_measured() -> None:
    model = LatencyModel.fit(TABLE, [])
    deferred, stranger = candidate(0, 2), candidate(0, 7)
    assert predict_costs(model, [deferred, stranger, candidate(0, 0)], 1.0)[:2] == [None, None]
    assert predicted_peak_bytes(TABLE, deferred) is None
    assert predicted_peak_bytes(TABLE, stranger) is None
