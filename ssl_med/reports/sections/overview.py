"""All columns of a comparison in one table, and each series of columns as one curve."""

from __future__ import annotations

import math

from ssl_med.reports.escape import file_stem
from ssl_med.reports.figures.traces import series_traces, traces
from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.wording import INTERVALS, mark_of, named, p_text
from ssl_med.reports.render.blocks import Block, Field, Grid, Plots, Section

WIDEST = 7  # columns of numbers in the overview


def section(comparison: Comparison) -> list[Section]:
    """Nothing where there is only one column, whose own section shows the same."""
    if len(comparison.design.columns) < 2:
        return []
    return [Section("overview", "All columns", [overview(comparison), *_series(comparison)])]


def overview(comparison: Comparison) -> Grid:
    """Rows x columns: mean over seeds, and the difference to the baseline with its p."""
    keys = _shown(comparison)
    budgets = {x for column in comparison.design.columns for x in column.fractions}
    head: list[Field | str] = [""]
    for column, fraction in keys:
        words = [comparison.metric(column), percent(fraction) if len(budgets) > 1 else ""]
        head.append(Field(column.replace("_", " "), " · ".join(filter(None, words))))
    rows: list[list[Field | str]] = []
    for row in comparison.design.rows:
        cells = [_cell(comparison, column, fraction, row) for column, fraction in keys]
        rows.append([Field(row, color=comparison.styles[row].color), *cells])
    return Grid(head, rows, css="headline wide sticky", caption=[_caption(comparison)], key="all-columns")


def _caption(comparison: Comparison) -> str:
    base = comparison.design.baseline
    every = len(_shown(comparison)) == sum(len(column.fractions) for column in comparison.design.columns)
    budgets = "" if every else " Of each column its largest label budget; the others are shown below."
    beside = (
        f"; below it the difference to {base} and its p ({comparison.test_name} over seeds, corrected by Holm over "
        f"{comparison.family_text()}), for {base} the standard deviation. Marked: corrected p below 0.05"
        if base
        else ""
    )
    return (
        f"Test metric, mean over seeds{beside}.{budgets} Numbers of seeds, intervals and what is missing are given with each "
        "column."
    )


def _shown(comparison: Comparison) -> list[tuple[str, float]]:
    """Every column and budget, or where that is too wide the largest budget of each."""
    columns = comparison.design.columns
    every = [(column.label, x) for column in columns for x in column.fractions]
    return every if len(every) <= WIDEST else [(c.label, max(c.fractions)) for c in columns]


def _cell(comparison: Comparison, column: str, fraction: float, row: str) -> Field:
    cell = comparison.cell(column, fraction, row)
    if not cell.n:
        planned = bool(comparison.cell_entries(column, fraction, row))
        return Field("missing", mark="missing") if planned else Field(EMPTY)
    if row == comparison.design.baseline:
        return Field(f"{cell.mean:.3f}", f"± {cell.sd:.3f}" if cell.n > 1 else "")
    found = comparison.differences.get((column, fraction, row))
    if found is None or math.isnan(found.outcome.effect):
        return Field(f"{cell.mean:.3f}")
    aside = f"{found.outcome.effect:+.3f}, {p_text(found.outcome)}"
    return Field(f"{cell.mean:.3f}", aside, mark_of(found.outcome, comparison.metric(column)))


def _series(comparison: Comparison) -> list[Block]:
    figures = []
    for series in filter(None, dict.fromkeys(column.series for column in comparison.design.columns)):
        names, lines = series_traces(comparison, series)
        if lines:
            first = next(column.label for column in comparison.design.columns if column.series == series)
            title = f"Test {named(comparison.metric(first))} by column: {series.replace('_', ' ')}"
            figure = traces(lines, title=title, below="column, at its largest label budget", names=names)
            figures.append((title, f"series-{file_stem(series)}", figure))
    return [Plots(figures, INTERVALS)] if figures else []
