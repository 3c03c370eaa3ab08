"""Part of the results: each row against the baseline, with the interval over patients and p over seeds."""

from __future__ import annotations

import math

from ssl_med.evaluation.statistics import Refusal
from ssl_med.reports.escape import file_stem
from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.comparison import Comparison, budget
from ssl_med.reports.numbers.design import Column
from ssl_med.reports.numbers.differences import Difference
from ssl_med.reports.numbers.wording import mark_of, named, p_text
from ssl_med.reports.render.blocks import Block, Field, Grid, Heading


def differences(comparison: Comparison, column: Column) -> list[Block]:
    """Heading and table; nothing where the column has nothing to compare."""
    rows = comparison.challengers_of(column.label)
    if not any((column.label, x, row) in comparison.differences for x in column.fractions for row in rows):
        return []
    base, runs = comparison.design.baseline, comparison.column_runs[column.label]
    head: list[Field | str] = [f"minus {base}", *(Field(budget(x, runs)[0]) for x in column.fractions)]
    lines: list[list[Field | str]] = []
    for row in rows:
        found = [comparison.differences.get((column.label, x, row)) for x in column.fractions]
        cells = [difference_field(x, runs.metric) for x in found]
        lines.append([Field(row, color=comparison.styles[row].color), *cells])
    what = f"{runs.title}: difference in test {named(runs.metric)} to {base}."
    first, *reasons = difference_notes(comparison, column)
    caption = [f"{what} {first}", *reasons]
    grid = Grid(head, lines, css="sticky wide", caption=caption, key=f"{file_stem(column.label)}-differences")
    return [Heading(f"Difference to {base}"), grid]


def difference_field(difference: Difference | None, metric: str) -> Field:
    """'+0.012 [+0.001, +0.020]' over 'p 0.031'."""
    if difference is None:
        return Field(EMPTY)
    if math.isnan(difference.outcome.effect):
        return Field("missing", mark="missing")
    text = str(difference).partition("; ")[0]
    return Field(text, p_text(difference.outcome), mark_of(difference.outcome, metric))


def difference_notes(comparison: Comparison, column: Column) -> list[str]:
    """What brackets and p are, and why some are absent, each said once."""
    keys = [(column.label, x, row) for x in column.fractions for row in comparison.challengers_of(column.label)]
    found = [comparison.differences[key] for key in keys if key in comparison.differences]
    notes = [
        "Difference over the seeds that both rows have. Brackets: 95 % bootstrap interval over the test subjects, the same for "
        "both rows, seeds averaged; each without correction, and silent about other seeds. "
        f"p: {comparison.test_name} over seeds, two-sided, corrected by Holm over "
        f"{comparison.family_text(column.label)}. Marked: corrected p below 0.05. An interval without 0 beside a large p: "
        "other patients would show it for these runs, other seeds need not."
    ]
    reasons: dict[str, None] = {}
    for difference in found:
        if isinstance(difference.outcome, Refusal) and difference.outcome.n:
            reasons[f"No p: {difference.outcome.reason}."] = None
        why = difference.unpaired or (difference.interval.reason if difference.interval is not None else "")
        if why:
            reasons[f"No interval: {why}."] = None
    return [*notes, *reasons]
