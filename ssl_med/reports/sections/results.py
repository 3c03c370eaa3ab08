"""The results of a comparison as sections of its report."""

from __future__ import annotations

import math
from collections.abc import Callable

from ssl_med.evaluation.metrics import metric_of
from ssl_med.evaluation.statistics import Outcome, Refusal
from ssl_med.reports.figures.curves import traces
from ssl_med.reports.numbers.comparison import Column, Comparison, budget
from ssl_med.reports.numbers.derived import (
    NEAR,
    Published,
    Reached,
    annotation_saving,
    budget_traces,
    convergence,
    learning_curve,
    learning_traces,
    published,
    short,
)
from ssl_med.reports.numbers.differences import Difference
from ssl_med.reports.numbers.external import external_lines, external_notes
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.tables import EMPTY, Cell
from ssl_med.reports.numbers.wording import INTERVALS, PUBLISHED_P, mark_of, missing_lines, named, p_text, titled
from ssl_med.reports.render.blocks import Beside, Block, Field, Grid, Heading, Listing, Note, Plots, Section
from ssl_med.reports.writing import file_stem


def column_section(comparison: Comparison, k: int) -> Section:
    """All that one column says."""
    column = comparison.design.columns[k]
    title = titled(column.label)
    table = comparison.tables.get(column.label)
    if table is None:
        return Section(
            f"column-{k}", title, [Note("No run of this column has finished."), *_missing(comparison, column)]
        )
    blocks: list[Block] = [
        results(comparison, column),
        Note(results_caption(comparison, column)),
        *_missing(comparison, column),
    ]
    if column.tests:
        head, *lines = external_lines(table)
        inside = [Note(note) for note in external_notes(table)]
        blocks += [Heading("In and out of domain"), Grid(list(head), lines, css="sticky wide"), *inside]
    if comparison.challengers:
        blocks += [Heading(f"Difference to {comparison.design.baseline}"), difference_grid(comparison, column)]
        blocks += [Note(note) for note in difference_notes(comparison, column)]
    if len(column.fractions) > 1:
        figure = traces(
            budget_traces(comparison, column.label), title=f"Test {table.metric} by label budget",
            below="share of the labelled training patients (logarithmic)", shares=True,
        )  # fmt: skip
        saving = _saving(comparison, column)
        stem = f"label-budget-{file_stem(column.label)}"
        left: list[Block] = [
            Heading("By label budget"),
            Plots([("Metric against label budget", stem, figure)], INTERVALS),
        ]
        blocks.append(Beside(left, saving))
    return Section(f"column-{k}", title, [*blocks, *_early(comparison, column)])


# --- the table ---------------------------------------------------------------------------------------------------


def results(comparison: Comparison, column: Column) -> Grid:
    """Rows x budgets: mean and spread over seeds."""
    table = comparison.tables.get(column.label)
    cited = {(x.row, x.fraction): _cited(x) for x in published(comparison) if x.column == column.label}
    beside = {fraction for _, fraction in cited}
    head: list[Field | str] = [""]
    for fraction in column.fractions:
        head += [Field(*budget(fraction, table)), *(["published"] if fraction in beside else [])]
    rows: list[list[Field | str]] = []
    for row in comparison.design.rows:
        line: list[Field | str] = [Field(row, color=comparison.styles[row].color)]
        for fraction in column.fractions:
            line.append(_result(comparison, column, fraction, row))
            if fraction in beside:
                line.append(cited.get((row, fraction), EMPTY))
        rows.append(line)
    return Grid(head, rows, css="headline wide sticky")


def _cited(x: Published) -> Field:
    """'0.812' over 'p 0.031', as the paper has them."""
    return Field(EMPTY if math.isnan(x.published) else f"{x.published:g}", "" if math.isnan(x.p) else f"p {x.p:g}")


def _result(comparison: Comparison, column: Column, fraction: float, row: str) -> Field:
    cell = comparison.cell(column.label, fraction, row)
    if not cell.n:
        return Field("missing", mark="missing")
    told = [f"± {cell.sd:.3f}"] if cell.n > 1 else []
    repeated = comparison.repeated(column.label, fraction, row)
    wanted = len(comparison.design.seeds) - repeated
    told.append(f"n {cell.n}" if cell.n == wanted else f"n {cell.n} of {wanted}")
    if repeated:
        told.append(f"{repeated} repeat" + ("s" if repeated == 1 else ""))
    if fallen := comparison.collapsed(column.label, fraction, row):
        told.append(f"{fallen} collapsed")
    best = comparison.best(column.label, fraction) == row
    return Field(f"{cell.mean:.3f}", " · ".join(told), mark="best" if best else "")


def results_caption(comparison: Comparison, column: Column) -> str:
    """What the numbers of the table are, complete enough to be quoted."""
    table, design = comparison.tables[column.label], comparison.design
    marked = [x for x in column.fractions if comparison.best(column.label, x)]
    best = (
        "Marked: the best mean of its budget where it differs from every other row by the same test (Holm over these)."
        if marked
        else "No row is marked as best: at no budget is the best mean told apart from all other rows by the test."
    )
    fallen = (
        f" Collapsed: {table.metric} below {design.collapsed_below:g} at the end; such runs stay in."
        if design.collapsed_below and metric_of(table.metric).higher_is_better
        else ""
    )
    repeated = any(comparison.repeated(column.label, x, row) for x in column.fractions for row in design.rows)
    again = (
        " Repeats: a probe with all labels draws nothing anew, so runs from one pretraining are one and count once."
        if repeated
        else ""
    )
    if any(x.column == column.label and not math.isnan(x.p) for x in published(comparison)):
        again += f" {PUBLISHED_P}"
    return (
        f"{table.title}: test {named(table.metric)}, mean ± standard deviation over {_seeds(comparison)} (n runs), on "
        f"{table.n_test} test cases. The spread is over seeds, not patients. {best}{fallen}{again}"
    )


def _missing(comparison: Comparison, column: Column) -> list[Block]:
    lines = missing_lines(
        entry for entry in comparison.missing if entry.role == "final" and entry.column == column.label
    )
    return [Listing(lines, "Runs of this table that are not there:", warning=True)] if lines else []


# --- differences -------------------------------------------------------------------------------------------------


def difference_grid(comparison: Comparison, column: Column) -> Grid:
    """Rows but the baseline x budgets: difference, interval over patients, p over seeds."""
    table = comparison.tables.get(column.label)
    head: list[Field | str] = [
        f"minus {comparison.design.baseline}",
        *(Field(budget(x, table)[0]) for x in column.fractions),
    ]
    rows: list[list[Field | str]] = []
    for row in comparison.challengers:
        cells = [
            difference_field(comparison.differences[column.label, x, row], comparison.metric(column.label))
            for x in column.fractions
        ]
        rows.append([Field(row, color=comparison.styles[row].color), *cells])
    return Grid(head, rows, css="sticky wide")


def difference_field(difference: Difference, metric: str) -> Field:
    """'+0.012 [+0.001, +0.020]' over 'p 0.031'."""
    if math.isnan(difference.outcome.effect):
        return Field("missing", mark="missing")
    text = str(difference).partition("; ")[0]
    return Field(text, p_text(difference.outcome), mark_of(difference.outcome, metric))


def difference_notes(comparison: Comparison, column: Column) -> list[str]:
    """What brackets and p are, and why some are absent, each said once."""
    found = [comparison.differences[column.label, x, row] for x in column.fractions for row in comparison.challengers]
    notes = [
        "Difference over the seeds that both rows have. Brackets: 95 % bootstrap interval over the test subjects, the same for "
        "both rows, seeds averaged; each by itself, and silent about other seeds. "
        f"p: {comparison.test_name} over seeds, two-sided, corrected by Holm over all {comparison.family} comparisons of this "
        "report. Marked: corrected p below 0.05. An interval without 0 beside a large p: other patients would show it "
        "for these runs, other seeds need not."
    ]
    reasons: dict[str, None] = {}
    for difference in found:
        if isinstance(difference.outcome, Refusal) and difference.outcome.n:
            reasons[f"No p: {difference.outcome.reason}."] = None
        why = difference.unpaired or (difference.interval.reason if difference.interval is not None else "")
        if why:
            reasons[f"No interval: {why}."] = None
    return [*notes, *reasons]


# --- early -------------------------------------------------------------------------------------------------------


def _early(comparison: Comparison, column: Column) -> list[Block]:
    steps = comparison.early.get(column.label, ())
    if not steps:
        return []
    table = comparison.tables[column.label]
    figures, rows = [], []
    for fraction in column.fractions:
        share, patients = budget(fraction, table)
        lines = learning_traces(comparison, column.label, fraction)
        if lines:
            title = f"{share} of the labels" + (f" ({patients})" if patients else "")
            stem = f"learning-{file_stem(column.label)}-{fraction:g}"
            figures.append((title, stem, traces(lines, title=f"Test {table.metric}, {title}", below="optimiser step")))
        rows += [_early_row(comparison, column, fraction, share, row) for row in comparison.design.rows]
    closing = max(step for row in comparison.design.rows for x in column.fractions
                  for step in learning_curve(comparison, column.label, x, row) or [0])  # fmt: skip
    head = ["", *(f"step {step}" for step in steps), f"step {closing} (end)"]
    blocks: list[Block] = [
        Heading("How fast it learns"),
        Grid(head, rows, css="sticky wide"),
        Note(
            f"Test {table.metric} along the fine-tuning, mean over seeds; below it the difference to "
            f"{comparison.design.baseline} and p of the same test and family as above. Nothing was chosen on these values."
        ),
        Plots(figures, INTERVALS),
    ]  # fmt: skip
    return [*blocks, *_convergence(comparison, column)]


def _early_row(comparison: Comparison, column: Column, fraction: float, share: str, row: str) -> list[Field | str]:
    cells, metric = learning_curve(comparison, column.label, fraction, row), comparison.metric(column.label)
    line: list[Field | str] = [Field(row, f"{share} labels", color=comparison.styles[row].color)]
    for step in comparison.early[column.label]:
        outcome = comparison.early_differences.get((column.label, fraction, row, step))
        line.append(_early_field(cells.get(step, Cell()), outcome, metric))
    final = comparison.cell(column.label, fraction, row)
    last = comparison.differences.get((column.label, fraction, row))
    return [*line, _early_field(final, last.outcome if last else None, metric)]


def _early_field(cell: Cell, outcome: Outcome | None, metric: str) -> Field:
    if not cell.n:
        return Field("missing", mark="missing")
    if outcome is None or math.isnan(outcome.effect):
        return Field(f"{cell.mean:.3f}")
    return Field(f"{cell.mean:.3f}", f"{outcome.effect:+.3f}, {p_text(outcome)}", mark_of(outcome, metric))


# --- labels and steps saved --------------------------------------------------------------------------------------


def _saving(comparison: Comparison, column: Column) -> list[Block]:
    target, found = annotation_saving(comparison, column.label)
    base, metric = comparison.design.baseline, comparison.metric(column.label)
    if not found:
        why = f"needs {base} at 100 % of the labels and two budgets or more"
        return [Heading("Labels saved"), Note(f"Not computed: {why}.")]
    rows: list[list[Field | str]] = []
    for row, x in found.items():
        rows.append([Field(row, color=comparison.styles[row].color), *_reached(x, short, "or fewer")])
    note = (
        f"Share of the labels at which a row's mean reaches what {base} reaches with all of them ({metric} {target:.3f}), "
        "interpolated between budgets in the logarithm of the share. Last column: seeds that reach it by themselves. "
        "A description of the means; no test stands behind it."
    )
    return [Heading("Labels saved"), Grid(["", "labels needed", "seeds"], rows), Note(note)]


def _convergence(comparison: Comparison, column: Column) -> list[Block]:
    rows: list[list[Field | str]] = [[Field(row, color=comparison.styles[row].color)] for row in comparison.design.rows]
    for fraction in column.fractions:
        _, found = convergence(comparison, column.label, fraction)
        for line, row in zip(rows, comparison.design.rows, strict=True):
            text, seeds = _reached(found.get(row, Reached(why="missing")), lambda step: f"{step:g}", "or earlier")
            line.append(Field(str(text.text), seeds if seeds != EMPTY else "", text.mark))
    head = ["", *(f"{budget(x, comparison.tables[column.label])[0]} labels" for x in column.fractions)]
    note = (
        f"First tested step at which the mean over seeds reaches {percent(NEAR)} of the final "
        f"{comparison.metric(column.label)} of {comparison.design.baseline} at the same budget; below it the seeds "
        "that reach it at any tested step."
    )
    return [Heading("Steps saved"), Grid(head, rows), Note(note)]


def _reached(x: Reached, show: Callable[[float], str], first: str) -> tuple[Field, str]:
    if x.why:
        return Field(x.why, mark="missing"), EMPTY
    seeds = f"{x.reached} of {x.of}"
    if math.isnan(x.value):
        return Field("not reached"), seeds
    return Field(show(x.value) + (f" {first}" if x.first else "")), seeds


def _seeds(comparison: Comparison) -> str:
    seeds = comparison.design.seeds
    return f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}"
