"""The results of each column: the table, differences to the baseline, label budgets, learning speed, validation."""

from __future__ import annotations

import math

from ssl_med.evaluation.metrics import metric_of
from ssl_med.reports.escape import file_stem
from ssl_med.reports.figures.curves import validation_curves
from ssl_med.reports.figures.traces import budget_traces, traces
from ssl_med.reports.numbers.cells import EMPTY, FEW, Cell
from ssl_med.reports.numbers.column_runs import ColumnRuns
from ssl_med.reports.numbers.comparison import Comparison, budget
from ssl_med.reports.numbers.design import Column
from ssl_med.reports.numbers.external import external_lines, external_notes
from ssl_med.reports.numbers.published import Published, published, unlike_the_paper
from ssl_med.reports.numbers.wording import INTERVALS, PUBLISHED_P, count, missing_lines, named, titled
from ssl_med.reports.render.blocks import Beside, Block, Field, Fold, Grid, Heading, Listing, Note, Plots, Section
from ssl_med.reports.sections.results_differences import differences
from ssl_med.reports.sections.results_speed import annotation, speed


def section(comparison: Comparison) -> list[Section]:
    """A section for each column."""
    columns = enumerate(comparison.design.columns)
    return [Section(f"column-{k}", titled(column.label), _column(comparison, column)) for k, column in columns]


def _column(comparison: Comparison, column: Column) -> list[Block]:
    runs = comparison.column_runs.get(column.label)
    if runs is None:
        return [results(comparison, column)]
    blocks: list[Block] = [results(comparison, column)]
    cells = [comparison.cell(column.label, x, row) for x in runs.fractions for row in runs.rows]
    if any(0 < cell.n < FEW for cell in cells):
        blocks.append(Note("With fewer than three seeds, differences are hints at most."))
    blocks.append(Listing(runs.warnings, "The rows are not equal in everything:", warning=True))
    if column.tests:
        head, *lines = external_lines(runs)
        grid = Grid(list(head), lines, css="sticky wide", caption=external_notes(runs))
        blocks += [Heading("In and out of domain"), grid]
    blocks += differences(comparison, column)
    blocks += _budgets(comparison, column, runs)
    blocks += speed(comparison, column)
    return [*blocks, *_further(comparison, column, runs), *_validation(comparison, column, runs)]


def results(comparison: Comparison, column: Column) -> Grid:
    """Rows x budgets: mean and spread over seeds."""
    runs, key = comparison.column_runs.get(column.label), f"{file_stem(column.label)}-results"
    lost = [entry for entry in comparison.missing if entry.role == "final" and entry.column == column.label]
    missing = missing_lines(lost)
    if runs is None:
        return Grid([], [], caption=["No run of this column has finished."], missing=missing, key=key)
    numbers = [] if unlike_the_paper(comparison) else published(comparison)
    cited = {(x.row, x.fraction): _cited(x) for x in numbers if x.column == column.label}
    beside = {fraction for _, fraction in cited}
    head: list[Field | str] = [""]
    for fraction in column.fractions:
        head += [Field(*budget(fraction, runs)), *(["published"] if fraction in beside else [])]
    rows: list[list[Field | str]] = []
    for row in comparison.rows_of(column.label):
        line: list[Field | str] = [Field(row, color=comparison.styles[row].color)]
        for fraction in column.fractions:
            line.append(_result(comparison, column, fraction, row))
            if fraction in beside:
                line.append(cited.get((row, fraction), EMPTY))
        rows.append(line)
    caption = [results_caption(comparison, column)]
    return Grid(head, rows, css="headline wide sticky", caption=caption, missing=missing, key=key)


def _cited(x: Published) -> Field:
    """'0.812' over 'p 0.031', as the paper has them."""
    return Field(EMPTY if math.isnan(x.published) else f"{x.published:g}", "" if math.isnan(x.p) else f"p {x.p:g}")


def _result(comparison: Comparison, column: Column, fraction: float, row: str) -> Field:
    cell = comparison.cell(column.label, fraction, row)
    planned = comparison.cell_entries(column.label, fraction, row)
    if not cell.n:
        return Field("missing", mark="missing") if planned else Field(EMPTY)
    details = [f"± {cell.sd:.3f}"] if cell.n > 1 else []
    repeated = comparison.repeated(column.label, fraction, row)
    wanted = len(planned) - repeated
    details.append(f"n {cell.n}" if cell.n == wanted else f"n {cell.n} of {wanted}")
    if repeated:
        details.append(count(repeated, "repeat"))
    if fallen := comparison.collapsed(column.label, fraction, row):
        details.append(f"{fallen} collapsed")
    best = comparison.best(column.label, fraction) == row
    return Field(f"{cell.mean:.3f}", " · ".join(details), mark="best" if best else "")


def results_caption(comparison: Comparison, column: Column) -> str:
    """What the numbers of the table are, complete enough to be quoted."""
    runs, design = comparison.column_runs[column.label], comparison.design
    rows = comparison.rows_of(column.label)
    best = ""
    if len(rows) > 1:
        best = (
            " Marked: the best mean of its budget where it differs from every other row by the same test (Holm over these)."
            if any(comparison.best(column.label, x) for x in column.fractions)
            else " No row is marked as best: at no budget is the best mean told apart from all other rows by the test."
        )
    fallen = (
        f" Collapsed: {runs.metric} below {design.collapsed_below:g} at the end; such runs stay in."
        if design.collapsed_below and metric_of(runs.metric).higher_is_better
        else ""
    )
    repeated = any(comparison.repeated(column.label, x, row) for x in column.fractions for row in rows)
    again = (
        " Repeats: a probe with all labels draws nothing anew, so runs from one pretraining are one and count once."
        if repeated
        else ""
    )
    cited = published(comparison) if not unlike_the_paper(comparison) else []
    if any(x.column == column.label and not math.isnan(x.p) for x in cited):
        again += f" {PUBLISHED_P}"
    seeds = f"{count(len(design.seeds), 'seed')}" if design.planned else "seeds"
    return (
        f"{runs.title}: test {named(runs.metric)}, mean ± standard deviation over {seeds} (n runs), on {runs.n_test} "
        f"test cases. The spread is over seeds, not patients.{best}{fallen}{again}"
    )


def _budgets(comparison: Comparison, column: Column, runs: ColumnRuns) -> list[Block]:
    """The curve over label budgets; with one budget a picture of the seeds, where a cell has several."""
    several = len(column.fractions) > 1
    if not several and not any(
        comparison.cell(column.label, x, row).n > 1 for x in runs.fractions for row in runs.rows
    ):
        return []
    title = f"Test {named(runs.metric)} by label budget" if several else f"Test {named(runs.metric)}, each seed a point"
    figure = traces(
        budget_traces(comparison, column.label), title=title,
        below="share of the labelled training patients" + (" (logarithmic)" if several else ""), shares=True,
    )  # fmt: skip
    stem = f"label-budget-{file_stem(column.label)}"
    plots = Plots([("Metric against label budget", stem, figure)], f"{INTERVALS} Small points: seeds.")
    if not several:
        return [Heading("Seeds"), plots]
    saved = annotation(comparison, column)
    curve: list[Block] = [Heading("By label budget"), plots]
    return [Beside(curve, saved)] if saved else curve


def _further(comparison: Comparison, column: Column, runs: ColumnRuns) -> list[Block]:
    """Other test metrics of the runs: regions, findings, accuracy."""
    blocks: list[Block] = []
    for metric in runs.further_metrics:
        rows: list[list[Field | str]] = []
        for row in runs.rows:
            cells = [_plain(runs.cell(row, x, metric)) for x in runs.fractions]
            rows.append([Field(row, color=comparison.styles[row].color), *cells])
        head: list[Field | str] = ["", *(Field(*budget(x, runs)) for x in runs.fractions)]
        blocks += [Heading(metric), Grid(head, rows)]
    return [Fold("Further test metrics", ", ".join(runs.further_metrics), blocks, page_only=True)] if blocks else []


def _plain(cell: Cell) -> Field:
    if not cell.n:
        return Field(EMPTY)
    details = [f"± {cell.sd:.3f}"] if cell.n > 1 else []
    return Field(f"{cell.mean:.3f}", " · ".join([*details, f"n {cell.n}"]))


def _validation(comparison: Comparison, column: Column, runs: ColumnRuns) -> list[Block]:
    figures = [
        (figure.axes[0].get_title(loc="left"), f"validation-{file_stem(column.label)}-{k}", figure)
        for k, figure in enumerate(validation_curves(runs, comparison.styles))
    ]
    words = "thin: seeds, thick: their mean over the steps that all logged"
    return [Fold("Validation while fine-tuning", words, [Plots(figures)])] if figures else []
