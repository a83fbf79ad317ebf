"""The study in one sentence: is the best candidate worth it against plain bilinear?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from upnas.front import (
    BELOW_TRIVIAL,
    CandidateSummary,
    Comparison,
    Split,
    StudySummary,
    compare,
    minimised,
    ties,
)
from upnas.records import Objective
from upnas.report.words import TIMES, format_difference, metric_name, plural, with_unit

#: Fewer paired seeds give no interval.
MIN_SEEDS: Final = 2


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
    split = _deciding_split(summary, objective)
    found = ties(summary, split)
    notes = []
    for group in found.groups:
        leader, *others = group
        numbers = ", ".join(str(member.number) for member in others)
        trials = f"trial{'s' if len(others) > 1 else ''} {numbers}"
        cheapest = summary.cheapest(group)
        notes.append(
            f"Indistinguishable from trial {leader.number} in {objective.metric} on the {split} "
            f"split: {trials}. The cheapest of all is {_named(cheapest)}{_cost(summary, cheapest)}."
        )
    if found.undecidable:
        notes.append(
            f"Not decidable: {plural(len(found.undecidable), 'front member')} with fewer than "
            f"{MIN_SEEDS} seeds in common with a better one. More seeds would tell."
        )
    return tuple(notes)


def _deciding_split(summary: StudySummary, objective: Objective) -> Split:
    """The test split where the front was scored on it: validation scores chose the front."""
    is_scored = any(objective.metric in entry.test_quality for entry in summary.front)
    return "test" if is_scored else "validation"


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
    if comparison.num_seeds < MIN_SEEDS:
        comparison = compare(best, baseline, objective, "validation")
    margin = _margin(comparison)
    equals = [
        member
        for member in summary.front
        if member.key not in (best.key, baseline.key)
        and compare(member, best, objective, comparison.split).outcome == "indistinguishable"
    ]
    others = plural(len(equals), "other front member")
    match comparison.outcome:
        case "better":
            text = f"{_named(best)} beats {baseline.label} by {margin}."
            text += _price(summary, best, baseline)
            if equals:
                text += f" {others} cannot be told from it."
                text += _advice(summary, [best, *equals], baseline)
            return text
        case "worse":
            return (
                f"{_named(best)} has the best validation {objective.metric}, but is behind "
                f"{baseline.label} by {margin}: keep {baseline.label}."
            )
        case "indistinguishable":
            also = f" and from {others}. Against {baseline.label}" if equals else ""
            return (
                f"{_named(best)} has the best validation {objective.metric}, but is "
                f"indistinguishable from {baseline.label}{also}: {margin}."
                + _advice(summary, [best, baseline, *equals], baseline)
            )
        case "undecidable":
            return (
                f"{_named(best)} has the best validation {objective.metric}, but whether it beats "
                f"{baseline.label} is not decidable: {margin}; it takes at least {MIN_SEEDS} "
                "paired seeds."
            )


def _advice(
    summary: StudySummary, members: Sequence[CandidateSummary], baseline: CandidateSummary
) -> str:
    """Which of several that cannot be told apart to take; nothing in a study without costs."""
    if summary.main_cost is None:
        return ""
    cheapest = summary.cheapest(members)
    text = f" Take the {'cheaper' if len(members) == 2 else 'cheapest'}: {_named(cheapest)}"
    text += _cost(summary, cheapest)
    if cheapest.key != baseline.key:
        text += f" against{_cost(summary, baseline).removeprefix(',')} for {baseline.label}"
    return f"{text}."


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
