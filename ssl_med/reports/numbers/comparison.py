"""A comparison: what was planned, every run of it, cells over seeds, and differences to the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from ssl_med.evaluation.metrics import metric_of
from ssl_med.evaluation.statistics import (
    ALPHA,
    Outcome,
    Refusal,
    TestResult,
    holm,
    paired_t,
    sign_flip,
    welch_t,
    wilcoxon,
)
from ssl_med.reports.numbers.cells import FEW, Cell
from ssl_med.reports.numbers.column_runs import ColumnRuns
from ssl_med.reports.numbers.design import Design, Entry
from ssl_med.reports.numbers.differences import Difference, Test, by_seed, compared
from ssl_med.reports.numbers.fairness import finetune_warnings, percent
from ssl_med.reports.run_folder import Run
from ssl_med.reports.style import Style, styles

Key = tuple[str, float, str]  # column, fraction, row
EarlyKey = tuple[str, float, str, int]  # and optimiser step
TESTS: Mapping[str, tuple[str, Test]] = {
    "sign_flip": ("exact sign-flip test", sign_flip),
    "paired_t": ("paired t-test", paired_t),
    "welch_t": ("Welch t-test", welch_t),
    "wilcoxon": ("Wilcoxon signed-rank test", wilcoxon),
}


@dataclass(frozen=True)
class Comparison:
    """A design and every run that it asks for, done or not."""

    design: Design
    entries: tuple[Entry, ...]

    def of(self, role: str) -> list[Entry]:
        """Runs of one role."""
        return [entry for entry in self.entries if entry.role == role]

    @property
    def missing(self) -> list[Entry]:
        """Planned runs that do not count as results."""
        return [entry for entry in self.entries if entry.why and entry.role != "unused"]

    @cached_property
    def synthetic(self) -> list[Run]:
        """Runs on synthetic phantoms."""
        return [entry.run for entry in self.entries if entry.run.summary.get("synthetic")]

    def rows_of(self, column: str) -> list[str]:
        """Rows that have a run in a column, done or not."""
        planned = {row for label, _, row in self._finals if label == column}
        return [row for row in self.design.rows if row in planned]

    def challengers_of(self, column: str) -> list[str]:
        """Rows of a column but the baseline; [] where the baseline has no run in it."""
        rows, base = self.rows_of(column), self.design.baseline
        return [row for row in rows if row != base] if base in rows else []

    @cached_property
    def _finals(self) -> dict[Key, list[Entry]]:
        found: dict[Key, list[Entry]] = {}
        for entry in self.of("final"):
            found.setdefault((entry.column, entry.fraction, entry.row), []).append(entry)
        return found

    def cell_entries(self, column: str, fraction: float, row: str) -> list[Entry]:
        """Runs behind a cell, by seed."""
        return sorted(self._finals.get((column, fraction, row), ()), key=lambda entry: entry.seed)

    def runs(self, column: str, fraction: float, row: str) -> list[Run]:
        """Those that count.

        A probe with all labels draws nothing anew, so those that start from one pretraining are one run, whatever their
        seeds: the first represents all that end with its score.
        """
        found: dict[object, Run] = {}
        for entry in self.cell_entries(column, fraction, row):
            if not entry.why:
                alike = entry.run.kind == "probe" and fraction == 1
                found.setdefault(
                    (entry.starts, entry.run.value) if alike else (entry.seed, entry.run.folder), entry.run
                )
        return list(found.values())

    def repeated(self, column: str, fraction: float, row: str) -> int:
        """Runs of a cell that repeat another of it and do not count."""
        done = sum(not entry.why for entry in self.cell_entries(column, fraction, row))
        return done - len(self.runs(column, fraction, row))

    def cell(self, column: str, fraction: float, row: str) -> Cell:
        """The column's metric over seeds."""
        return Cell(tuple(run.value for run in self.runs(column, fraction, row)))

    def collapsed(self, column: str, fraction: float, row: str) -> int:
        """Runs of a cell whose metric ends below the declared bound; none where lower is better."""
        values = self.cell(column, fraction, row).values
        if not values or not metric_of(self.metric(column)).higher_is_better:
            return 0
        return sum(value < self.design.collapsed_below for value in values)

    def metric(self, column: str) -> str:
        """Metric of a column: the declared one, else that of its runs; '' before its first result."""
        declared = next(c.metric for c in self.design.columns if c.label == column)
        found = (entry.run.metric for entry in self.of("final") if entry.column == column and not entry.why)
        return declared or next(found, "")

    @property
    def test(self) -> Test:
        """The declared test of two rows over seeds."""
        return TESTS[self.design.test][1]

    @property
    def test_name(self) -> str:
        """For captions."""
        return TESTS[self.design.test][0]

    def method(self, row: str) -> str:
        """Pretraining method of a row, as its runs say; the row's label before the first."""
        known = (e.run.method for e in self.entries if e.row == row and e.run.kind)
        return next(known, row)

    @cached_property
    def styles(self) -> dict[str, Style]:
        """How each row is drawn, no two alike."""
        return styles({row: self.method(row) for row in self.design.rows})

    @cached_property
    def column_runs(self) -> dict[str, ColumnRuns]:
        """Finished runs of each column that has any."""
        found = {}
        for column in self.design.columns:
            entries = [entry for entry in self.of("final") if entry.column == column.label and not entry.why]
            if not entries:
                continue
            rows = {entry.run.folder: entry.row for entry in entries}
            runs, label = tuple(entry.run for entry in entries), partial(_label, rows)
            found[column.label] = ColumnRuns(
                task=column.task,
                data=runs[0].data,
                metric=runs[0].metric,
                runs=runs,
                rows=tuple(row for row in self.design.rows if row in rows.values()),
                fractions=tuple(x for x in sorted(column.fractions) if any(run.fraction == x for run in runs)),
                warnings=tuple(finetune_warnings(runs, label)),
                label=label,
            )
        return found

    @cached_property
    def early(self) -> dict[str, tuple[int, ...]]:
        """Steps before the last at which runs of a column were tested."""
        found = {}
        for column, table in self.column_runs.items():
            steps = {x for run in table.runs for x in _curve(run, table.metric) if x < last_step(run)}
            found[column] = tuple(sorted(steps))
        return found

    def at(self, run: Run, step: int) -> float:
        """The metric of a run at an early step; nan where it was not logged."""
        return _curve(run, run.metric).get(step, math.nan)

    @cached_property
    def _compared(self) -> tuple[dict[Key, Difference], dict[EarlyKey, Outcome]]:
        base, ends, early = self.design.baseline, {}, {}
        for column in self.design.columns:
            for fraction in column.fractions:
                other = self.runs(column.label, fraction, base)
                for row in self.challengers_of(column.label):
                    if not self._shared_seeds(column.label, fraction, row):
                        continue
                    own, metric = self.runs(column.label, fraction, row), self.metric(column.label)
                    none = Difference(row, fraction, Refusal(self.test_name, 0, math.nan, "missing"), None)
                    ends[column.label, fraction, row] = compared(metric, row, fraction, own, other, self.test) or none
                    for step in self.early.get(column.label, ()):
                        early[column.label, fraction, row, step] = self._early(own, other, step)
        families: dict[str, dict[str, Outcome]] = {}
        for key, outcome in [*((key, x.outcome) for key, x in ends.items()), *early.items()]:
            families.setdefault("" if self.design.planned else str(key[0]), {})[str(key)] = outcome
        corrected = {key: outcome for members in families.values() for key, outcome in holm(members).items()}
        return (
            {key: replace(x, outcome=corrected[str(key)]) for key, x in ends.items()},
            {key: corrected[str(key)] for key in early},
        )

    def _shared_seeds(self, column: str, fraction: float, row: str) -> set[int]:
        """Seeds that a row and the baseline have in a cell, done or not: without any there is nothing to compare."""
        cells = (self.cell_entries(column, fraction, x) for x in (row, self.design.baseline))
        own, base = ({entry.seed for entry in cell} for cell in cells)
        return own & base

    def _early(self, own: Sequence[Run], base: Sequence[Run], step: int) -> Outcome:
        groups = by_seed(own), by_seed(base)
        seeds = sorted(groups[0].keys() & groups[1].keys())
        values = [[float(np.mean([self.at(run, step) for run in runs[seed]])) for seed in seeds] for runs in groups]
        if not seeds or np.isnan(values).all(1).any():
            return Refusal(self.test_name, 0, math.nan, "missing")
        return self.test(*values)

    @property
    def differences(self) -> Mapping[Key, Difference]:
        """Every row against the baseline in every cell, at the end; p corrected over its family, early ones too.

        A cell without a result has the refusal 'missing': it was planned, so it stays in the family.
        """
        return self._compared[0]

    @property
    def early_differences(self) -> Mapping[EarlyKey, Outcome]:
        """The same at each early step."""
        return self._compared[1]

    def family(self, column: str = "") -> int:
        """Number of comparisons that p-values of a column are corrected for; '': of all columns together."""
        keys = [*self.differences, *self.early_differences]
        return len(keys) if self.design.planned or not column else sum(key[0] == column for key in keys)

    def family_text(self, column: str = "") -> str:
        """'all 27 comparisons of this report', or those of one column where nothing was planned."""
        count = self.family(column)
        if not self.design.planned:
            return (
                f"{count} comparison{'' if count == 1 else 's'} of this column"
                if column
                else "the comparisons of its column"
            )
        return f"all {count} comparisons of this report"

    def best(self, column: str, fraction: float) -> str:
        """The row of the best mean where it differs from each other row by the test of the design (Holm over these); else ''.

        Needs every run that was planned for the budget, the same seeds in every row, and three of them or more.
        """
        rows = self.rows_of(column)
        cells = {row: self.cell(column, fraction, row) for row in rows}
        seeds = {row: [entry.seed for entry in self.cell_entries(column, fraction, row)] for row in rows}
        if len(cells) < 2 or any(seeds[row] != seeds[rows[0]] for row in rows):
            return ""
        if any(cell.n < max(FEW, len(seeds[row])) for row, cell in cells.items()):
            return ""
        metric = metric_of(self.metric(column))
        first = max(cells, key=lambda row: metric.goodness(cells[row].mean))
        tests = holm({row: self.test(cells[first].values, cell.values) for row, cell in cells.items() if row != first})
        apart = all(isinstance(x, TestResult) and x.p < ALPHA and metric.better(x.effect, 0) for x in tests.values())
        return first if apart else ""


def significant(outcome: Outcome) -> bool:
    """Whether a corrected p-value is below alpha."""
    return isinstance(outcome, TestResult) and outcome.p < ALPHA


def _curve(run: Run, metric: str) -> dict[int, float]:
    """Test metric by the optimiser steps done until then."""
    key = f"curve/{metric}"
    return {int(line["curve/steps"]): line[key] for line in run.curve if _finite(line, key, "curve/steps")}


def _finite(line: Mapping[str, float], *keys: str) -> bool:
    return all(math.isfinite(line.get(key, math.nan)) for key in keys)


def last_step(run: Run) -> int:
    """Optimiser steps of a run."""
    return int(run.summary.get("steps") or 0)


def budget(fraction: float, table: ColumnRuns | None) -> tuple[str, str]:
    """Share of the labels, and the patients behind it where known."""
    if table is None or fraction not in table.fractions:
        return percent(fraction), ""
    share, _, patients = table.budget(fraction).partition(" (")
    return share, patients.rstrip(")")


def _label(rows: Mapping[Path, str], run: Run) -> str:
    return rows[run.folder]
