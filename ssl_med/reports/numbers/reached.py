"""Labels and steps saved: when a row reaches what the baseline reaches with all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ssl_med.evaluation.metrics import Metric, metric_of
from ssl_med.reports.numbers.cells import Cell
from ssl_med.reports.numbers.comparison import Comparison, last_step
from ssl_med.reports.numbers.fairness import percent

NEAR = 0.95  # share of the baseline's final value that counts as arrived


def learning_curve(comparison: Comparison, column: str, fraction: float, row: str) -> dict[int, Cell]:
    """Step -> the metric over seeds there."""
    runs = comparison.runs(column, fraction, row)
    steps = [*comparison.early.get(column, ()), *sorted({last_step(run) for run in runs})]
    found = {}
    for step in steps:
        values = [run.value if step == last_step(run) else comparison.at(run, step) for run in runs]
        known = tuple(value for value in values if not math.isnan(value))
        if known:
            found[step] = Cell(known)
    return found


@dataclass(frozen=True)
class Reached:
    """The share of labels, or the step, at which a row reaches a bound.

    * value: nan when it does not. * first: the smallest one that was tried reaches it already. * of: runs; * reached: those
    that reach it by themselves. * why: cannot be said.
    """

    value: float = math.nan
    first: bool = False
    reached: int = 0
    of: int = 0
    why: str = ""


def annotation_saving(comparison: Comparison, column: str) -> tuple[float, dict[str, Reached]]:
    """Share of the labels that each row needs for the mean of the baseline at all labels, and that mean.

    Interpolated between budgets in the logarithm of the share. Empty where the column has no 100 %, or one budget only.
    """
    fractions = comparison.design.fractions(column)
    if len(fractions) < 2 or fractions[-1] != 1.0:
        return math.nan, {}
    target = comparison.cell(column, 1.0, comparison.design.baseline)
    if not target.n:
        return math.nan, {}
    metric = metric_of(comparison.metric(column))
    found = {}
    for row in comparison.challengers_of(column):
        cells = [comparison.cell(column, x, row) for x in fractions]
        if not all(cell.n for cell in cells):
            found[row] = Reached(why="cells are missing")
            continue
        value, first = crossing(fractions, [cell.mean for cell in cells], target.mean, metric)
        by_seed = _by_seed(comparison, column, row, fractions)
        reached = sum(not math.isnan(crossing(fractions, line, target.mean, metric)[0]) for line in by_seed)
        found[row] = Reached(value, first, reached, len(by_seed))
    return target.mean, found


def crossing(x: Sequence[float], y: Sequence[float], target: float, metric: Metric) -> tuple[float, bool]:
    """The least x at which the line through (log x, y) is as good as the target, nan if none; whether the first point is."""
    if metric.reaches(y[0], target):
        return float(x[0]), True
    for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)):
        if metric.reaches(y1, target) and not metric.reaches(y0, target):
            share = (target - y0) / (y1 - y0)
            return float(math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0)))), False
    return math.nan, False


def convergence(comparison: Comparison, column: str, fraction: float) -> tuple[float, dict[str, Reached]]:
    """The first tested step at which each row's mean reaches 95 % of the baseline's final mean, and that bound.

    Where lower is better, the bound is the final mean divided by 95 %.
    """
    final = comparison.cell(column, fraction, comparison.design.baseline)
    if not comparison.early.get(column) or not final.n:
        return math.nan, {}
    metric, found = metric_of(comparison.metric(column)), {}
    target = NEAR * final.mean if metric.higher_is_better else final.mean / NEAR
    for row in comparison.rows_of(column):
        cells = learning_curve(comparison, column, fraction, row)
        if not cells:
            found[row] = Reached(why="cells are missing")
            continue
        step = next((step for step, cell in cells.items() if metric.reaches(cell.mean, target)), math.nan)
        runs = comparison.runs(column, fraction, row)
        tested = [(run.value, *(comparison.at(run, s) for s in comparison.early[column])) for run in runs]
        reached = sum(any(metric.reaches(value, target) for value in values) for values in tested)
        found[row] = Reached(step, step == next(iter(cells)), reached, len(runs))
    return target, found


def _by_seed(comparison: Comparison, column: str, row: str, fractions: Sequence[float]) -> list[list[float]]:
    lines = [{run.seed: run.value for run in comparison.runs(column, x, row)} for x in fractions]
    return [[line[seed] for line in lines] for seed in lines[0] if all(seed in line for line in lines)]


def short(share: float) -> str:
    """0.0312 -> '3.1 %'."""
    return percent(float(f"{share:.2g}"))
