"""What a search tells whoever watches it: the terminal, TensorBoard, a test."""

from __future__ import annotations

from collections.abc import Sequence

from upnas.records import StudyHeader, TrialRecord
from upnas.trial import TrialRequest


class SearchObserver:
    """Receives the events of a search, in the driver's thread. Every method does nothing here."""

    def notice(self, message: str) -> None:
        """A decision that was made for the user, with its reason."""

    def study_opened(self, header: StudyHeader, trials: Sequence[TrialRecord]) -> None:
        """The study is ready; ``trials`` are those of earlier sessions."""

    def trial_started(self, request: TrialRequest) -> None:
        """A trial was handed to a worker."""

    def trial_updated(self, record: TrialRecord) -> None:
        """A trial has costs, reached a rung or ended; the record is already on disk."""

    def study_closed(self, *, is_finished: bool) -> None:
        """The session ended: the budget is spent, or it was stopped."""
