"""The numbers of a declared comparison: cells over seeds, differences to the baseline, and what is missing and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

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
from ssl_med.reports.figures.curves import Style, styles
from ssl_med.reports.numbers.differences import Difference, Test, compared
from ssl_med.reports.numbers.fairness import finetune_warnings, percent
from ssl_med.reports.numbers.tables import BOLD_FROM, Cell, Table
from ssl_med.reports.run_folder import Run

Key = tuple[str, float, str]  # column, fraction, row
TESTS: Mapping[str, tuple[str, Test]] = {
    "sign_flip": ("exact sign-flip test", sign_flip),
    "paired_t": ("paired t-test", paired_t),
    "welch_t": ("Welch t-test", welch_t),
    "wilcoxon": ("Wilcoxon signed-rank test", wilcoxon),
}


@dataclass(frozen=True)
class Column:
    """One task by one protocol at some label budgets.

    * grid: what is chosen for each row by itself. * tests: column whose fine-tunings are tested here; '': none.
    * series: what it shares with other columns that differ in one thing, told by the rest of the label; '': nothing.
    * metric: declared for the cells; '': the task's own.
    """

    label: str
    task: str
    protocol: str
    fractions: tuple[float, ...]
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    tests: str = ""
    series: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Design:
    """What was fixed before a result was seen."""

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    baseline: str
    test: str
    seeds: tuple[int, ...]
    pretrain_seeds: tuple[int, ...] = (0,)
    source: str = ""
    protocol: str = ""
    collapsed_below: float = 0.0
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    published_p: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tune_fraction: float = 1.0


@dataclass(frozen=True)
class Entry:
    """A run that the declaration asks for. `why` says why it is not there; '' when it counts.

    * choice: settings that were chosen, or in a trial: tried. * starts: pretraining run that it starts from.
    """

    role: Literal["pretrain", "tune", "final"]
    row: str
    column: str
    fraction: float
    seed: int
    run: Run
    why: str = ""
    choice: tuple[tuple[str, Any], ...] = ()
    starts: Path | None = None

    @property
    def chosen(self) -> str:
        """'optim.lr 0.003'."""
        return ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in self.choice
        )


@dataclass(frozen=True)
class Comparison:
    """A declaration and every run that it asks for, done or not."""

    design: Design
    entries: tuple[Entry, ...]

    def of(self, role: str) -> list[Entry]:
        """Runs of one role."""
        return [entry for entry in self.entries if entry.role == role]

    @property
    def missing(self) -> list[Entry]:
        """Runs that do not count as results."""
        return [entry for entry in self.entries if entry.why]

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
        seeds: the first stands for all that end with its score.
        """
        found: dict[object, Run] = {}
        for entry in self.cell_entries(column, fraction, row):
            if not entry.why:
                alike = entry.run.kind == "probe" and fraction == 1
                found.setdefault((entry.starts, entry.run.value) if alike else entry.seed, entry.run)
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
    def challengers(self) -> tuple[str, ...]:
        """Rows but the baseline."""
        return tuple(row for row in self.design.rows if row != self.design.baseline)

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
    def tables(self) -> dict[str, Table]:
        """Finished runs of each column that has any, as the report of runs sees them."""
        found = {}
        for column in self.design.columns:
            entries = [entry for entry in self.of("final") if entry.column == column.label and not entry.why]
            if not entries:
                continue
            rows = {entry.run.folder: entry.row for entry in entries}
            runs, label = tuple(entry.run for entry in entries), partial(_label, rows)
            found[column.label] = Table(
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
        for column, table in self.tables.items():
            steps = {x for run in table.runs for x in _curve(run, table.metric) if x < last_step(run)}
            found[column] = tuple(sorted(steps))
        return found

    def at(self, run: Run, step: int) -> float:
        """The metric of a run at an early step; nan where it was not logged."""
        return _curve(run, run.metric).get(step, math.nan)

    @cached_property
    def _compared(self) -> tuple[dict[Key, Difference], dict[tuple[str, float, str, int], Outcome]]:
        base, ends, early = self.design.baseline, {}, {}
        for column in self.design.columns:
            for fraction in column.fractions:
                other = self.runs(column.label, fraction, base)
                for row in self.challengers:
                    own, metric = self.runs(column.label, fraction, row), self.metric(column.label)
                    none = Difference(row, fraction, Refusal(self.test_name, 0, math.nan, "missing"), None)
                    ends[column.label, fraction, row] = compared(metric, row, fraction, own, other, self.test) or none
                    for step in self.early.get(column.label, ()):
                        early[column.label, fraction, row, step] = self._early(own, other, step)
        outcomes = {str(key): x.outcome for key, x in ends.items()} | {str(key): x for key, x in early.items()}
        corrected = holm(outcomes)
        return (
            {key: replace(x, outcome=corrected[str(key)]) for key, x in ends.items()},
            {key: corrected[str(key)] for key in early},
        )

    def _early(self, own: Sequence[Run], base: Sequence[Run], step: int) -> Outcome:
        groups = [{run.seed: self.at(run, step) for run in runs} for runs in (own, base)]
        seeds = sorted(groups[0].keys() & groups[1].keys())
        values = [[group[seed] for seed in seeds] for group in groups]
        if not seeds or np.isnan(values).all(1).any():
            return Refusal(self.test_name, 0, math.nan, "missing")
        return self.test(*values)

    @property
    def differences(self) -> Mapping[Key, Difference]:
        """Every row against the baseline in every cell, at the end; p corrected over all comparisons, early ones too.

        A cell without a result has the refusal 'missing': it was planned, so it stays in the family.
        """
        return self._compared[0]

    @property
    def early_differences(self) -> Mapping[tuple[str, float, str, int], Outcome]:
        """The same at each early step."""
        return self._compared[1]

    @property
    def family(self) -> int:
        """Number of comparisons that p-values are corrected for."""
        return len(self.differences) + len(self.early_differences)

    def best(self, column: str, fraction: float) -> str:
        """The row of the best mean where it differs from each other row by the declared test (Holm over these); else ''.

        Needs every declared run of the budget, and three seeds or more.
        """
        cells = {row: self.cell(column, fraction, row) for row in self.design.rows}
        if len(cells) < 2 or any(cell.n < max(BOLD_FROM, len(self.design.seeds)) for cell in cells.values()):
            return ""
        metric = metric_of(self.metric(column))
        first = max(cells, key=lambda row: metric.goodness(cells[row].mean))
        tests = holm({row: self.test(cells[first].values, cell.values) for row, cell in cells.items() if row != first})
        apart = all(isinstance(x, TestResult) and x.p < ALPHA and metric.better(x.effect, 0) for x in tests.values())
        return first if apart else ""

    def reasons(self) -> dict[str, list[Entry]]:
        """Why runs are missing -> those runs."""
        found: dict[str, list[Entry]] = {}
        for entry in self.missing:
            found.setdefault(entry.why, []).append(entry)
        return found


def significant(outcome: Outcome) -> bool:
    """Whether a corrected p-value is below alpha."""
    return isinstance(outcome, TestResult) and outcome.p < ALPHA


def _curve(run: Run, metric: str) -> dict[int, float]:
    """Test metric by the optimiser steps done until then."""
    key = f"curve/{metric}"
    return {int(line["curve/steps"]): line[key] for line in run.curve if key in line and math.isfinite(line[key])}


def last_step(run: Run) -> int:
    """Optimiser steps of a run."""
    return int(run.summary.get("steps") or 0)


def budget(fraction: float, table: Table | None) -> tuple[str, str]:
    """Share of the labels, and the patients behind it where known."""
    if table is None or fraction not in table.fractions:
        return percent(fraction), ""
    share, _, patients = table.budget(fraction).partition(" (")
    return share, patients.rstrip(")")


def _label(rows: Mapping[Path, str], run: Run) -> str:
    return rows[run.folder]
