"""Runs grouped into tables: method by label fraction, mean and spread over seeds, unequal rows marked."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_med.evaluation.metrics import metric_of
from ssl_med.reports.numbers.fairness import finetune_warnings, flatten, percent
from ssl_med.reports.run_folder import SCRATCH, Run

EMPTY = "—"
BOLD_FROM = 3  # seeds in every cell of a column before its best mean may be set in bold


@dataclass(frozen=True)
class Cell:
    """One metric of one method at one label fraction, over seeds."""

    values: tuple[float, ...] = ()

    @property
    def n(self) -> int:
        """Number of runs in which the metric is defined."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over runs; nan when empty."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation over runs with n - 1 in the denominator; nan below two runs."""
        return float(np.std(self.values, ddof=1)) if self.n > 1 else math.nan

    def __str__(self) -> str:
        if not self.values:
            return EMPTY
        return f"{self.mean:.3f}" + (f" ± {self.sd:.3f}" if self.n > 1 else "")


@dataclass(frozen=True)
class Table:
    """Tests of one task on one data set by one protocol: rows are methods, scratch first; columns label fractions."""

    task: str
    data: str
    metric: str
    runs: tuple[Run, ...]
    rows: tuple[str, ...]
    fractions: tuple[float, ...]
    warnings: tuple[str, ...]
    label: Callable[[Run], str]

    @property
    def title(self) -> str:
        """Task, with the data set where its name differs, and the protocol where it is not plain fine-tuning.

        Of external tests: what was trained, and what it was tested on.
        """
        if self.runs[0].external:
            return (
                f"{self.runs[0].trained_on} → {self.data if self.task == self.data else f'{self.task} on {self.data}'}"
            )
        name = self.task if self.task == self.data else f"{self.task} on {self.data}"
        protocol = self.runs[0].protocol
        return name if protocol == "finetune" else f"{name}, {protocol}"

    def method(self, row: str) -> str:
        """Pretraining method of a row."""
        return next(run.method for run in self.runs if self.label(run) == row)

    def variant(self, row: str) -> int:
        """0, 1, ... among the rows of one method, in the order of the table."""
        return [other for other in self.rows if self.method(other) == self.method(row)].index(row)

    def runs_of(self, row: str, fraction: float) -> list[Run]:
        """Runs behind a cell, by seed."""
        found = [run for run in self.runs if self.label(run) == row and run.fraction == fraction]
        return sorted(found, key=lambda run: (run.seed, run.name))

    def cell(self, row: str, fraction: float, metric: str = "") -> Cell:
        """Test metric (the headline by default) of a row at a label fraction."""
        key = f"test/{metric or self.metric}"
        values = (run.metrics.get(key, math.nan) for run in self.runs_of(row, fraction))
        return Cell(tuple(value for value in values if not math.isnan(value)))

    def best(self, fraction: float) -> str:
        """Row with the best mean; '' unless two or more rows have enough seeds in this column."""
        cells = {row: self.cell(row, fraction) for row in self.rows}
        filled = {row: cell for row, cell in cells.items() if cell.n}
        if len(filled) < 2 or any(cell.n < BOLD_FROM for cell in filled.values()):
            return ""
        metric = metric_of(self.metric)
        return max(filled, key=lambda row: metric.goodness(filled[row].mean))

    def budget(self, fraction: float) -> str:
        """'15 %' and, where all runs agree, the number of labelled patients behind it."""
        labels = [run.labels for run in self.runs if run.fraction == fraction]
        counts = {(x.get("subjects"), x.get("of")) for x in labels}
        subjects, of = counts.pop()
        return percent(fraction) + (f" ({subjects} of {of})" if not counts and subjects is not None and of else "")

    @property
    def n_test(self) -> str:
        """Number of test cases, or its range."""
        counts = sorted({int(run.summary["n_test"]) for run in self.runs if run.summary.get("n_test") is not None})
        return "–".join(dict.fromkeys(map(str, (counts[0], counts[-1])))) if counts else "?"

    @property
    def further_metrics(self) -> list[str]:
        """Test metrics besides the headline that say something else: regions, findings, accuracy."""
        keys = dict.fromkeys(key for run in self.runs for key in run.metrics if key.startswith("test/"))
        rest = [key.removeprefix("test/") for key in keys if key != f"test/{self.metric}"]
        same = rest == [key for key in rest if key.startswith(f"{self.metric}/")] and len(rest) == 1
        return [] if same else rest


def tabulate(runs: Iterable[Run]) -> list[Table]:
    """One table for each task, data set, headline metric and protocol among the finished fine-tunings and probes."""
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        if run.tested and not run.problem:
            groups.setdefault((run.task, run.data, run.metric, run.protocol), []).append(run)
    return [_table(*key[:3], members) for key, members in sorted(groups.items())]


def tabulate_external(runs: Iterable[Run]) -> list[Table]:
    """One table for each pair of data sets with one map of classes, among the finished external tests."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.external and not run.problem:
            told = [run.summary.get(key) or {} for key in ("map", "tested_on")]
            key = (
                run.trained_on,
                run.task,
                run.data,
                run.metric,
                run.protocol,
                *(json.dumps(x, sort_keys=True) for x in told),
            )
            groups.setdefault(key, []).append(run)
    return [_table(key[1], key[2], key[3], members) for key, members in sorted(groups.items())]


def _table(task: str, data: str, metric: str, runs: Sequence[Run]) -> Table:
    names = _labels(runs)

    def label(run: Run) -> str:
        return names[run.folder]

    return Table(
        task=task,
        data=data,
        metric=metric,
        runs=tuple(runs),
        rows=tuple(sorted(set(names.values()), key=lambda name: (name != SCRATCH, name))),
        fractions=tuple(sorted({run.fraction for run in runs})),
        warnings=tuple(finetune_warnings(runs, label)),
        label=label,
    )


def _labels(runs: Sequence[Run]) -> dict[Path, str]:
    """Row of each run: its method and, where that was pretrained in several ways, what tells them apart."""
    facts = {run.folder: _pretraining(run) for run in runs}
    labels = {}
    for run in runs:
        others = [facts[other.folder] for other in runs if other.method == run.method]
        keys = dict.fromkeys(key for other in others for key in other)
        differing = [key for key in keys if len({other.get(key) for other in others}) > 1]
        suffix = ", ".join(f"{key} {facts[run.folder].get(key, EMPTY)}" for key in differing)
        labels[run.folder] = f"{run.method} ({suffix})" if suffix else run.method
    return labels


def _pretraining(run: Run) -> dict[str, str]:
    card = run.card
    if not card:
        return {}
    # the pretraining's seed is left out: runs over it belong into one cell
    facts = {"data": str((card.get("spec") or {}).get("name")), "steps": str(card.get("steps"))}
    return facts | flatten(card.get("method_config") or {})


def results_csv(runs: Iterable[Run], *, first: Mapping[str, Sequence[Any]] | None = None) -> str:
    """One row per run, unfinished and broken ones included, as CSV text.

    Args:
        runs: any.
        first: further columns to begin with, a value for each run.
    """
    runs, first = list(runs), first or {}
    metrics = list(dict.fromkeys(key for run in runs for key in run.metrics))
    head = [
        "folder",
        "kind",
        "status",
        "problem",
        "method",
        "data",
        "task",
        "protocol",
        "label_fraction",
        "label_subjects",
    ]
    head += [
        "label_subjects_of",
        "seed",
        "pretrain_seed",
        "steps",
        "seconds",
        "n_test",
        "metric",
        "value",
        "hash",
    ]
    head += ["git", "hardware"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*first, *head, *metrics])
    for k, run in enumerate(runs):
        get, tuned = run.summary.get, run.scored
        row = [
            run.folder,
            run.kind,
            get("status"),
            run.problem,
            run.method if run.kind else "",
            run.data,
            run.task,
            run.protocol,
        ]
        row += [run.fraction if tuned else "", run.labels.get("subjects"), run.labels.get("of"), get("seed")]
        row += [run.card.get("seed"), get("steps"), get("seconds"), get("n_test"), run.metric]
        row += [_number(run.value), get("hash"), get("git"), get("hardware")]
        before = [values[k] for values in first.values()]
        writer.writerow([*before, *row] + [_number(run.metrics.get(key, math.nan)) for key in metrics])
    return text.getvalue()


def markdown(table: Table) -> str:
    """A table as Markdown: cells are 'mean ± sd', with the number of seeds in brackets."""
    head = ["method", *(f"{table.budget(fraction)} labels" for fraction in table.fractions)]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join([' --- ', *(' ---: ' for _ in table.fractions)])}|"]
    for row in table.rows:
        cells = []
        for fraction in table.fractions:
            cell = table.cell(row, fraction)
            text = f"**{cell}**" if row == table.best(fraction) else str(cell)
            cells.append(f"{text} ({cell.n})" if cell.n else text)
        lines.append(f"| {' | '.join([row.replace('|', chr(92) + '|'), *cells])} |")
    return "\n".join(lines)


def caption(table: Table) -> str:
    """What the numbers of a table are."""
    bold = any(table.best(fraction) for fraction in table.fractions)
    marked = "; bold: best mean of its column" if bold else ""
    return (
        f"Test {table.metric}, mean ± standard deviation over seeds (number of seeds), "
        f"on {table.n_test} test cases{marked}. The spread over seeds is no test of significance."
    )


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
