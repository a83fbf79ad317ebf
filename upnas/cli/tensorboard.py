"""Feeds TensorBoard from a running search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from upnas.records import StudyHeader, TrialRecord
from upnas.report.tensorboard import TensorBoardWriter
from upnas.search import SearchObserver


class TensorBoardObserver(SearchObserver):
    """Writes events into the study's folder while it runs."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: TensorBoardWriter | None = None

    def study_opened(self, header: StudyHeader, trials: Sequence[TrialRecord]) -> None:
        """Open the event file; earlier trials are in the events of their own session."""
        self._writer = TensorBoardWriter(self._folder, header, trials)

    def trial_updated(self, record: TrialRecord) -> None:
        """Add a record."""
        if self._writer is not None:
            self._writer.on_record(record)

    def study_closed(self, *, is_finished: bool) -> None:
        """Write the last figures."""
        del is_finished
        if self._writer is not None:
            self._writer.close()
