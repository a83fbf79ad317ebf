"""Reports from records alone: no torch, no Ray, no GPU.

``write_report`` writes the files; :mod:`upnas.report.table` and :mod:`upnas.report.verdict` serve
the terminal; :class:`upnas.report.tensorboard.TensorBoardWriter` watches a study that runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upnas.errors import StudyError
from upnas.front import StudySummary, summarise
from upnas.store import StudyFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPaths:
    """The files of a report."""

    html: Path
    svg: Path
    csv: Path
    markdown: Path


def read_summary(run: str | Path) -> StudySummary:
    """Read a study and summarise it.

    Raises:
        StudyError: If there is no readable study.
    """
    study = StudyFolder(run).read_study()
    return summarise(study.header, study.trials)


def write_report(run: str | Path, out: str | Path | None = None) -> ReportPaths:
    """Write ``report.html``, ``pareto.svg``, ``pareto.csv`` and ``report.md``.

    Args:
        run: The study's folder; it may still be running.
        out: Where the files go; None means the study's folder.

    Raises:
        StudyError: If there is no readable study, or a file cannot be written.
    """
    # Imported here: reading a summary for the terminal needs no drawing library.
    from upnas.report.html import report_html
    from upnas.report.markdown import report_markdown
    from upnas.report.static import pareto_svg
    from upnas.report.table import pareto_csv

    summary = read_summary(run)
    folder = Path(run if out is None else out)
    paths = ReportPaths(
        html=folder / "report.html",
        svg=folder / "pareto.svg",
        csv=folder / "pareto.csv",
        markdown=folder / "report.md",
    )
    texts = {
        paths.svg: pareto_svg(summary),
        paths.csv: pareto_csv(summary),
        paths.markdown: report_markdown(summary, picture=paths.svg.name),
        paths.html: report_html(summary),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(
            f"{folder}: the report cannot be written: {error.strerror}. Give another folder."
        ) from error
    return paths
