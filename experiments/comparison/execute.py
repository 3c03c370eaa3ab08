"""A table while it is carried out: what is ready, what failed, what was chosen, how long it will take."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.comparison.local import Finished, Job
from experiments.comparison.plan import Plan, PlannedRun, besides
from experiments.comparison.progress import Bar
from experiments.run.environment import say
from ssl_med.evaluation.metrics import Metric, metric_of
from ssl_med.reports.writing import write_json

PROGRESS, CHOICES = "progress.json", "choices.json"
AGAIN = 20  # times that a run which was asked to stop is started again


class Launcher(Protocol):
    """Where jobs run: worker processes here, or a cluster."""

    @property
    def free(self) -> int:
        """Jobs that can start now."""

    @property
    def running(self) -> list[Job]:
        """Jobs on the way."""

    def start(self, job: Job) -> None:
        """Hands over a job."""

    def finished(self) -> Iterable[Finished]:
        """Waits until a job ends, then all that have."""


class Execution:
    """The state of a table while it is carried out."""

    def __init__(self, plan: Plan, counts: Mapping[str, int], *, jobs: int) -> None:
        self.plan, self.counts, self.jobs = plan, counts, jobs
        self.failed: dict[Path, str] = {}
        self.done: set[Path] = set()
        self.seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self.again: dict[Path, int] = defaultdict(int)
        self.trials = plan.trials()
        self.waiting = [*plan.pretrainings(), *self.trials]
        self.planned_finals = False
        self.bar = Bar(self.total)
        self._finished(list(self.waiting))
        self._plan_finals()

    @property
    def total(self) -> int:
        """Runs of the table."""
        return sum(self.counts.values())

    def run(self, launcher: Launcher) -> dict[Path, str]:
        """Carries out what is left; folder -> why of what failed or could not start."""
        while self._start(launcher) or launcher.running:
            self.bar.show(len(self.done | self.failed.keys()), [job.key.name for job in launcher.running], self._left())
            for finished in launcher.finished():
                self._account(finished)
            self._plan_finals()
        self.bar.close()
        for row, column in self._unchosen():
            say(f"not run: {column}: {row}, because its trials failed")
            self.failed[self.plan.out / "final" / f"{column}-{row}"] = "its trials failed"
        return self.failed

    def _start(self, workers: Launcher) -> bool:
        """Starts what can; whether anything is on the way. Nodes of equal settings are one run, in one folder."""
        busy = {self.plan.folder(job.key) for job in workers.running}
        for node in list(self.waiting):
            if not workers.free:
                break
            folder = self.plan.folder(node)
            if folder in self.done or folder in self.failed:
                self.waiting.remove(node)
            elif folder not in busy and all(self.plan.folder(need) in self.done for need in node.needs):
                self.waiting.remove(node)
                busy.add(folder)
                log = self.plan.out / "logs" / f"{folder.parent.name}-{folder.name}.log"
                workers.start(Job(node, node.kind, (*self.plan.command(node), *besides(node, self.plan.name)), log))
        return bool(workers.running)

    def _account(self, finished: Finished) -> None:
        node: PlannedRun = finished.job.key
        folder = self.plan.folder(node)
        run = self.plan.run(node)
        if not finished.error and run.summary.get("status") == "interrupted" and self.again[folder] < AGAIN:
            self.again[folder] += 1
            self.waiting.insert(0, node)
            self.bar.say(f"interrupted, goes on: {node.name}, {run.summary.get('steps')} steps")
            return
        error = finished.error or run.problem
        result = f"{run.summary.get('steps')} steps"
        if run.scored and not error:
            result = f"{run.metric} {run.value:.4f}"
        if error:
            self._fail(node, error, f"; log: {finished.job.log}")
        else:
            self.done.add(folder)
            self.seconds[kind_of(node)].append(finished.seconds)
            took = ", ".join(part for part in (f"{finished.seconds:.0f} s", self._left()) if part)
            self.bar.say(f"[{len(self.done)}/{self.total}] {node.name}: {result} ({took})")
        self._record()

    def _fail(self, node: PlannedRun, error: str, log: str = "") -> None:
        """A run failed, or cannot start: so do those that wait for it."""
        folder = self.plan.folder(node)
        self.failed[folder] = error
        self._give_up(folder)
        self.bar.say(f"FAILED: {node.name}: {error}{log}")
        self._record()

    def _record(self) -> None:
        write_json(
            self.plan.out / PROGRESS,
            {"done": len(self.done), "of": self.total, "failed": {str(k): v for k, v in self.failed.items()}},
        )

    def _give_up(self, folder: Path) -> None:
        """Takes out of the queue what waits for a run that failed, and what waits for that."""
        for node in [node for node in self.waiting if any(self.plan.folder(need) == folder for need in node.needs)]:
            self.waiting.remove(node)
            lost = self.plan.folder(node)
            self.failed[lost] = f"waits for a {'fine-tuning' if node.kind == 'external' else 'pretraining'} that failed"
            self.bar.say(f"not run: {node.name}")
            self._give_up(lost)

    def _left(self) -> str:
        """'12 min left', from what runs of each kind took, at first of any kind; '' before the first run has ended."""
        rest = 0.0
        waiting = self.waiting if self.planned_finals else [*self.waiting, *self._possible_finals()]
        every = [x for seconds in self.seconds.values() for x in seconds]
        if not every:
            return ""
        for node in waiting:
            alike = [x for kind, seconds in self.seconds.items() if kind[0] == node.role for x in seconds]
            rest += float(np.mean(self.seconds.get(kind_of(node)) or alike or every))
        rest /= self.jobs
        if rest < 90:
            return f"{rest:.0f} s left"
        return f"{rest / 3600:.1f} h left" if rest > 5400 else f"{rest / 60:.0f} min left"

    def _possible_finals(self) -> list[PlannedRun]:
        choices: dict[tuple[str, str], dict[str, Any]] = {
            (row, column): {} for row in self.plan.table.rows for column in self.plan.table.columns
        }
        return self.plan.finals(choices)

    def _plan_finals(self) -> None:
        """Once every trial has ended: chooses, and puts the runs of the table into the queue."""
        ended = {*self.done, *self.failed}
        if self.planned_finals or any(self.plan.folder(node) not in ended for node in self.trials):
            return
        choices, table = choose(self.plan, self.trials)
        if choices:
            write_json(self.plan.out / CHOICES, table)
            for (row, column), chosen in choices.items():
                self.bar.say(f"chosen for {row} in {column}: {', '.join(f'{k}={v}' for k, v in chosen.items())}")
        self.planned_finals = True
        finals = self.plan.finals(choices)
        self.waiting += finals
        self._finished(finals)
        for folder in list(self.failed):
            self._give_up(folder)

    def _unchosen(self) -> list[tuple[str, str]]:
        if not self.planned_finals:
            return []
        choices, _ = choose(self.plan, self.trials)
        wanted = [
            (row, c) for c, config in self.plan.table.columns.items() if config.tune for row in self.plan.table.rows
        ]
        return [key for key in wanted if key not in choices]

    def _finished(self, nodes: Sequence[PlannedRun]) -> None:
        """Takes what is finished out of the queue, and what lacks its file of weights."""
        found = {self.plan.folder(node) for node in nodes if not self.plan.run(node).problem}
        self.done |= found
        self.waiting = [node for node in self.waiting if self.plan.folder(node) not in found]
        # what waits for another run comes first: each run says itself what it lacks
        for node in [node for node in reversed(self.waiting) if node in nodes]:
            lacks = self.plan.lacks(node)
            if lacks and node in self.waiting:
                self.waiting.remove(node)
                self._fail(node, lacks)


def choose(
    plan: Plan, trials: Sequence[PlannedRun]
) -> tuple[dict[tuple[str, str], dict[str, Any]], list[dict[str, Any]]]:
    """Of each row and column the setting with the best mean over trial seeds; the first one of equals.

    Returns:
        The choices, without those of which a trial is missing or no trial has a value, and all trials with their results.
    """
    results: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    settings: dict[str, dict[str, Any]] = {}
    metrics: dict[str, Metric] = {}
    broken = set()
    listed = []
    for node in trials:
        run, label = plan.run(node), json.dumps(node.choice)
        settings[label] = dict(node.choice)
        if run.problem:
            broken.add((node.row, node.column))
            continue
        results[node.row, node.column][label].append(run.value)
        metrics[node.column] = metric_of(run.metric)
        tried = dict(node.choice)
        listed.append({"row": node.row, "column": node.column, "seed": node.seed, **tried, run.metric: run.value})
    chosen = {}
    for key, found in results.items():
        means = {label: float(np.mean(values)) for label, values in found.items()}
        if key not in broken and not all(math.isnan(mean) for mean in means.values()):
            goodness = metrics[key[1]].goodness
            chosen[key] = settings[max(means, key=lambda label: goodness(means[label]))]
    return chosen, listed


def kind_of(node: PlannedRun) -> tuple[str, ...]:
    """Runs that take about equally long."""
    return (node.role, node.row if node.role == "pretrain" else "", node.column, f"{node.fraction}")
