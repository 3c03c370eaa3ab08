"""The results of a study as sections of its report."""

from __future__ import annotations

import math
from collections.abc import Callable

from ssl_med.evaluation.statistics import Outcome, Refusal
from ssl_med.reports._blocks import Beside, Block, Field, Grid, Heading, Listing, Note, Plots, Section
from ssl_med.reports._study_words import INTERVALS, mark_of, missing_lines, p_text, titled
from ssl_med.reports.comparison import Difference
from ssl_med.reports.curves import traces
from ssl_med.reports.external import external_lines, external_notes
from ssl_med.reports.fairness import percent
from ssl_med.reports.study import Column, Study, budget
from ssl_med.reports.study_derived import (
    NEAR,
    Reached,
    annotation_saving,
    budget_traces,
    convergence,
    learning_curve,
    learning_traces,
    published,
    short,
)
from ssl_med.reports.tables import EMPTY, Cell
from ssl_med.reports.writing import file_stem


def column_section(study: Study, k: int) -> Section:
    """All that one column says."""
    column = study.declared.columns[k]
    title = titled(column.label)
    table = study.tables.get(column.label)
    if table is None:
        return Section(f"column-{k}", title, [Note("No run of this column has finished."), *_missing(study, column)])
    blocks: list[Block] = [results(study, column), Note(results_caption(study, column)), *_missing(study, column)]
    if column.tests:
        head, *lines = external_lines(table)
        inside = [Note(note) for note in external_notes(table)]
        blocks += [Heading("In and out of domain"), Grid(list(head), lines, css="sticky wide"), *inside]
    if study.challengers:
        blocks += [Heading(f"Difference to {study.declared.baseline}"), difference_grid(study, column)]
        blocks += [Note(note) for note in difference_notes(study, column)]
    if len(column.fractions) > 1:
        figure = traces(
            budget_traces(study, column.label), title=f"Test {table.metric} by label budget",
            below="share of the labelled training patients (logarithmic)", shares=True,
        )  # fmt: skip
        saving = _saving(study, column)
        stem = f"label-budget-{file_stem(column.label)}"
        left: list[Block] = [
            Heading("By label budget"),
            Plots([("Metric against label budget", stem, figure)], INTERVALS),
        ]
        blocks.append(Beside(left, saving))
    return Section(f"column-{k}", title, [*blocks, *_early(study, column)])


# --- the table ---------------------------------------------------------------------------------------------------


def results(study: Study, column: Column) -> Grid:
    """Rows x budgets: mean and spread over seeds."""
    table = study.tables.get(column.label)
    cited = {(x.row, x.fraction): f"{x.published:g}" for x in published(study) if x.column == column.label}
    beside = {fraction for _, fraction in cited}
    head: list[Field | str] = [""]
    for fraction in column.fractions:
        head += [Field(*budget(fraction, table)), *(["published"] if fraction in beside else [])]
    rows: list[list[Field | str]] = []
    for row in study.declared.rows:
        line: list[Field | str] = [Field(row, color=study.styles[row].color)]
        for fraction in column.fractions:
            line.append(_result(study, column, fraction, row))
            if fraction in beside:
                line.append(cited.get((row, fraction), EMPTY))
        rows.append(line)
    return Grid(head, rows, css="headline wide sticky")


def _result(study: Study, column: Column, fraction: float, row: str) -> Field:
    cell = study.cell(column.label, fraction, row)
    if not cell.n:
        return Field("missing", mark="missing")
    told = [f"± {cell.sd:.3f}"] if cell.n > 1 else []
    repeated = study.repeated(column.label, fraction, row)
    wanted = len(study.declared.seeds) - repeated
    told.append(f"n {cell.n}" if cell.n == wanted else f"n {cell.n} of {wanted}")
    if repeated:
        told.append(f"{repeated} repeat" + ("s" if repeated == 1 else ""))
    if fallen := study.collapsed(column.label, fraction, row):
        told.append(f"{fallen} collapsed")
    best = study.best(column.label, fraction) == row
    return Field(f"{cell.mean:.3f}", " · ".join(told), mark="best" if best else "")


def results_caption(study: Study, column: Column) -> str:
    """What the numbers of the table are, complete enough to be quoted."""
    table, declared = study.tables[column.label], study.declared
    marked = [x for x in column.fractions if study.best(column.label, x)]
    best = (
        "Marked: the highest mean of its budget where it differs from every other row by the same test (Holm over these)."
        if marked
        else "No row is marked as best: at no budget is the highest mean told apart from all other rows by the test."
    )
    fallen = (
        f" Collapsed: {table.metric} below {declared.collapsed_below:g} at the end; such runs stay in."
        if declared.collapsed_below
        else ""
    )
    repeated = any(study.repeated(column.label, x, row) for x in column.fractions for row in declared.rows)
    again = (
        " Repeats: a probe with all labels draws nothing anew, so runs from one pretraining are one and count once."
        if repeated
        else ""
    )
    return (
        f"{table.title}: test {table.metric}, mean ± standard deviation over {_seeds(study)} (n runs), on {table.n_test} test "
        f"cases. The spread is over seeds, not patients. {best}{fallen}{again}"
    )


def _missing(study: Study, column: Column) -> list[Block]:
    lines = missing_lines(entry for entry in study.missing if entry.role == "final" and entry.column == column.label)
    return [Listing(lines, "Runs of this table that are not there:", warning=True)] if lines else []


# --- differences -------------------------------------------------------------------------------------------------


def difference_grid(study: Study, column: Column) -> Grid:
    """Rows but the baseline x budgets: difference, interval over patients, p over seeds."""
    table = study.tables.get(column.label)
    head: list[Field | str] = [
        f"minus {study.declared.baseline}",
        *(Field(budget(x, table)[0]) for x in column.fractions),
    ]
    rows: list[list[Field | str]] = []
    for row in study.challengers:
        cells = [difference_field(study.differences[column.label, x, row]) for x in column.fractions]
        rows.append([Field(row, color=study.styles[row].color), *cells])
    return Grid(head, rows, css="sticky wide")


def difference_field(difference: Difference) -> Field:
    """'+0.012 [+0.001, +0.020]' over 'p 0.031'."""
    if math.isnan(difference.outcome.effect):
        return Field("missing", mark="missing")
    text = str(difference).partition("; ")[0]
    return Field(text, p_text(difference.outcome), mark_of(difference.outcome))


def difference_notes(study: Study, column: Column) -> list[str]:
    """What brackets and p are, and why some are absent, each said once."""
    found = [study.differences[column.label, x, row] for x in column.fractions for row in study.challengers]
    notes = [
        "Difference over the seeds that both rows have. Brackets: 95 % bootstrap interval over the test subjects, the same for "
        "both rows, seeds averaged; each by itself, and silent about other seeds. "
        f"p: {study.test_name} over seeds, two-sided, corrected by Holm over all {study.family} comparisons of this report. "
        "Marked: corrected p below 0.05. An interval without 0 beside a large p: other patients would show it for these runs, "
        "other seeds need not."
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


def _early(study: Study, column: Column) -> list[Block]:
    steps = study.early.get(column.label, ())
    if not steps:
        return []
    table = study.tables[column.label]
    figures, rows = [], []
    for fraction in column.fractions:
        share, patients = budget(fraction, table)
        lines = learning_traces(study, column.label, fraction)
        if lines:
            title = f"{share} of the labels" + (f" ({patients})" if patients else "")
            stem = f"learning-{file_stem(column.label)}-{fraction:g}"
            figures.append((title, stem, traces(lines, title=f"Test {table.metric}, {title}", below="optimiser step")))
        rows += [_early_row(study, column, fraction, share, row) for row in study.declared.rows]
    closing = max(step for row in study.declared.rows for x in column.fractions
                  for step in learning_curve(study, column.label, x, row) or [0])  # fmt: skip
    head = ["", *(f"step {step}" for step in steps), f"step {closing} (end)"]
    blocks: list[Block] = [
        Heading("How fast it learns"),
        Grid(head, rows, css="sticky wide"),
        Note(
            f"Test {table.metric} along the fine-tuning, mean over seeds; below it the difference to {study.declared.baseline} "
            "and p of the same test and family as above. Nothing was chosen on these values."
        ),
        Plots(figures, INTERVALS),
    ]  # fmt: skip
    return [*blocks, *_convergence(study, column)]


def _early_row(study: Study, column: Column, fraction: float, share: str, row: str) -> list[Field | str]:
    cells = learning_curve(study, column.label, fraction, row)
    line: list[Field | str] = [Field(row, f"{share} labels", color=study.styles[row].color)]
    for step in study.early[column.label]:
        outcome = study.early_differences.get((column.label, fraction, row, step))
        line.append(_early_field(cells.get(step, Cell()), outcome))
    final = study.cell(column.label, fraction, row)
    last = study.differences.get((column.label, fraction, row))
    return [*line, _early_field(final, last.outcome if last else None)]


def _early_field(cell: Cell, outcome: Outcome | None) -> Field:
    if not cell.n:
        return Field("missing", mark="missing")
    if outcome is None or math.isnan(outcome.effect):
        return Field(f"{cell.mean:.3f}")
    return Field(f"{cell.mean:.3f}", f"{outcome.effect:+.3f}, {p_text(outcome)}", mark_of(outcome))


# --- labels and steps saved --------------------------------------------------------------------------------------


def _saving(study: Study, column: Column) -> list[Block]:
    target, found = annotation_saving(study, column.label)
    base, metric = study.declared.baseline, study.metric(column.label)
    if not found:
        why = f"needs {base} at 100 % of the labels and two budgets or more"
        return [Heading("Labels saved"), Note(f"Not computed: {why}.")]
    rows: list[list[Field | str]] = []
    for row, x in found.items():
        rows.append([Field(row, color=study.styles[row].color), *_reached(x, short, "or fewer")])
    note = (
        f"Share of the labels at which a row's mean reaches what {base} reaches with all of them ({metric} {target:.3f}), "
        "interpolated between budgets in the logarithm of the share. Last column: seeds that reach it by themselves. "
        "A description of the means; no test stands behind it."
    )
    return [Heading("Labels saved"), Grid(["", "labels needed", "seeds"], rows), Note(note)]


def _convergence(study: Study, column: Column) -> list[Block]:
    rows: list[list[Field | str]] = [[Field(row, color=study.styles[row].color)] for row in study.declared.rows]
    for fraction in column.fractions:
        _, found = convergence(study, column.label, fraction)
        for line, row in zip(rows, study.declared.rows, strict=True):
            text, seeds = _reached(found.get(row, Reached(why="missing")), lambda step: f"{step:g}", "or earlier")
            line.append(Field(str(text.text), seeds if seeds != EMPTY else "", text.mark))
    head = ["", *(f"{budget(x, study.tables[column.label])[0]} labels" for x in column.fractions)]
    note = (
        f"First tested step at which the mean over seeds reaches {percent(NEAR)} of the final {study.metric(column.label)} "
        f"of {study.declared.baseline} at the same budget; below it the seeds that reach it at any tested step."
    )
    return [Heading("Steps saved"), Grid(head, rows), Note(note)]


def _reached(x: Reached, show: Callable[[float], str], first: str) -> tuple[Field, str]:
    if x.why:
        return Field(x.why, mark="missing"), EMPTY
    seeds = f"{x.reached} of {x.of}"
    if math.isnan(x.value):
        return Field("not reached"), seeds
    return Field(show(x.value) + (f" {first}" if x.first else "")), seeds


def _seeds(study: Study) -> str:
    seeds = study.declared.seeds
    return f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}"
