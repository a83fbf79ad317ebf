"""The picture of a survey's samples."""

from __future__ import annotations

import html
import math
import re
from xml.etree import ElementTree

from report.fake_survey import make_entry, make_latency, make_survey
from upnas.records import Survey
from upnas.report.samples import samples_svg

SURVEY = make_survey(
    make_entry("all-bilinear", latency=make_latency(0.98, 1.0, 1.02, 1.01, 0.99, 1.0, 1.0)),
    make_entry("slow & <steady>", latency=make_latency(2.0, 2.1, 2.2, 2.1)),
    make_entry("shaky", latency=make_latency(3.0, 4.0, 5.0, unsteady="interval +-33.3 %")),
    make_entry("impossible", latency=None, unserved="ValueError: no such operator"),
)


def texts(survey: Survey) -> list[str]:
    """What matplotlib drew as paths: it says in comments what it was."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", samples_svg(survey))]


def markers(survey: Survey) -> dict[bool, int]:
    """Points drawn by whether they are open."""
    root = ElementTree.fromstring(samples_svg(survey))
    found = {True: 0, False: 0}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        if group.get("id", "").startswith("PathCollection"):
            for use in group.iter("{http://www.w3.org/2000/svg}use"):
                found["fill: none" in use.get("style", "")] += 1
    return found


def test_a_row_per_network_that_was_timed() -> None:
    drawn = texts(SURVEY)
    assert [text for text in drawn if text in {entry.label for entry in SURVEY.entries}] == [
        *("all-bilinear", "slow & <steady>", "shaky")
    ]
    assert "laptop: samples, median, 95 % interval" in drawn
    assert "latency [ms]" in drawn


def test_every_sample_is_a_point_and_unsteady_ones_are_open() -> None:
    assert markers(SURVEY) == {False: 7 + 4, True: 3}


def test_the_axis_is_in_milliseconds_of_the_reference_as_it_was_when_the_survey_began() -> None:
    ticks = [float(text) for text in texts(SURVEY) if text.replace(".", "").isdigit()]
    assert ticks
    assert max(ticks) <= math.ceil(5.0 * 20.0) < 5.0 * 40.0  # and not the samples' own 200 ms
    assert min(ticks) <= 2 * 20.0


def test_the_same_bytes_twice() -> None:
    assert samples_svg(SURVEY) == samples_svg(SURVEY)


def test_nothing_timed_is_a_picture_without_rows() -> None:
    assert markers(make_survey(SURVEY.entries[-1])) == {True: 0, False: 0}
    assert "impossible" not in texts(make_survey(SURVEY.entries[-1]))
