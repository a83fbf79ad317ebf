"""What a person sees while a search runs, drawn into strings."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from report.fake_study import fake_trials, make_candidate, make_header, make_trial
from rich.console import Console
from rich.live import Live

from upnas.cli.display import LiveDisplay, PlainDisplay, Progress, make_display
from upnas.records import StageChoice, StudyHeader, TrialRecord, TrialState
from upnas.trial import TrialRequest

BILINEAR = make_candidate(*["bilinear"] * 4)
CARAFE = make_candidate(*["carafe"] * 4)
NEAREST = make_candidate(*["nearest"] * 4)


def request(trial: TrialRecord) -> TrialRequest:
    return TrialRequest(
        number=trial.number,
        candidate=trial.candidate,
        seed=trial.seed,
        origin=trial.origin,
        baseline=trial.baseline,
    )


def run(progress: Progress, trials: list[TrialRecord]) -> None:
    """Tell a display of trials that start, reach a rung, and end as their record says."""
    for trial in trials:
        progress.trial_started(request(trial))
        before = trial.model_copy(update={"state": TrialState.RUNNING, "rungs": trial.rungs[:1]})
        progress.trial_updated(before)
        if trial.is_final:
            progress.trial_updated(trial)


def opened(progress: Progress, **changes: object) -> StudyHeader:
    fields = {"num_trials": 4, "constraints": ()} | changes
    header = make_header(**fields)  # type: ignore[arg-type]
    progress.study_opened(header, [])
    return header


def test_counts_follow_the_events() -> None:
    progress = Progress()
    assert (progress.num_trained, progress.num_expected, progress.remaining_s) == (0, 0, None)
    progress.study_opened(make_header(), [])
    trials = fake_trials()
    run(progress, trials)
    assert progress.num_trained == 37  # 35 complete, 2 failed
    assert progress.count(TrialState.REFUSED) == 2
    assert list(progress.running) == [t.number for t in trials if not t.is_final]
    remaining_s = progress.remaining_s
    assert remaining_s is not None
    assert remaining_s >= 0
    progress.study_closed(is_finished=False)
    assert progress.was_stopped


def test_expected_trials_are_new_ones_and_the_seeds_that_are_lacking() -> None:
    progress = Progress()
    opened(progress)
    assert progress.num_expected == 4
    run(progress, [make_trial(0, BILINEAR, 0.80, latency_ms=10.0, baseline="all-bilinear")])
    assert progress.num_expected == 4 + 2
    run(progress, [make_trial(1, CARAFE, 0.90, latency_ms=15.0)])  # on the front
    run(progress, [make_trial(2, NEAREST, 0.70, latency_ms=20.0)])  # behind it
    assert progress.num_expected == 4 + 2 + 2
    run(progress, [make_trial(3, CARAFE, 0.90, latency_ms=15.0, seed=1, origin="replicate")])
    assert progress.num_expected == 4 + 2 + 2
    # A second seed that was unlucky takes the candidate off the front: its third is not needed.
    run(progress, [make_trial(4, CARAFE, 0.1, latency_ms=15.0, seed=2, origin="replicate")])
    assert progress.num_expected == 4 + 2 + 2
    # A replicate counts from its start.
    replicate = make_trial(5, BILINEAR, 0.8, seed=1, origin="replicate")
    progress.trial_started(request(replicate))
    assert progress.num_expected == 4 + 2 + 2


def test_at_the_end_everything_expected_is_trained() -> None:
    progress = Progress()
    opened(progress, num_trials=3)
    lucky = [
        make_trial(0, BILINEAR, 0.80, latency_ms=10.0, baseline="all-bilinear"),
        make_trial(1, CARAFE, 0.90, latency_ms=15.0),
        make_trial(2, NEAREST, 0.70, latency_ms=20.0),
        make_trial(3, CARAFE, 0.40, latency_ms=15.0, seed=1, origin="replicate"),
    ]
    run(progress, lucky)  # carafe is behind bilinear now: one seed of it is never run
    run(progress, [make_trial(n, BILINEAR, 0.8, seed=n - 3, origin="replicate") for n in (4, 5)])
    assert progress.num_trained == progress.num_expected == 6


def test_replicating_everything_is_expected_from_the_start() -> None:
    progress = Progress()
    opened(progress, space={"search": {"replicate": "all"}})
    assert progress.num_expected == 4 * 3


def test_a_small_space_has_no_more_trials_than_candidates() -> None:
    progress = Progress()
    opened(progress, num_candidates=5, num_trials=9, num_seeds=1)
    assert progress.num_expected == 5 + 1  # no stage has the resolution rule's upsampler
    run(progress, [make_trial(0, CARAFE, state=TrialState.REFUSED, reason="constraint")])
    assert progress.num_expected == 5


def test_baselines_outside_a_tiny_space_are_counted() -> None:
    baselines = [
        make_trial(0, BILINEAR, 0.80, baseline="all-bilinear"),
        make_trial(1, make_candidate(*["transposed"] * 4), 0.82, baseline="all-transposed"),
        make_trial(2, make_candidate(*["subpixel"] * 4), 0.81, baseline="resolution-rule"),
    ]
    trials = [*baselines, make_trial(3, CARAFE, 0.9)]
    space = {"stages": {str(number): {"upsampler": ["carafe"]} for number in (1, 2, 3, 4)}}
    lines = plain(trials, num_candidates=1, num_trials=5, num_seeds=1, space=space)
    assert lines[1] == "unet-filaments: 4 candidates of 4"
    assert [line.split()[0] for line in lines[2:]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]


def test_the_total_is_never_below_what_runs() -> None:
    progress = Progress()
    opened(progress, num_candidates=1, num_trials=1, num_seeds=1)
    assert progress.num_expected == 3  # the baselines are trained whatever the budget
    for number, name in enumerate(["bilinear", "transposed", "carafe", "nearest"]):
        progress.trial_started(request(make_trial(number, make_candidate(*[name] * 4))))
    assert progress.num_expected == 4


def test_a_resumed_study_counts_what_is_there() -> None:
    progress = Progress()
    trials = [make_trial(0, BILINEAR, 0.8), make_trial(1, CARAFE, 0.9)]
    progress.study_opened(make_header(num_trials=4, num_seeds=1), trials)
    assert progress.num_trained == 2
    assert progress.remaining_s is None  # this session has no pace yet


def plain(trials: list[TrialRecord], **changes: object) -> list[str]:
    stream = io.StringIO()
    display = PlainDisplay(Console(file=stream, width=60))
    display.notice("[red]a notice[/red] :smile:")
    opened(display, **changes)
    run(display, trials)
    return stream.getvalue().splitlines()


def test_plain_lines_say_what_ended_in_short() -> None:
    lines = plain(
        [
            make_trial(0, BILINEAR, 0.80, latency_ms=10.0, baseline="all-bilinear"),
            make_trial(1, CARAFE, 0.90, latency_ms=15.0, seed=2, origin="replicate"),
            make_trial(2, NEAREST, state=TrialState.FAILED, reason="nan_loss", detail="a\n b"),
            make_trial(
                3, NEAREST, state=TrialState.REFUSED, reason="constraint", detail="latency_ms 26"
            ),
            make_trial(4, NEAREST, 0.5, state=TrialState.RUNNING),
        ],
        num_seeds=1,
    )
    assert lines == [
        "[red]a notice[/red] :smile:",
        "unet-filaments: 4 candidates of 2,401",
        "[1/4] trial 0 (all-bilinear): dice 0.8000, 10.00 ms, peak memory 50.00 MiB <- bilinear x4",
        "[2/5] trial 1 (seed 2): dice 0.9000, 15.00 ms, peak memory 50.00 MiB <- carafe(32) x4",
        "[3/5] trial 2: failed, nan loss: a b <- nearest x4",
        "[3/5] trial 3: refused, constraint: latency_ms 26 <- nearest x4",
    ]


def test_a_long_error_is_cut() -> None:
    failed = make_trial(0, NEAREST, state=TrialState.FAILED, reason="error", detail="x" * 5000)
    assert 100 < len(plain([failed])[-1]) < 300


def draw(display: LiveDisplay, width: int, height: int) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, record=True
    )
    console.print(display)
    return console.export_text().splitlines()


def watched() -> LiveDisplay:
    display = LiveDisplay()
    display.notice("Study runs/[bold]x[/bold]")
    display.study_opened(make_header(), [])
    run(display, fake_trials())
    return display


def test_the_panel_before_the_study_is_open() -> None:
    display = LiveDisplay()
    display.notice("[b]first[/b]")
    assert draw(display, 80, 24) == ["[b]first[/b]", "Preparing: data, reference latency ..."]


def test_the_panel_shows_progress_running_trials_and_the_front() -> None:
    display = watched()
    lines = draw(display, 120, 50)
    text = "\n".join(lines)
    assert "upnas unet-filaments" in lines[0]
    assert f"37 of {display.num_expected} trials" in text
    assert "1 running   2 failed   2 refused by a constraint" in text
    assert "2.00 times the baselines' own" in text
    assert "trial 23   rung 0 of 3" in text
    assert "Study runs/[bold]x[/bold]" in text
    assert display.summary is not None
    assert "Front so far: 14 candidates, best 12" in text
    numbers = [line.split()[1] for line in lines if " | " in line and "rung" not in line]
    shown = [str(entry.number) for entry in display.summary.front[:12]]
    assert [number for number in numbers if number in shown] == [
        str(entry.number) for entry in display.summary.front[:12] if " | " in entry.stages_text
    ]


@pytest.mark.parametrize(("width", "height"), [(120, 50), (80, 24), (60, 20), (40, 16), (24, 10)])
def test_the_panel_fits_the_terminal(width: int, height: int) -> None:
    lines = draw(watched(), width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 13)


def test_brackets_of_a_candidate_are_text() -> None:
    stage = StageChoice.model_validate(
        {"upsampler": "x", "parameters": {"kernel": "[red]", "other": ["[/]", "b"]}}
    )
    candidate = NEAREST.model_copy(update={"stages": (stage,) * 4})
    space = {"stages": {str(n): {"x": {"kernel": [1, 2], "other": [1, 2]}} for n in range(1, 5)}}
    display = LiveDisplay()
    opened(display, space=space, name="[bold]name")
    run(display, [make_trial(0, candidate, 0.8), make_trial(1, candidate, None)])
    lines = draw(display, 100, 40)
    assert "[bold]name" in lines[0]
    assert sum("x([red],[/]+b) x4" in line for line in lines) == 2


def test_many_running_trials_are_counted() -> None:
    display = LiveDisplay()
    opened(display)
    for number in range(20):
        display.trial_started(request(make_trial(number, NEAREST)))
    text = "\n".join(draw(display, 80, 40))
    assert "trial 7 " in text
    assert "trial 8 " not in text
    assert "and 12 more" in text


def test_the_panel_survives_events_while_it_is_drawn() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=24, force_terminal=True)
    display = LiveDisplay()
    with Live(display, console=console, refresh_per_second=200, transient=True):
        display.study_opened(make_header(), [])
        for trial in fake_trials():
            run(display, [trial])
    assert "trials" in stream.getvalue()


def test_without_a_terminal_the_display_is_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with make_display(tmp_path) as display:
        display.notice("hello")
    assert isinstance(display, PlainDisplay)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_on_a_terminal_the_display_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with make_display(tmp_path) as display:
        run_folder = str(tmp_path)
    assert isinstance(display, LiveDisplay)
    assert display.notices == [f"Study {run_folder}"]
