"""Every candidate against the reference baseline, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from upnas.front import CandidateSummary, Comparison, StudySummary, compare
from upnas.records import Objective
from upnas.report.table import UPSAMPLERS, Table, value_head
from upnas.report.verdict import MIN_SEEDS, reference_baseline
from upnas.report.words import NOT_MEASURED, format_difference, metric_name, shared_decimals

_VERDICTS: Final = {
    "better": "better",
    "worse": "worse",
    "indistinguishable": "not distinguishable",
    "undecidable": "not decidable",
}


def paired_table(summary: StudySummary) -> Table:
    """Differences from the reference baseline, over the seeds that both were trained with.

    One row per candidate with at least two such seeds, best first by the test split, or by the
    validation split in a study without one. The verdict is by the same split. No rows without a
    quality objective or a baseline.
    """
    objective, baseline = summary.main_quality, reference_baseline(summary)
    cost = _latency(summary)
    quality = "" if objective is None else metric_name(objective)
    heads = [f"{quality} on validation", f"{quality} on test"]
    if cost is not None:
        heads += [value_head(cost), f"{metric_name(cost)} [%]"]
    pairs = [] if objective is None or baseline is None else _pairs(summary, baseline, objective)
    splits = zip(*((pair.validation, pair.test) for pair in pairs), strict=True)
    decimals = [shared_decimals(c.difference for c in comparisons) for comparisons in splits]
    rows = []
    for pair in pairs:
        cells = [
            NOT_MEASURED if c.difference is None else format_difference(c.difference, digits)
            for c, digits in zip((pair.validation, pair.test), decimals, strict=True)
        ]
        if cost is not None and baseline is not None:
            cells += _cost_difference(summary, pair.entry, baseline, cost)
        num_seeds = str(pair.deciding.num_seeds)
        verdict = _VERDICTS[pair.deciding.outcome]
        rows.append((str(pair.entry.number), pair.entry.stages_text, num_seeds, *cells, verdict))
    return Table(
        columns=("trial", UPSAMPLERS, "paired seeds", *heads, "verdict"),
        rows=tuple(rows),
        numeric=frozenset(["trial", "paired seeds", *heads]),
    )


def paired_title(summary: StudySummary) -> str:
    """``Paired with all-bilinear``; names the baseline that the study has."""
    baseline = reference_baseline(summary)
    return f"Paired with {baseline.label if baseline else 'the baseline'}"


def paired_note(num_rows: int) -> str:
    """How to read the table, and what its intervals do not cover."""
    return (
        "Differences from the baseline, with 95 % intervals over the seeds that both were trained "
        "with. A verdict is by the test split where there is one; 'not distinguishable' says that "
        "the interval holds 0, which does not prove equality. The intervals are not corrected for "
        f"the number of comparisons, here {num_rows}: if no candidate differed from the baseline, "
        "about one in twenty would still be called better or worse."
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A candidate against the reference baseline on both splits."""

    entry: CandidateSummary
    validation: Comparison
    test: Comparison

    @property
    def deciding(self) -> Comparison:
        return self.test if self.test.num_seeds >= MIN_SEEDS else self.validation


def _pairs(summary: StudySummary, baseline: CandidateSummary, objective: Objective) -> list[_Pair]:
    """Candidates with at least two seeds in common with the baseline, best first."""
    sign = 1 if objective.direction == "minimize" else -1
    pairs = [
        _Pair(
            entry,
            compare(entry, baseline, objective),
            compare(entry, baseline, objective, "test"),
        )
        for entry in summary.entries
        if entry.key != baseline.key
    ]
    return sorted(
        (pair for pair in pairs if pair.deciding.num_seeds >= MIN_SEEDS),
        key=lambda pair: sign * pair.deciding.difference.mean if pair.deciding.difference else 0.0,
    )


def _latency(summary: StudySummary) -> Objective | None:
    """The latency that is an objective, else the main cost."""
    latencies = (o for o in summary.objectives if o.metric == "latency_ms")
    return next(latencies, None) or summary.main_cost


def _cost_difference(
    summary: StudySummary, entry: CandidateSummary, baseline: CandidateSummary, cost: Objective
) -> list[str]:
    column = summary.objectives.index(cost)
    value, other = entry.values[column], baseline.values[column]
    if value is None or other is None or other.mean == 0:
        return [NOT_MEASURED, NOT_MEASURED]
    difference = value.mean - other.mean
    decimals = shared_decimals(entry.values[column] for entry in summary.entries)
    return [f"{difference:+z,.{decimals}f}", f"{100 * difference / other.mean:+z.1f}"]
