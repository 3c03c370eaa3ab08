"""A table's runs as the report wants them: every run that the declaration asks for, done or not, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.comparison.plan import Plan, PlannedRun
from experiments.comparison.records import Progress, read_record
from experiments.config.protocols import FEATURES
from experiments.run.environment import say
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.design import Column, Design, Entry, Role
from ssl_med.reports.page import write_report
from ssl_med.reports.run_folder import Run

Choices = Mapping[tuple[str, str], Mapping[str, Any]]


def report_table(plan: Plan, choices: Choices, failed: Mapping[Path, str], *, out: Path | None = None) -> Path:
    """Writes the report of a table, complete or not; returns the page.

    Args:
        plan: the table.
        choices: what was chosen for (row, column).
        failed: run folder -> why it failed.
        out: folder; None: the table's.
    """
    page = write_report(comparison_of(plan, choices, failed), out or plan.out)
    say(f"report: {page}")
    return page


def comparison_of(plan: Plan, choices: Choices, failed: Mapping[Path, str]) -> Comparison:
    """The declaration and all its runs."""
    reader, trained = _Reader(plan, failed), plan.table.trained
    entries = [reader.entry(node) for node in (*plan.pretrainings(), *reader.trials, *plan.finals(choices))]
    every = {(row, column): choices.get((row, column), {}) for row in plan.table.rows for column in plan.table.columns}
    entries += [
        Entry("final", n.row, n.column, n.fraction, n.seed, Run(Path()), why=reader.unchosen(n.row, trained(n.column)))
        for n in plan.finals(every)
        if plan.table.columns[trained(n.column)].tune and (n.row, trained(n.column)) not in choices
    ]
    return Comparison(_declared(plan), tuple(entries))


def _declared(plan: Plan) -> Design:
    table = plan.table
    return Design(
        name=plan.name,
        title=table.title,
        rows=tuple(table.rows),
        columns=tuple(
            Column(
                label,
                column.task,
                column.protocol,
                tuple(column.fractions),
                column.tune,
                column.tests,
                column.series,
                column.metric,
            )
            for label, column in table.columns.items()
            if not column.protocol.startswith(FEATURES)  # what was learned is no score, and has a section of its own
        ),
        baseline=table.baseline,
        test=table.test,
        seeds=tuple(table.seeds),
        pretrain_seeds=tuple(table.pretrain.seeds),
        source=table.source,
        protocol=table.protocol,
        collapsed_below=table.collapsed_below,
        published=table.published,
        published_p=table.published_p,
        tune_fraction=table.tune.fraction,
        scale=plan.scale,
    )


class _Reader:
    """Reads run folders, each once, with what the execution knows of those that failed."""

    def __init__(self, plan: Plan, failed: Mapping[Path, str]) -> None:
        self.plan, self.failed = plan, failed
        self.trials = plan.trials()
        self._runs: dict[tuple[Path, str], Run] = {}

    def entry(self, node: PlannedRun) -> Entry:
        before = node.needs[0].needs if node.kind == "external" else node.needs
        starts = self.plan.folder(before[0]) if before else None
        run = self._run(node)
        role: Role = "features" if node.kind == "features" else node.role
        return Entry(role, node.row, node.column, node.fraction, node.seed, run, self.why(node), node.choice, starts)

    def why(self, node: PlannedRun) -> str:
        """Why a run does not count; '' when it does."""
        folder, run = self.plan.folder(node), self._run(node)
        if not run.problem:
            return ""
        if lacks := self.plan.lacks(node):
            return lacks
        broken = [need for need in node.needs if self.plan.folder(need) in self.failed]
        if broken:
            what = "pretraining" if broken[0].role == "pretrain" else "fine-tuning"
            return f"its {what} failed: {self.failed[self.plan.folder(broken[0])]}"
        if folder in self.failed:
            return f"failed: {self.failed[folder]}"
        return run.problem if folder.is_dir() else "not run yet"

    def unchosen(self, row: str, column: str) -> str:
        """Why a row has no setting to run with."""
        for why in (self.why(node) for node in self.trials if (node.row, node.column) == (row, column)):
            if why.startswith("failed"):
                return f"no setting chosen; a trial {why}"
            if why.startswith("its pretraining"):
                return f"no setting chosen; a trial whose{why.removeprefix('its')}"
        return "its trials are not done yet"

    def _run(self, node: PlannedRun) -> Run:
        key = self.plan.folder(node), node.column
        if key not in self._runs:
            self._runs[key] = self.plan.run(node, tables=True)
        return self._runs[key]


def failures_of(progress: Path) -> dict[Path, str]:
    """What an execution wrote of its failed runs."""
    failed: dict[str, str] = read_record(progress, Progress).get("failed", {})
    return {Path(folder): why for folder, why in failed.items()}
