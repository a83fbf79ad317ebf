"""The files of a report, from records alone."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from report.fake_study import HOSTILE, fake_trials, make_candidate, make_header, make_trial
from upnas.errors import StudyError
from upnas.front import StudySummary, summarise
from upnas.records import Conditions, StudyHeader, TargetReference, TrialRecord
from upnas.report import read_summary, write_report
from upnas.report.html import report_html, script_json
from upnas.report.markdown import report_markdown
from upnas.report.overview import cost_notes, counts, facts, hypervolume_line, hypervolume_note
from upnas.store import StudyFolder

SUMMARY = summarise(make_header(), fake_trials())


class Page(HTMLParser):
    """Collects scripts, text, identifiers and everything that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values[name] for name in ("src", "href", "data") if name in values]
        if tag == "script":
            self._in_script = True
            self.scripts.append((values, ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.text += data


def make_run(path: Path, header: StudyHeader, trials: list[TrialRecord]) -> Path:
    folder = StudyFolder(path)
    folder.create(header)
    for trial in trials:
        folder.append(trial)
    return path


def test_write_report_makes_all_files(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_header(), fake_trials())
    paths = write_report(run)
    names = [path.name for path in (paths.html, paths.svg, paths.csv, paths.markdown)]
    assert names == ["report.html", "pareto.svg", "pareto.csv", "report.md"]
    assert all(path.parent == run and path.stat().st_size > 0 for path in (paths.html, paths.svg))
    elsewhere = write_report(run, tmp_path / "new" / "out")
    assert elsewhere.svg.read_bytes() == paths.svg.read_bytes()
    assert elsewhere.html.read_bytes() == paths.html.read_bytes()
    assert read_summary(run) == SUMMARY


def test_write_report_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study here"):
        write_report(tmp_path)
    run = make_run(tmp_path / "run", make_header(), [])
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="report cannot be written"):
        write_report(run, tmp_path / "file" / "out")


def test_a_report_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, upnas.report.html, upnas.report.markdown\n"
        "print([name for name in ('torch', 'ray', 'optuna') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert result.stdout.strip() == "[]"


def test_html_holds_every_section_and_loads_nothing() -> None:
    page = Page(report_html(SUMMARY))
    assert {"front", "baselines", "paired", "stages", "progress", "trouble", "setup", "costs"} <= {
        *page.ids
    }
    assert len(page.ids) == len(set(page.ids))
    for slot in ("scatter-1", "scatter-2", "parallel", "hypervolume", "curves"):
        assert slot in page.ids
    for expected in (
        "beats all-bilinear by",
        "latency_ms 26.1 > 25",
        "Example CPU 3.0 GHz",
        "torch 2.9.0",
        "upnas search --space unet.yaml",
        "median ratio",
    ):
        assert expected in page.text
    assert all(link and link.startswith("#") for link in page.links)
    assert "noscript" in page.tags
    assert "svg" in page.tags


def test_html_figures_have_a_slot_each() -> None:
    page = Page(report_html(SUMMARY))
    (data,) = [text for attributes, text in page.scripts if attributes.get("id") == "figures"]
    figures = json.loads(data)
    assert list(figures) == ["scatter-1", "scatter-2", "parallel", "hypervolume", "curves"]
    assert set(figures) <= set(page.ids)
    assert all(figure["data"] for figure in figures.values())


def test_a_cost_that_hardly_differs_colours_nothing_and_is_named() -> None:
    trials = [
        make_trial(0, make_candidate(*["nearest"] * 4), 0.80, latency_ms=10.0, memory_mib=15.0),
        make_trial(1, make_candidate(*["carafe"] * 4), 0.90, latency_ms=20.0, memory_mib=15.1),
    ]
    page = Page(report_html(summarise(make_header(), trials)))
    (data,) = [text for attributes, text in page.scripts if attributes.get("id") == "figures"]
    figures = json.loads(data)
    assert "coloraxis" not in figures["scatter-1"]["layout"]  # would be peak memory
    assert "coloraxis" in figures["scatter-2"]["layout"]  # latency
    assert "dice and peak memory (which differs by only 0.7 %)" in page.text


def test_html_keeps_hostile_text_as_text() -> None:
    trial = make_trial(0, make_candidate(*["nearest"] * 4), 0.5, baseline=HOSTILE)
    failed = make_trial(1, trial.candidate, state="failed", reason=HOSTILE, detail=HOSTILE)
    header = make_header(
        HOSTILE, command=HOSTILE, stages=(HOSTILE, "$title", "${x}", "\u2028"), sampler=HOSTILE
    )
    text = report_html(summarise(header, [trial, failed]))
    assert HOSTILE not in text
    page = Page(text)
    assert len(page.scripts) == 3
    assert HOSTILE in page.text
    assert "$title" in page.text


def test_script_json_cannot_leave_its_element() -> None:
    value = {"a": "</script><!--&\u2028\u2029"}
    text = script_json(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_an_unfinished_study_has_a_report() -> None:
    summary = summarise(make_header(), [make_trial(0, make_candidate(*["nearest"] * 4))])
    assert "No candidate is complete yet." in Page(report_html(summary)).text
    assert "No candidate is complete yet." in report_markdown(summary)
    assert "Paired with" not in report_markdown(summary)
    assert "paired" not in Page(report_html(summary)).ids


def test_markdown_report() -> None:
    text = report_markdown(SUMMARY, picture="pareto.svg")
    assert text.startswith("# unet-filaments\n")
    assert "![Pareto front](pareto.svg)" in text
    assert "![" not in report_markdown(SUMMARY)
    assert "\n## Paired with all-bilinear\n" in text
    assert "not corrected for the number of comparisons, here 5:" in text
    assert "\n    upnas search --space unet.yaml\n" in text
    for entry in SUMMARY.front:
        assert f"\n| {entry.number} | " in text
    assert "refused (constraint): 2" in text
    assert HOSTILE not in report_markdown(summarise(make_header(HOSTILE), []))


def test_counts_add_up() -> None:
    text = counts(SUMMARY)
    assert text.startswith("40 trials: 35 complete (22 candidates), 1 running, 2 failed, 2 refused")
    assert "1 kept off the front" in text
    trial = make_trial(0, make_candidate(*["nearest"] * 4), 0.5)
    assert counts(summarise(make_header(), [trial])) == "1 trial: 1 complete (1 candidate)."


def test_facts_hold_what_is_needed_to_repeat() -> None:
    found = dict(facts(SUMMARY))
    assert found["Search space"] == "2,401 candidates over 4 stages"
    assert found["Constraints"] == "latency_ms <= 25"
    assert found["Targets"] == "laptop: cpu, 1 thread, eager, float32, 1 x 3 x 256 x 256"
    assert found["Task"] == "segmentation; data type: filaments"
    assert "3 seeds, rungs at 1, 3, 9 epochs" in found["Search"]


def test_hypervolume_comes_with_its_reference_point() -> None:
    text = hypervolume_note(SUMMARY)
    assert "dice x ms x MiB, reference point (0.7919, 25.00 ms, 131.80 MiB)" in text
    ratio = SUMMARY.hypervolume / SUMMARY.baseline_hypervolume
    assert f"{ratio:.2f} times that of the baselines alone" in text
    assert "1 front member" in text
    assert text.startswith(hypervolume_line(SUMMARY))
    assert "\n" not in hypervolume_line(SUMMARY)
    assert "worst baseline" in text
    assert "worst baseline" not in hypervolume_line(SUMMARY)
    assert "No hypervolume yet" in hypervolume_note(summarise(make_header(), []))


def with_costs(**changes: object) -> StudySummary:
    """The fake study, the first trial's costs and their latency changed."""
    trials = fake_trials()
    (costs,) = trials[0].costs
    assert costs.latency is not None
    fields = {name: changes.pop(name) for name in ("machine", "predicted") if name in changes}
    latency = costs.latency.model_copy(update=changes)
    costs = costs.model_copy(update={"latency": latency} | fields)
    trials[0] = trials[0].model_copy(update={"costs": (costs,)})
    reference = TargetReference(target="laptop", latency_ms=11.0, machine="aa")
    return summarise(make_header(references=(reference,)), trials[:1])


def test_cost_notes_say_how_far_latencies_are_to_be_trusted() -> None:
    summary = with_costs(
        rejected=("reference drifted 14 %", "interval +-5.0 %"),
        unsteady="reference spread 40 %",
        conditions=Conditions(foreign_cpus=0.75),
        machine="bb",
    )
    note = cost_notes(summary)[0]
    assert "1 measurement, 2 blocks rejected and measured anew, 1 unsteady to the end." in note
    assert "other programs kept 0.75 CPUs busy in the median, 0.75 at most" in note
    assert "1 candidate ran on another kind of machine than the reference" in note
    calm = cost_notes(with_costs(machine="aa"))[0]
    assert "another kind of machine" not in calm
    assert "0 blocks rejected" in calm


def test_cost_notes_name_the_clock_that_was_used() -> None:
    assert "thread cpu clock, mostly 9 pairs" in cost_notes(SUMMARY)[0]
