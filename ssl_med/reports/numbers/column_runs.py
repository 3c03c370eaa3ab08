"""The finished runs of one column of a comparison, and what they say of their test cases and label budgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssl_med.evaluation.metrics import metric_of
from ssl_med.reports.numbers.cells import Cell
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.run_folder import Run


@dataclass(frozen=True)
class ColumnRuns:
    """Runs of one task on one data set by one protocol; `label` says the row of each."""

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
        """Task, with the data set where its name differs and the protocol; of external tests: trained and tested on."""
        return title(self.runs[0])

    def runs_of(self, row: str, fraction: float) -> list[Run]:
        """Runs behind a cell, by seed."""
        found = [run for run in self.runs if self.label(run) == row and run.fraction == fraction]
        return sorted(found, key=lambda run: (run.seed, run.name))

    def cell(self, row: str, fraction: float, metric: str = "") -> Cell:
        """Test metric (the headline by default) of a row at a label fraction."""
        key = f"test/{metric or self.metric}"
        values = (run.metrics.get(key, math.nan) for run in self.runs_of(row, fraction))
        return Cell(tuple(value for value in values if not math.isnan(value)))

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

    def case_means(self) -> dict[str, dict[tuple[str, float], float]]:
        """Test case -> (row, label fraction) -> headline metric, mean over seeds; {} where it is no metric of a case."""
        found: dict[str, dict[tuple[str, float], list[float]]] = {}
        for run in self.runs:
            for case in run.cases:
                value = case.get(self.metric)
                if isinstance(value, float) and not math.isnan(value):
                    cells = found.setdefault(str(case["case"]), {})
                    cells.setdefault((self.label(run), run.fraction), []).append(value)
        return {case: {key: float(np.mean(v)) for key, v in cells.items()} for case, cells in found.items()}

    def cases_by_difficulty(self) -> list[str]:
        """Test cases, the one with the worst mean over all runs first."""
        metric = metric_of(self.metric)
        means = {case: float(np.mean(list(cells.values()))) for case, cells in self.case_means().items()}
        return sorted(means, key=lambda case: (metric.goodness(means[case]), case))


def title(run: Run) -> str:
    """Name of the column that a run belongs to."""
    name = run.task if run.task == run.data else f"{run.task} on {run.data}"
    if run.external:
        return f"{run.trained_on} → {name}"
    name = name if run.protocol == "finetune" else f"{name}, {run.protocol}"
    return name if run.recipe in ("", "paper") else f"{name}, {run.recipe} recipe"
