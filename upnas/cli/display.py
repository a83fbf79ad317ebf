"""What a person sees while a search runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from upnas.cli.tables import live_table
from upnas.front import StudySummary, short_label, summarise
from upnas.records import COST_METRICS, Objective, StudyHeader, TrialRecord, TrialState
from upnas.report.words import metric_name, plural, with_unit
from upnas.search import SearchObserver
from upnas.space import BASELINES
from upnas.trial import TrialRequest

_MAX_RUNNING_ROWS: Final = 8
_MAX_FRONT_ROWS: Final = 12
_MAX_NOTICES: Final = 3
_MIN_WIDTH_FOR_BAR: Final = 60
_MAX_DETAIL: Final = 160  # characters of an error in a plain line; trials.jsonl has it all


class Progress(SearchObserver):
    """Keeps the state of a session: what a display shows."""

    def __init__(self) -> None:
        self.header: StudyHeader | None = None
        self.records: dict[int, TrialRecord] = {}
        self.running: dict[int, TrialRequest] = {}
        self.notices: list[str] = []
        self.summary: StudySummary | None = None
        self.was_stopped = False
        self._opened_s = time.monotonic()
        self._num_before = 0

    def notice(self, message: str) -> None:
        """Keep the message."""
        self.notices.append(message)

    def study_opened(self, header: StudyHeader, trials: Sequence[TrialRecord]) -> None:
        """Start counting."""
        self.header = header
        self.records = {record.number: record for record in trials}
        self._opened_s = time.monotonic()
        self._num_before = self.num_trained
        self._summarise()

    def trial_started(self, request: TrialRequest) -> None:
        """One more is running."""
        self.running[request.number] = request

    def trial_updated(self, record: TrialRecord) -> None:
        """Take the newest record."""
        self.records[record.number] = record
        if record.is_final:
            self.running.pop(record.number, None)
            self._summarise()

    def study_closed(self, *, is_finished: bool) -> None:
        """Remember how it ended."""
        self.was_stopped = not is_finished

    @property
    def num_trained(self) -> int:
        """Trials that ended after training, replicates included."""
        return self.count(TrialState.COMPLETE) + self.count(TrialState.FAILED)

    def count(self, state: TrialState) -> int:
        """Trials in a state."""
        # A live panel counts in its own thread: a list is copied at once, a dict may change.
        return sum(record.state is state for record in list(self.records.values()))

    @property
    def num_expected(self) -> int:
        """Trials that the study will have trained in the end, by the front as it is now.

        New candidates, the replicates that were started, and the seeds that the candidates which
        deserve them still lack.
        """
        header, summary = self.header, self.summary
        if header is None or summary is None:
            return 0
        num_new = self._num_new(header)
        if _replicates_all(header):
            return max(num_new * header.num_seeds, self.num_trained)
        trials: dict[int, TrialRecord | TrialRequest] = {**self.running, **self.records}
        seeds: dict[str, set[int]] = {}
        for trial in trials.values():
            seeds.setdefault(trial.candidate.key, set()).add(trial.seed)
        wanted = {entry.key for entry in (*summary.front, *summary.baselines)}
        num_lacking = sum(max(0, header.num_seeds - len(seeds[key])) for key in wanted)
        num_replicates = sum(trial.origin == "replicate" for trial in trials.values())
        return num_new + num_replicates + num_lacking

    def _num_new(self, header: StudyHeader) -> int:
        """Candidates that will have trained: those of the budget while the space has some.

        The baselines are trained in any case, also those outside the space.
        """
        num_refused = self.count(TrialState.REFUSED)
        records, running = list(self.records.values()), list(self.running.values())
        started = {r.candidate.key for r in records if r.state is not TrialState.REFUSED}
        started |= {request.candidate.key for request in running}
        num_there = header.num_candidates + _num_outside(header)
        budget = min(header.num_trials, num_there - num_refused)
        return max(budget, len(started), len(BASELINES) - num_refused)

    @property
    def remaining_s(self) -> float | None:
        """Estimated seconds to the end, from this session's pace; None before it has one."""
        done = self.num_trained - self._num_before
        if done < 2:
            return None
        pace_s = (time.monotonic() - self._opened_s) / done
        return pace_s * max(0, self.num_expected - self.num_trained)

    def _summarise(self) -> None:
        if self.header is not None:
            self.summary = summarise(self.header, list(self.records.values()))


class PlainDisplay(Progress):
    """One line per event that matters, for logs and pipes."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console

    def notice(self, message: str) -> None:
        """Print it."""
        super().notice(message)
        self._print(message)

    def study_opened(self, header: StudyHeader, trials: Sequence[TrialRecord]) -> None:
        """Say what is going to happen."""
        super().study_opened(header, trials)
        earlier = f", {len(trials)} trials from earlier sessions" if trials else ""
        num_new = self._num_new(header)
        num_there = max(num_new, header.num_candidates)  # baselines need not be in the space
        self._print(f"{header.name}: {num_new} candidates of {num_there:,}{earlier}")

    def trial_updated(self, record: TrialRecord) -> None:
        """Print a trial that ended."""
        super().trial_updated(record)
        if record.is_final and self.header is not None:
            counter = f"[{self.num_trained}/{self.num_expected}]"
            self._print(f"{counter} {_outcome(self.header, record)}")

    def _print(self, line: str) -> None:
        # Text: neither brackets nor colons of a line are markup.
        self._console.print(Text(line), soft_wrap=True)


class LiveDisplay(Progress):
    """A panel: progress, running trials and the front, as much as the terminal has room for."""

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw the state as it is now."""
        notices = [
            Text(notice, style="dim", no_wrap=True, overflow="ellipsis")
            for notice in self.notices[-_MAX_NOTICES:]
        ]
        header, summary = self.header, self.summary
        if header is None or summary is None:
            yield Group(*notices, Text("Preparing: data, reference latency ..."))
            return
        running = self._running_rows(header)
        body: list[RenderableType] = [
            self._progress(options.max_width),
            self._counts(),
            *_hypervolume(summary),
            Text(),
            *running,
        ]
        # Frames, heads and counts take 13 lines; what is left of the terminal is the front's.
        num_rows = console.size.height - len(running) - len(notices) - 13
        num_rows = min(num_rows, _MAX_FRONT_ROWS, len(summary.front))
        if num_rows > 0:
            shown = "" if num_rows == len(summary.front) else f", best {num_rows}"
            head = f"Front so far: {plural(len(summary.front), 'candidate')}{shown}"
            body += [Text(), live_table(summary, head, num_rows)]
        yield Panel(
            Group(*body, *notices),
            title=Text.assemble(" upnas ", (header.name, "bold"), " "),
            title_align="left",
            subtitle=" Ctrl-C stops, the same command resumes ",
            subtitle_align="right",
            border_style="blue",
        )

    def _progress(self, width: int) -> Table:
        done, total, remaining = self.num_trained, self.num_expected, self.remaining_s
        left = "" if remaining is None else f"   about {_clock(remaining)} left"
        text = Text(no_wrap=True, overflow="ellipsis").append(f"{done} of {total} trials", "bold")
        cells: list[RenderableType] = [text.append(left)]
        if width >= _MIN_WIDTH_FOR_BAR:
            cells.insert(0, ProgressBar(total=max(total, 1), completed=done, width=width // 3))
        row = Table.grid(padding=(0, 2))
        row.add_row(*cells)
        return row

    def _counts(self) -> Text:
        num_failed = self.count(TrialState.FAILED)
        text = Text(f"{len(self.running)} running   ", no_wrap=True, overflow="ellipsis")
        text.append(f"{num_failed} failed", style="red" if num_failed else None)
        return text.append(f"   {self.count(TrialState.REFUSED)} refused by a constraint")

    def _running_rows(self, header: StudyHeader) -> list[RenderableType]:
        """One line per running trial: how far it is, its newest quality, its candidate."""
        running = sorted(self.running.copy().items())
        rows: list[RenderableType] = []
        for number, request in running[:_MAX_RUNNING_ROWS]:
            record = self.records.get(number)
            done = len(record.rungs) if record else 0
            quality = "" if record is None else _values(header, record, is_quality=True)
            text = f"trial {number:<4} rung {done} of {len(header.rungs)}  {quality:<12}  "
            text += request.baseline or short_label(header, request.candidate)
            rows.append(Text(text, no_wrap=True, overflow="ellipsis"))
        if len(running) > _MAX_RUNNING_ROWS:
            rows.append(Text(f"and {len(running) - _MAX_RUNNING_ROWS} more", style="dim"))
        return rows


@contextmanager
def make_display(folder: Path) -> Iterator[Progress]:
    """The display that fits standard error: live on a terminal, plain lines otherwise."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainDisplay(console)
        return
    display = LiveDisplay()
    display.notice(f"Study {folder}")
    with Live(display, console=console, refresh_per_second=2, transient=True):
        yield display


def _hypervolume(summary: StudySummary) -> list[RenderableType]:
    """One line once there is a reference point."""
    if summary.reference is None:
        return []
    text = f"hypervolume {summary.hypervolume:.4g}"
    if summary.baseline_hypervolume > 0:
        ratio = summary.hypervolume / summary.baseline_hypervolume
        text += f", {ratio:.2f} times the baselines' own"
    return [Text(text, no_wrap=True, overflow="ellipsis")]


def _replicates_all(header: StudyHeader) -> bool:
    """Whether every candidate gets all seeds; older studies had no such setting."""
    return bool(header.space.get("search", {}).get("replicate") == "all")


def _num_outside(header: StudyHeader) -> int:
    """Baselines whose upsampler no stage of the space has."""
    stages = header.space.get("stages", {}).values()
    names = {name for stage in stages for name in stage.get("upsampler", ())}
    return sum(upsampler not in names for upsampler in BASELINES.values())


def _outcome(header: StudyHeader, record: TrialRecord) -> str:
    remarks = [record.baseline] if record.baseline is not None else []
    remarks += [f"seed {record.seed}"] if record.origin == "replicate" else []
    what = f"trial {record.number}" + (f" ({', '.join(remarks)})" if remarks else "")
    if record.state is TrialState.COMPLETE:
        result = _values(header, record, is_quality=None)
    else:
        detail = " ".join((record.detail or "").split())
        if len(detail) > _MAX_DETAIL:
            detail = f"{detail[:_MAX_DETAIL]} ..."
        reason = (record.reason or "").replace("_", " ")
        result = ", ".join(filter(None, [record.state.value, reason])) + f": {detail}"
    return f"{what}: {result} <- {short_label(header, record.candidate)}"


def _values(header: StudyHeader, record: TrialRecord, *, is_quality: bool | None) -> str:
    """The objectives that are known of a trial; only qualities or costs where asked for."""
    return ", ".join(
        _value(objective, value)
        for objective in header.objectives
        if is_quality is None or is_quality == (objective.metric not in COST_METRICS)
        if (value := record.value(objective.metric, objective.target)) is not None
    )


def _value(objective: Objective, value: float) -> str:
    if objective.metric in COST_METRICS:
        name = metric_name(objective) if objective.metric != "latency_ms" else ""
        return f"{name} {with_unit(objective.metric, value)}".strip()
    return f"{metric_name(objective)} {value:.4f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
