"""Means over seeds with their intervals, a line a row: by label budget, by column, by optimiser step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ssl_med.reports.escape import drawn
from ssl_med.reports.numbers.cells import Cell, interval
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.reached import learning_curve
from ssl_med.reports.style import RC, Style, panel


@dataclass(frozen=True)
class Trace:
    """One line of a figure: means with the ends of their intervals, nan where there is none, and the values of the seeds."""

    label: str
    look: Style
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    seeds: Sequence[Sequence[float]] = field(default_factory=list)


def traces(
    lines: Sequence[Trace], *, title: str, below: str, shares: bool = False, names: Sequence[str] = ()
) -> Figure:
    """Lines with interval bars, shifted a little so that they do not cover each other; small points are seeds.

    `shares`: x are label fractions, on a log scale; `names`: x are 0, 1, ... and called so.
    """
    with mpl.rc_context(RC):
        figure, axes = panel(title, height=4.3)
        ticks = sorted({x for line in lines for x in line.x})
        span = (np.log(ticks[-1] / ticks[0]) if shares else ticks[-1] - ticks[0]) if len(ticks) > 1 else 1.0
        for k, line in enumerate(lines):
            shift = min(0.012, 0.08 / len(lines)) * span * (k - (len(lines) - 1) / 2)
            x = np.array(line.x, float) * np.exp(shift) if shares else np.array(line.x, float) + shift
            bars = np.nan_to_num(np.array([np.subtract(line.mean, line.low), np.subtract(line.high, line.mean)]))
            axes.errorbar(
                x, line.mean, yerr=bars, label=drawn(line.label), color=line.look.color, linestyle=line.look.line,
                marker=line.look.marker, markerfacecolor=line.look.face, markersize=5, linewidth=1.5, elinewidth=1.0,
            )  # fmt: skip
            for place, values in zip(x, line.seeds, strict=False):
                axes.plot([place] * len(values), values, ".", color=line.look.color, alpha=0.4, markersize=4)
        if shares:
            axes.set_xscale("log")
        if len(ticks) == 1:  # else the shifts of the lines would fill the whole axis
            axes.set_xlim(*((ticks[0] * np.exp(end) if shares else ticks[0] + end) for end in (-0.1, 0.1)))
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        if shares:
            axes.set_xticklabels([percent(x) for x in ticks])
        elif names:
            axes.set_xticklabels([drawn(names[round(x)]) for x in ticks])
        axes.set_xlabel(below)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, handlelength=2.6)
        return figure


def budget_traces(comparison: Comparison, column: str) -> list[Trace]:
    """Metric against label fraction, a line a row."""
    fractions = comparison.design.fractions(column)
    cells = {row: {x: comparison.cell(column, x, row) for x in fractions} for row in comparison.design.rows}
    return _traces(comparison, cells, seeds=True)


def series_traces(comparison: Comparison, series: str) -> tuple[list[str], list[Trace]]:
    """Names of the columns of a series and the metric at each one's largest budget against their number, a line a row.

    [] where fewer than two columns have results.
    """
    columns = [c for c in comparison.design.columns if c.series == series and c.label in comparison.column_runs]
    if len(columns) < 2:
        return [], []
    cells = {
        row: {k: comparison.cell(c.label, max(c.fractions), row) for k, c in enumerate(columns)}
        for row in comparison.design.rows
    }
    return [c.label.removeprefix(series).strip() for c in columns], _traces(comparison, cells)


def learning_traces(comparison: Comparison, column: str, fraction: float) -> list[Trace]:
    """Metric against optimiser step, a line a row; the final value closes it. [] where no early step was tested."""
    if not comparison.early.get(column):
        return []
    return _traces(
        comparison, {row: learning_curve(comparison, column, fraction, row) for row in comparison.design.rows}
    )


def _traces(
    comparison: Comparison, points: dict[str, dict[float, Cell]] | dict[str, dict[int, Cell]], *, seeds: bool = False
) -> list[Trace]:
    found = []
    for row, cells in points.items():
        at = {x: cell for x, cell in cells.items() if cell.n}
        if at:
            ends = [interval(cell) for cell in at.values()]
            look, mean = comparison.styles[row], [cell.mean for cell in at.values()]
            low, high = ([end[k] for end in ends] for k in (0, 1))
            values = [cell.values for cell in at.values()] if seeds else []
            found.append(Trace(row, look, list(at), mean, low, high, values))
    return found
