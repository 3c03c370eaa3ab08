"""Part of the results: how fast each row learns, and the labels and steps that it saves."""

from __future__ import annotations

import math
from collections.abc import Callable

from ssl_med.evaluation.metrics import metric_of
from ssl_med.evaluation.statistics import Outcome
from ssl_med.reports.escape import file_stem
from ssl_med.reports.figures.traces import learning_traces, traces
from ssl_med.reports.numbers.cells import EMPTY, Cell
from ssl_med.reports.numbers.comparison import Comparison, budget
from ssl_med.reports.numbers.design import Column
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.reached import NEAR, Reached, annotation_saving, convergence, learning_curve, short
from ssl_med.reports.numbers.wording import INTERVALS, mark_of, named, p_text
from ssl_med.reports.render.blocks import Block, Field, Grid, Heading, Note, Plots


def annotation(comparison: Comparison, column: Column) -> list[Block]:
    """Labels saved; nothing where no row can be compared with a baseline."""
    target, found = annotation_saving(comparison, column.label)
    base, metric = comparison.design.baseline, comparison.metric(column.label)
    if not comparison.challengers_of(column.label):
        return []
    if not found:
        why = f"needs {base} at 100 % of the labels and two budgets or more"
        return [Heading("Labels saved"), Note(f"Not computed: {why}.")]
    rows: list[list[Field | str]] = []
    for row, x in found.items():
        rows.append([Field(row, color=comparison.styles[row].color), *_reached(x, short, "or fewer")])
    note = (
        f"Share of the labels at which a row's mean reaches what {base} reaches with all of them ({metric} {target:.3f}), "
        "interpolated between budgets in the logarithm of the share. Last column: seeds that reach it by themselves. "
        "A description of the means, without a test."
    )
    return [Heading("Labels saved"), Grid(["", "labels needed", "seeds"], rows), Note(note)]


def speed(comparison: Comparison, column: Column) -> list[Block]:
    """Means and differences at each early step that was tested, and steps saved; nothing where none was."""
    steps = comparison.early.get(column.label, ())
    if not steps:
        return []
    runs, rows_of = comparison.column_runs[column.label], comparison.rows_of(column.label)
    figures, rows = [], []
    for fraction in column.fractions:
        share, patients = budget(fraction, runs)
        lines = learning_traces(comparison, column.label, fraction)
        if lines:
            title = f"{share} of the labels" + (f" ({patients})" if patients else "")
            stem = f"learning-{file_stem(column.label)}-{fraction:g}"
            figure = traces(lines, title=f"Test {named(runs.metric)}, {title}", below="optimiser step")
            figures.append((title, stem, figure))
        rows += [_row(comparison, column, fraction, share, row) for row in rows_of]
    closing = max(step for row in rows_of for x in column.fractions
                  for step in learning_curve(comparison, column.label, x, row) or [0])  # fmt: skip
    compared = (
        f"; below it the difference to {comparison.design.baseline} and p of the same test and family as above"
        if comparison.challengers_of(column.label)
        else ""
    )
    return [
        Heading("How fast it learns"),
        Grid(["", *(f"step {step}" for step in steps), f"step {closing} (end)"], rows, css="sticky wide"),
        Note(
            f"Test {named(runs.metric)} along the fine-tuning, mean over seeds{compared}. "
            "Nothing was chosen on these values."
        ),
        Plots(figures, INTERVALS),
        *_convergence(comparison, column),
    ]


def _row(comparison: Comparison, column: Column, fraction: float, share: str, row: str) -> list[Field | str]:
    cells = learning_curve(comparison, column.label, fraction, row)
    line: list[Field | str] = [Field(row, f"{share} labels", color=comparison.styles[row].color)]
    metric = comparison.metric(column.label)
    for step in comparison.early[column.label]:
        outcome = comparison.early_differences.get((column.label, fraction, row, step))
        line.append(_field(cells.get(step, Cell()), outcome, metric))
    last = comparison.differences.get((column.label, fraction, row))
    final = comparison.cell(column.label, fraction, row)
    return [*line, _field(final, last.outcome if last else None, metric)]


def _field(cell: Cell, outcome: Outcome | None, metric: str) -> Field:
    if not cell.n:
        return Field("missing", mark="missing")
    if outcome is None or math.isnan(outcome.effect):
        return Field(f"{cell.mean:.3f}")
    return Field(f"{cell.mean:.3f}", f"{outcome.effect:+.3f}, {p_text(outcome)}", mark_of(outcome, metric))


def _convergence(comparison: Comparison, column: Column) -> list[Block]:
    rows_of, metric = comparison.rows_of(column.label), comparison.metric(column.label)
    if comparison.design.baseline not in rows_of:
        return []
    rows: list[list[Field | str]] = [[Field(row, color=comparison.styles[row].color)] for row in rows_of]
    for fraction in column.fractions:
        _, found = convergence(comparison, column.label, fraction)
        for line, row in zip(rows, rows_of, strict=True):
            text, seeds = _reached(found.get(row, Reached(why="missing")), lambda step: f"{step:g}", "or earlier")
            line.append(Field(text.text, seeds if seeds != EMPTY else "", text.mark))
    head = ["", *(f"{budget(x, comparison.column_runs[column.label])[0]} labels" for x in column.fractions)]
    near = percent(NEAR) if metric_of(metric).higher_is_better else f"1 / {percent(NEAR)}"
    note = (
        f"First tested step at which the mean over seeds reaches {near} of the final {metric} of {comparison.design.baseline} "
        "at the same budget; below it the seeds that reach it at any tested step."
    )
    return [Heading("Steps saved"), Grid(head, rows), Note(note)]


def _reached(x: Reached, show: Callable[[float], str], first: str) -> tuple[Field, str]:
    if x.why:
        return Field(x.why, mark="missing"), EMPTY
    seeds = f"{x.reached} of {x.of}"
    if math.isnan(x.value):
        return Field("not reached"), seeds
    return Field(show(x.value) + (f" {first}" if x.first else "")), seeds
