"""What the figures show, interactive and still."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot, rcParams

from report.fake_study import EFFECTS, HOSTILE, fake_trials, make_candidate, make_header, make_trial
from upnas.front import StudySummary, hypervolume_history, minimised, summarise
from upnas.pareto import step_front
from upnas.records import TrialState
from upnas.report.figures import (
    hypervolume_curve,
    learning_curves,
    parallel_coordinates,
    pareto_scatter,
)
from upnas.report.panel import MAX_DOMINATED, drawn_columns, make_panel, panel_columns, thin
from upnas.report.static import pareto_image, pareto_svg

HEADER = make_header()
SUMMARY = summarise(HEADER, fake_trials())


def traces(figure: Any) -> dict[str, dict[str, Any]]:
    """Traces by name; a legend key comes before its points and is replaced by them."""
    return {trace["name"]: trace for trace in json.loads(figure.to_json())["data"]}


def test_panel_sorts_candidates() -> None:
    panel = make_panel(SUMMARY, 1, 0)
    assert panel.front == SUMMARY.front
    assert {e.number for e in panel.excluded} == {20}
    assert len(panel.front) + len(panel.dominated) + len(panel.excluded) == len(SUMMARY.entries)
    assert panel.num_outside == 1  # the candidate that has not learned
    for entry in (*panel.front, *panel.baselines):
        x, y = panel.point(entry)
        assert panel.limits[0][0] < x < panel.limits[0][1]
        assert panel.limits[1][0] < y < panel.limits[1][1]


def test_limits_have_room_for_error_bars_but_not_for_any() -> None:
    def limits(half: float) -> tuple[float, float]:
        candidate, other = make_candidate(*["nearest"] * 4), make_candidate(*["carafe"] * 4)
        trials = [
            make_trial(0, candidate, 0.80 - half, seed=0, latency_ms=10.0),
            make_trial(1, candidate, 0.80 + half, seed=1, latency_ms=10.0),
            make_trial(2, other, 0.90, latency_ms=20.0),
        ]
        return make_panel(summarise(HEADER, trials), 1, 0).limits[1]

    # With two seeds the interval is 12.7 times the distance of a seed from the mean.
    assert limits(0.002)[0] == pytest.approx(0.80 - 1.1 * 12.706 * 0.002, abs=1e-5)
    assert limits(0.02)[0] == pytest.approx(0.80 - 1.1 * 0.05)


def test_costs_that_hardly_differ_have_no_panel() -> None:
    trials = [
        make_trial(0, make_candidate(*["nearest"] * 4), 0.80, latency_ms=10.0, memory_mib=15.0),
        make_trial(1, make_candidate(*["carafe"] * 4), 0.90, latency_ms=20.0, memory_mib=15.1),
    ]
    summary = summarise(HEADER, trials)
    assert panel_columns(summary) == ((1, 0), (2, 0))
    assert drawn_columns(summary) == ((1, 0),)
    assert pareto_svg(summary).count('id="axes_') == 1
    assert drawn_columns(SUMMARY) == panel_columns(SUMMARY)
    alike = [make_trial(0, make_candidate(*["nearest"] * 4), 0.8)]
    assert drawn_columns(summarise(HEADER, alike)) == ((1, 0),)


def test_steps_are_the_front_of_the_two_axes_in_their_own_directions() -> None:
    points = [minimised(HEADER, entry)[:2] for entry in SUMMARY.entries if entry.is_eligible]
    expected = step_front([(latency, dice) for dice, latency in points]) * [1, -1]
    assert np.array(make_panel(SUMMARY, 1, 0).steps) == pytest.approx(expected)
    assert np.diff(expected[:, 1]).min() >= 0  # dice rises with latency


def test_scatter_names_both_fronts_and_places_every_point() -> None:
    found = traces(pareto_scatter(SUMMARY, x=1, y=0, colour=2))
    pareto = found["Pareto set (3 objectives)"]
    assert pareto["marker"]["symbol"] == "diamond"
    assert pareto["customdata"] == [entry.number for entry in SUMMARY.front]
    assert pareto["y"] == [-minimised(HEADER, entry)[0] for entry in SUMMARY.front]
    assert pareto["marker"]["color"] == [minimised(HEADER, entry)[2] for entry in SUMMARY.front]
    assert found["front of the two axes"]["mode"] == "lines"
    assert found["baseline"]["text"] == ["all-bilinear", "all-transposed", "resolution-rule"]
    assert found["off the front"]["marker"]["symbol"] == "x"
    assert len(found["knee of the Pareto set"]["x"]) == 1
    bars = pareto["error_y"]
    best = SUMMARY.front[0].values[0]
    assert best is not None
    assert best.high is not None
    assert bars["array"][0] == pytest.approx(best.high - best.mean)
    assert bars["array"][1] == 0  # one seed: no interval


def test_axes_name_unit_and_direction() -> None:
    layout = json.loads(pareto_scatter(SUMMARY, x=2, y=0, colour=1).to_json())["layout"]
    assert layout["xaxis"]["title"]["text"] == "peak memory [MiB], lower is better"
    assert layout["yaxis"]["title"]["text"] == "dice, higher is better"
    assert layout["coloraxis"]["colorbar"]["title"]["text"] == "latency<br>[ms]"


def test_many_dominated_points_are_thinned_and_it_is_said() -> None:
    names = list(EFFECTS)
    candidates = [
        make_candidate(names[i // 343 % 7], names[i // 49 % 7], names[i // 7 % 7], names[i % 7])
        for i in range(2401)
    ]
    trials = [
        make_trial(i, candidate, 0.5 - i * 1e-5, latency_ms=10.0 + i, memory_mib=10.0 + i)
        for i, candidate in enumerate(candidates)
    ]
    summary = summarise(make_header(constraints=()), trials)
    assert len(make_panel(summary, 1, 0).dominated) <= MAX_DOMINATED
    assert "dominated (1200 of 2400 shown)" in traces(pareto_scatter(summary))
    assert thin([1, 2, 3, 4, 5], 2) == (1, 4)
    assert thin([], 2) == ()


def test_parallel_coordinates_decode_to_the_stages() -> None:
    (trace,) = json.loads(parallel_coordinates(SUMMARY).to_json())["data"]
    by_label = {dimension["label"]: dimension for dimension in trace["dimensions"]}
    stage = by_label["stage 3 (1/2)"]
    eligible = [entry for entry in SUMMARY.entries if entry.is_eligible]
    shown = [stage["ticktext"][value] for value in stage["values"]]
    assert [text.split("(")[0] for text in shown] == [
        entry.candidate.stages[3].upsampler for entry in eligible
    ]
    assert by_label["Pareto set"]["values"] == [int(entry.is_on_front) for entry in eligible]
    assert by_label["Pareto set"]["constraintrange"] == [0.5, 1.1]


def test_hypervolume_curve() -> None:
    history = hypervolume_history(SUMMARY)
    found = traces(hypervolume_curve(SUMMARY, history))
    assert found["all candidates so far"]["y"] == [point.hypervolume for point in history]
    assert set(found["baselines alone"]["y"]) == {SUMMARY.baseline_hypervolume}


def test_learning_curves_name_the_front_and_hold_every_other_trial() -> None:
    found = traces(learning_curves(SUMMARY, HEADER.objectives[0]))
    best = SUMMARY.front[0]
    assert found[f"trial {best.number}"]["x"] == [1, 3, 9]
    assert found[f"trial {best.number}"]["y"][-1] == best.trials[0].quality["dice"]
    others = found["other trials"]
    num_curves = sum(len(entry.trials) for entry in SUMMARY.entries)
    assert others["x"].count(None) == num_curves - (len(found) - 1)


def test_running_trials_have_curves() -> None:
    trial = make_trial(0, make_candidate(*["nearest"] * 4), 0.5, state=TrialState.RUNNING)
    found = traces(learning_curves(summarise(HEADER, [trial]), HEADER.objectives[0]))
    assert found["other trials"]["x"] == [1, 3, 9, None]


def test_hostile_names_are_escaped_in_figures() -> None:
    trial = make_trial(0, make_candidate(*["nearest"] * 4), 0.5, baseline=HOSTILE)
    summary = summarise(make_header(stages=(HOSTILE, "b", "c", "d")), [trial])
    figures = (
        pareto_scatter(summary),
        parallel_coordinates(summary),
        learning_curves(summary, HEADER.objectives[0]),
    )
    for figure in figures:
        assert HOSTILE not in json.dumps(figure.to_plotly_json(), default=str)


@pytest.mark.parametrize("trials", [[], [make_trial(0, make_candidate(*["nearest"] * 4))]])
def test_an_empty_study_has_figures(trials: list[Any]) -> None:
    summary: StudySummary = summarise(HEADER, trials)
    for figure in (
        pareto_scatter(summary),
        parallel_coordinates(summary),
        hypervolume_curve(summary, hypervolume_history(summary)),
        learning_curves(summary, HEADER.objectives[0]),
    ):
        assert json.loads(figure.to_json())["data"] == []
    assert pareto_image(summary, 1, 0).shape == (480, 640, 3)
    ET.fromstring(pareto_svg(summary))


def test_svg_is_valid_and_the_same_twice() -> None:
    svg = pareto_svg(SUMMARY)
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg == pareto_svg(SUMMARY)
    assert "<dc:date>" not in svg
    assert svg.count('id="axes_') == len(panel_columns(SUMMARY))


def test_a_single_objective_has_a_picture() -> None:
    summary = summarise(make_header(objectives=HEADER.objectives[:1]), fake_trials())
    ET.fromstring(pareto_svg(summary))


def test_dollar_signs_are_text() -> None:
    trial = make_trial(0, make_candidate(*["nearest"] * 4), 0.5, baseline="$\\frac{$")
    ET.fromstring(pareto_svg(summarise(HEADER, [trial])))


def test_image_has_ink_and_leaves_no_state() -> None:
    before = dict(rcParams)
    image = pareto_image(SUMMARY, 1, 0)
    assert image.shape == (480, 640, 3)
    blue = (image[..., 2] > 150) & (image[..., 0] < 50)
    assert blue.sum() > 200  # diamonds and the step front
    assert dict(rcParams) == before
    assert pyplot.get_fignums() == []
