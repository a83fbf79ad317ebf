"""A study in plain TensorBoard: one run per study, readable while it is running.

Scalars ``study/hypervolume`` and ``study/front_size`` against finished trials, one learning curve
per trial (``curves/<metric>/trial_0007`` against epochs), a picture per pair of objectives whose
step slider is the history of the front, and the front as a table. Events are a view: they can be
deleted, and ``trials.jsonl`` stays the truth.

The reference point of the hypervolume settles when the baselines are complete; earlier points of
that curve used an earlier one. The report draws the whole history with the final reference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tensorboardX import SummaryWriter

from upnas.front import StudySummary, summarise
from upnas.records import StudyHeader, TrialRecord
from upnas.report.overview import hypervolume_note
from upnas.report.panel import panel_columns
from upnas.report.static import pareto_image
from upnas.report.table import escape_markdown, front_table, to_markdown
from upnas.report.verdict import verdict

#: Pictures and the table are drawn anew after this many finished trials ...
TRIALS_BETWEEN_PICTURES: Final = 25
#: ... and not before this many seconds.
SECONDS_BETWEEN_PICTURES: Final = 60.0


class TensorBoardWriter:
    """Writes a study's events as its records arrive. A context manager.

    Args:
        folder: The study's folder; TensorBoard's ``--logdir`` is this or its parent.
        header: The study.
        trials: Records of earlier sessions, whose events are already in the folder.
        clock: Seconds that only go forward; a parameter for tests.
    """

    def __init__(
        self,
        folder: str | Path,
        header: StudyHeader,
        trials: Iterable[TrialRecord] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._header = header
        self._records = {trial.number: trial for trial in trials}
        self._clock = clock
        self._num_pictured = self._num_finished
        self._pictured_s = clock()
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def on_record(self, record: TrialRecord) -> None:
        """Take the newest record of a trial: its new rungs, and the front when it is final."""
        before = self._records.get(record.number)
        self._records[record.number] = record
        self._write_curve(record, num_known=len(before.rungs) if before else 0)
        if record.is_final and not (before and before.is_final):
            summary = summarise(self._header, self._records.values())
            self._write_scalars(summary)
            num_new = self._num_finished - self._num_pictured
            waited_s = self._clock() - self._pictured_s
            if num_new >= TRIALS_BETWEEN_PICTURES and waited_s >= SECONDS_BETWEEN_PICTURES:
                self._write_pictures(summary)
        self._writer.flush()

    def close(self) -> None:
        """Draw the last state and close the file."""
        if self._num_finished > self._num_pictured:
            self._write_pictures(summarise(self._header, self._records.values()))
        self._writer.close()

    @property
    def _num_finished(self) -> int:
        return sum(record.is_final for record in self._records.values())

    def _write_curve(self, record: TrialRecord, num_known: int) -> None:
        for rung in record.rungs[num_known:]:
            scalars = {"train_loss": rung.train_loss, **dict(rung.quality)}
            for metric, value in scalars.items():
                tag = f"curves/{metric}/trial_{record.number:04d}"
                self._writer.add_scalar(tag, value, rung.epochs)

    def _write_scalars(self, summary: StudySummary) -> None:
        self._writer.add_scalar("study/front_size", len(summary.front), self._num_finished)
        if summary.reference is not None:
            self._writer.add_scalar("study/hypervolume", summary.hypervolume, self._num_finished)

    def _write_pictures(self, summary: StudySummary) -> None:
        step = self._num_finished
        for x, y in panel_columns(summary):
            names = [summary.objectives[column].label for column in (y, x)]
            image = pareto_image(summary, x, y)
            self._writer.add_image("/".join(["front", *names]), image, step, dataformats="HWC")
        lines = [
            f"**{escape_markdown(verdict(summary))}**",
            to_markdown(front_table(summary)),
            escape_markdown(hypervolume_note(summary)),
        ]
        self._writer.add_text("front", "\n\n".join(lines), step)
        self._num_pictured, self._pictured_s = step, self._clock()
