"""The study in one sentence: is the best candidate worth it against plain bilinear?"""

from __future__ import annotations

from typing import Final

from upnas.front import (
    BELOW_TRIVIAL,
    CandidateSummary,
    Comparison,
    StudySummary,
    compare,
    minimised,
    ties,
)
from upnas.records import Objective
from upnas.report.words import TIMES, format_difference, metric_name, plural, with_unit

#: Fewer paired seeds give no interval.
_MIN_SEEDS: Final = 2


def reference_baseline(summary: StudySummary) -> CandidateSummary | None:
    """The baseline that the verdict compares with: all-bilinear, else the first one."""
    plain = (
        entry
        for entry in summary.baselines
        if {stage.upsampler for stage in entry.candidate.stages} == {"bilinear"}
    )
    return next(plain, None) or next(iter(summary.baselines), None)


def verdict(summary: StudySummary) -> str:
    """Compare the best front member with the reference baseline, on paired seeds.

    The test split decides where both were scored on it: the best of many candidates was chosen by
    its validation score, which therefore flatters it.
    """
    text = _verdict(summary)
    return text[:1].upper() + text[1:]


def tie_notes(summary: StudySummary) -> tuple[str, ...]:
    """One sentence per group of front members that the seeds cannot tell apart."""
    objective = summary.main_quality
    if objective is None:
        return ()
    found = ties(summary)
    notes = []
    for group in found.groups:
        numbers = ", ".join(str(member.number) for member in group)
        cheapest = summary.cheapest(group)
        notes.append(
            f"Indistinguishable on validation {objective.metric}: trials {numbers}. "
            f"The cheapest is {_named(cheapest)}{_cost(summary, cheapest)}."
        )
    if found.undecidable:
        notes.append(
            f"Not decidable: {plural(len(found.undecidable), 'front member')} with fewer than "
            f"{_MIN_SEEDS} seeds in common with a better one. More seeds would tell."
        )
    return tuple(notes)


def _verdict(summary: StudySummary) -> str:
    if not summary.entries:
        return "No candidate is complete yet."
    if not summary.front:
        return _why_no_front(summary)
    objective = summary.main_quality
    if objective is None:
        return "The study has no quality objective: its front lists costs only."
    column = summary.objectives.index(objective)
    best = min(summary.front, key=lambda entry: minimised(summary.header, entry)[column])
    baseline = reference_baseline(summary)
    if baseline is None:
        return f"{_named(best)} has the best {objective.metric}; no baseline is complete."
    if best.key == baseline.key:
        return f"Nothing beats {baseline.label}: it has the best {objective.metric} itself."
    return _compared(summary, best, baseline, objective)


def _why_no_front(summary: StudySummary) -> str:
    num_infeasible = sum(not entry.is_feasible for entry in summary.entries)
    num_unlearned = sum(BELOW_TRIVIAL in entry.flags for entry in summary.entries)
    return (
        f"No front: of {plural(len(summary.entries), 'complete candidate')}, {num_unlearned} "
        f"stayed below the task's trivial baseline and {num_infeasible} broke a constraint."
    )


def _compared(
    summary: StudySummary,
    best: CandidateSummary,
    baseline: CandidateSummary,
    objective: Objective,
) -> str:
    comparison = compare(best, baseline, objective, "test")
    if comparison.num_seeds < _MIN_SEEDS:
        comparison = compare(best, baseline, objective, "validation")
    margin = _margin(comparison)
    match comparison.outcome:
        case "better":
            price = _price(summary, best, baseline)
            return f"{_named(best)} beats {baseline.label} by {margin}.{price}"
        case "worse":
            return (
                f"{_named(best)} has the best validation {objective.metric}, but is behind "
                f"{baseline.label} by {margin}: keep {baseline.label}."
            )
        case "indistinguishable":
            cheapest = summary.cheapest([best, baseline])
            return (
                f"The best {objective.metric}, {_named(best)}, is indistinguishable from "
                f"{baseline.label}: {margin}. Take the cheapest: "
                f"{_named(cheapest)}{_cost(summary, cheapest)}."
            )
        case "undecidable":
            return (
                f"{_named(best)} has the best validation {objective.metric}, but whether it beats "
                f"{baseline.label} is not decidable: {margin}; it takes at least {_MIN_SEEDS} "
                "paired seeds."
            )


def _margin(comparison: Comparison) -> str:
    if comparison.difference is None:
        return "no common seed"
    seeds = plural(comparison.num_seeds, "paired seed")
    bias = ", which chose it" if comparison.split == "validation" else ""
    return (
        f"{format_difference(comparison.difference)} {comparison.metric} "
        f"on the {comparison.split} split{bias} ({seeds})"
    )


def _named(entry: CandidateSummary) -> str:
    return f"trial {entry.number} ({entry.label})"


def _cost(summary: StudySummary, entry: CandidateSummary) -> str:
    if summary.main_cost is None:
        return ""
    value = entry.values[summary.objectives.index(summary.main_cost)]
    return "" if value is None else f", {with_unit(summary.main_cost.metric, value.mean)}"


def _price(summary: StudySummary, best: CandidateSummary, baseline: CandidateSummary) -> str:
    if summary.main_cost is None:
        return ""
    column = summary.objectives.index(summary.main_cost)
    value, other = best.values[column], baseline.values[column]
    if value is None or other is None or other.mean == 0:
        return ""
    metric = summary.main_cost.metric
    return (
        f" It takes {value.mean / other.mean:.2f} {TIMES} its {metric_name(summary.main_cost)}: "
        f"{with_unit(metric, value.mean)} against {with_unit(metric, other.mean)}."
    )
