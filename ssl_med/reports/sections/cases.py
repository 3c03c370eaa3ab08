"""The headline metric of every test case."""

from __future__ import annotations

from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.column_runs import ColumnRuns
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.render.blocks import Block, Field, Fold, Grid, Note, Section
from ssl_med.reports.run_folder import CASES

MOST_CASES = 200  # rows of the table; test_cases.csv of each run holds all


def section(comparison: Comparison) -> list[Section]:
    """One table for each column."""
    blocks = [_cases(runs) for runs in comparison.column_runs.values()]
    return [Section("cases", "Results of every test case", blocks)] if blocks else []


def _cases(runs: ColumnRuns) -> Block:
    means = runs.case_means()
    if not means:
        count = sum(len(run.cases) for run in runs.runs[:1])
        return Note(
            f"{runs.title}: {runs.metric} is a property of all {count} test samples together; labels and scores of each stand "
            f"in {CASES} of every run."
        )
    keys = [(row, fraction) for fraction in runs.fractions for row in runs.rows]
    keys = [key for key in keys if any(key in cells for cells in means.values())]
    head: list[Field | str] = ["case", *(Field(row, percent(fraction)) for row, fraction in keys)]
    rows = [
        [case, *(f"{means[case][key]:.3f}" if key in means[case] else EMPTY for key in keys)]
        for case in runs.cases_by_difficulty()[:MOST_CASES]
    ]
    more = [f"{len(means) - MOST_CASES} more in {CASES}."] if len(means) > MOST_CASES else []
    aside = f"{runs.metric} of {len(means)} test cases, mean over seeds, hardest first"
    return Fold(runs.title, aside, [Grid(head, rows, caption=more)], page_only=True)
