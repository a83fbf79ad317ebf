"""What a person sees while a search runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from upnas.cli.tables import front_table
from upnas.front import StudySummary, short_label, summarise
from upnas.records import StudyHeader, TrialRecord, TrialState
from upnas.search import SearchObserver
from upnas.trial import TrialRequest


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
        return sum(record.state is state for record in self.records.values())

    @property
    def num_expected(self) -> int:
        """Trials that the study will have trained in the end, by the front as it is now."""
        if self.header is None or self.summary is None:
            return 0
        replicated = {entry.candidate.key for entry in self.summary.front}
        replicated |= {entry.candidate.key for entry in self.summary.baselines}
        return self.header.num_trials + len(replicated) * (self.header.num_seeds - 1)

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
        earlier = f", {len(trials)} from earlier sessions" if trials else ""
        self._print(
            f"{header.name}: {header.num_trials} candidates of {header.num_candidates:,}{earlier}"
        )

    def trial_updated(self, record: TrialRecord) -> None:
        """Print a trial that ended."""
        super().trial_updated(record)
        if record.is_final:
            self._print(f"[{self.num_trained}/{self.num_expected}] {_outcome(record)}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(Progress):
    """A panel that is redrawn twice a second."""

    def __rich__(self) -> RenderableType:
        lines: list[RenderableType] = [
            Text(notice, style="dim") for notice in self.notices[-3:]
        ]
        if self.header is None:
            return Group(*lines, Text("preparing: data, reference latency ..."))
        lines.append(self._counts())
        lines.append(self._running_table())
        if self.summary is not None and self.summary.front:
            lines.append(front_table(self.summary, title="Front so far", max_rows=12))
        return Group(*lines)

    def _counts(self) -> Text:
        remaining = self.remaining_s
        parts = [
            f"{self.num_trained}/{self.num_expected} trained",
            f"{len(self.running)} running",
            f"{self.count(TrialState.FAILED)} failed",
            f"{self.count(TrialState.REFUSED)} refused",
        ]
        if self.summary is not None and self.summary.hypervolume is not None:
            parts.append(f"hypervolume {self.summary.hypervolume:.4g}")
        parts.append("time left ..." if remaining is None else f"time left {_clock(remaining)}")
        return Text(" | ".join(parts), style="bold")

    def _running_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        assert self.header is not None
        for number, request in sorted(self.running.items()):
            record = self.records.get(number)
            rungs = f"rung {len(record.rungs) if record else 0}/{len(self.header.rungs)}"
            table.add_row(f"  #{number}", rungs, short_label(self.header, request.candidate))
        return table


@contextmanager
def make_display(folder: Path) -> Iterator[Progress]:
    """The display that fits standard error: live on a terminal, plain lines otherwise."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    display = LiveDisplay()
    display.notice(f"study {folder}; Ctrl-C stops it, the same command resumes it")
    with Live(display, console=console, refresh_per_second=2, transient=True):
        yield display


def _outcome(record: TrialRecord) -> str:
    what = f"trial {record.number}"
    if record.baseline is not None:
        what += f" ({record.baseline})"
    if record.origin == "replicate":
        what += f" (replicate, seed {record.seed})"
    if record.state is TrialState.COMPLETE:
        values = [f"{name} {value:.4f}" for name, value in record.rungs[-1].quality]
        values += [f"{c.latency_ms:.2f} ms, {c.peak_memory_mib:.1f} MiB" for c in record.costs[:1]]
        result = ", ".join(values)
    else:
        result = f"{record.state.value}: {record.reason}: {record.detail}"
    return f"{what}: {result} <- {record.candidate}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
