"""`ssl-med compare`: a declared table of methods, tasks, label budgets and seeds, carried out, resumed, and reported."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.callbacks import RunError
from experiments.declared import load_table
from experiments.matrix import Matrix, Node
from experiments.session import say
from experiments.workers import Finished, Job, Workers
from ssl_med.config import build, parse_words, to_plain
from ssl_med.reports.records import Run, read_run, write_json
from ssl_med.spec import SslMedError

DECLARED, PROGRESS, CHOICES = "table.json", "progress.json", "choices.json"


@dataclass
class CompareConfig:
    """How a table is carried out; what it is stands in tables/NAME.yaml."""

    table: str = ""
    """name in experiments/tables, or a yaml file"""
    scale: str = "full"
    """full, or small: the part `small` of the table laid over it"""
    out: str = ""
    """folder; empty: runs/compare/TABLE, or runs/compare/TABLE-small"""
    jobs: int = 1
    """runs at a time"""
    threads: int = 0
    """threads of each; 0: the cores divided by jobs"""
    root: dict[str, str] = field(default_factory=dict)
    """folders of the data sets that the table names"""
    store: dict[str, str] = field(default_factory=dict)
    """their stores"""

    def __post_init__(self) -> None:
        if not self.table:
            raise SslMedError("table=NAME is missing; `ssl-med list tables` shows what there is")
        if self.scale not in ("full", "small"):
            raise SslMedError(f"scale is '{self.scale}'; it must be full or small")
        if self.jobs < 1 or self.threads < 0:
            raise SslMedError("jobs must be at least 1, threads 0 or more")


def compare(words: Sequence[str]) -> Path:
    """Carries out or continues a table; returns its folder.

    Raises:
        SslMedError: the table or a run of it is wrong; before any work.
        RunError: a run failed; the others are done.
    """
    matrix, config = open_matrix(words)
    plan = check(matrix)
    with _Alone(matrix.out):
        _declare(matrix)
        failures = Campaign(matrix, config, plan).run()
    if failures:
        raise RunError(f"{len(failures)} runs failed or wait for one that did; the same command tries them again")
    say(f"table {matrix.name} is complete -> {matrix.out}")
    return matrix.out


def open_matrix(words: Sequence[str]) -> tuple[Matrix, CompareConfig]:
    """The table that words ask for, and how to carry it out."""
    own: list[str] = []
    rest: list[str] = []
    for word in words:
        (own if word.partition("=")[0].partition(".")[0] in _KEYS else rest).append(word)
    config = build(CompareConfig, [parse_words(own)], prefix="")
    name = Path(config.table).stem
    table = load_table(config.table, rest, scale=config.scale)
    out = Path(config.out or f"runs/compare/{name}{'-small' if config.scale == 'small' else ''}")
    return Matrix(name, table, out=out.resolve(), roots=config.root, stores=config.store), config


_KEYS = ("table", "scale", "out", "jobs", "threads", "root", "store")


def check(matrix: Matrix) -> dict[str, int]:
    """Composes every run; how many there are of each role.

    Raises:
        SslMedError: one of them cannot be.
    """
    for node in matrix.pretrainings():
        matrix.folder(node)
    trials = matrix.trials()
    for node in trials:
        matrix.folder(node)
    first = {(node.row, node.column): dict(node.choice) for node in trials}
    finals = matrix.finals(first)
    for node in finals:
        matrix.folder(node)
    return {"pretrain": len(matrix.pretrainings()), "tune": len(trials), "final": len(finals)}


class Campaign:
    """The state of a table while it is carried out."""

    def __init__(self, matrix: Matrix, config: CompareConfig, plan: Mapping[str, int]) -> None:
        self.matrix, self.plan = matrix, plan
        self.jobs = config.jobs
        self.threads = config.threads or max(1, len(os.sched_getaffinity(0)) // config.jobs)
        self.failed: dict[Path, str] = {}
        self.done: set[Path] = set()
        self.seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self.waiting = [*matrix.pretrainings(), *matrix.trials()]
        self.planned_finals = False
        self.found = {folder for folder in self._finished([*self.waiting])}

    def run(self) -> dict[Path, str]:
        """Carries out what is left; folder -> why of what failed."""
        self._plan_finals()
        left = sum(self.plan.values()) - len(self.done)
        say(f"table {self.matrix.name}: {sum(self.plan.values())} runs, {len(self.done)} of them done already")
        if left:
            with Workers(self.jobs, threads=self.threads) as workers:
                while self._start(workers) or workers.running:
                    for finished in workers.finished():
                        self._account(finished)
                    self._give_up()
                    self._plan_finals()
        for column in self._unchosen():
            say(f"not run: {column[1]}: {column[0]}, because trials failed")
            self.failed[self.matrix.out / "final" / "-".join(column)] = "trials failed"
        return self.failed

    def _give_up(self) -> None:
        """Takes out of the queue what waits for a pretraining that failed, so that nothing else waits for it."""
        for node in list(self.waiting):
            if any(self.matrix.folder(need) in self.failed for need in node.needs):
                self.waiting.remove(node)
                self.failed[self.matrix.folder(node)] = "waits for a pretraining that failed"
                say(f"not run: {node.name}")

    def _start(self, workers: Workers) -> bool:
        """Starts what can; whether anything is on the way."""
        for node in list(self.waiting):
            if not workers.free:
                break
            if all(self.matrix.folder(need) in self.done for need in node.needs):
                self.waiting.remove(node)
                folder = self.matrix.folder(node)
                log = self.matrix.out / "logs" / f"{folder.parent.name}-{folder.name}.log"
                workers.start(Job(node, node.kind, (*self.matrix.command(node), "trainer.progress=false"), log))
        return bool(workers.running)

    def _account(self, finished: Finished) -> None:
        node: Node = finished.job.key
        folder = self.matrix.folder(node)
        run = read_run(folder)
        error = finished.error or run.problem
        total = sum(self.plan.values())
        if error:
            self.failed[folder] = error
            say(f"FAILED: {node.name}: {error}; log: {finished.job.log}")
        else:
            self.done.add(folder)
            self.seconds[_class(node)].append(finished.seconds)
            result = f"{run.metric} {run.value:.4f}" if run.tested else f"{run.summary.get('steps')} steps"
            say(f"[{len(self.done)}/{total}] {node.name}: {result} ({finished.seconds:.0f} s{self._left()})")
        write_json(
            self.matrix.out / PROGRESS,
            {"done": len(self.done), "of": total, "failed": {str(k): v for k, v in self.failed.items()}},
        )

    def _left(self) -> str:
        """', 12 min left', from what runs of each kind took."""
        rest = 0.0
        waiting = self.waiting if self.planned_finals else [*self.waiting, *self._possible_finals()]
        for node in waiting:
            known = self.seconds.get(_class(node)) or [
                x for k, v in self.seconds.items() if k[0] == node.role for x in v
            ]
            if not known:
                return ""
            rest += float(np.mean(known))
        rest /= self.jobs
        return f", {rest / 3600:.1f} h left" if rest > 5400 else f", {rest / 60:.0f} min left"

    def _possible_finals(self) -> list[Node]:
        choices: dict[tuple[str, str], dict[str, Any]] = {
            (row, column): {} for row in self.matrix.table.rows for column in self.matrix.table.columns
        }
        return self.matrix.finals(choices)

    def _plan_finals(self) -> None:
        """Once every trial has ended: chooses, and puts the runs of the table into the queue."""
        trials = self.matrix.trials()
        if self.planned_finals or any(node.role == "tune" for node in self.waiting):
            return
        if any(self.matrix.folder(n) not in self.done and self.matrix.folder(n) not in self.failed for n in trials):
            return
        choices, table = choose(self.matrix, trials)
        if choices:
            write_json(self.matrix.out / CHOICES, table)
            for (row, column), chosen in choices.items():
                say(f"chosen for {row} in {column}: {', '.join(f'{k}={v}' for k, v in chosen.items())}")
        self.planned_finals = True
        finals = self.matrix.finals(choices)
        known = {self.matrix.folder(node) for node in self.waiting}
        self.waiting += [node for node in finals if self.matrix.folder(node) not in known]
        self._finished(finals)
        self._give_up()

    def _unchosen(self) -> list[tuple[str, str]]:
        if not self.planned_finals:
            return []
        choices, _ = choose(self.matrix, self.matrix.trials())
        wanted = [
            (row, c) for c, config in self.matrix.table.columns.items() if config.tune for row in self.matrix.table.rows
        ]
        return [key for key in wanted if key not in choices]

    def _finished(self, nodes: Iterable[Node]) -> set[Path]:
        """Takes what is finished out of the queue."""
        found = set()
        for node in nodes:
            folder = self.matrix.folder(node)
            if read_run(folder).problem == "":
                found.add(folder)
        self.done |= found
        self.waiting = [node for node in self.waiting if self.matrix.folder(node) not in found]
        return found


def choose(
    matrix: Matrix, trials: Sequence[Node]
) -> tuple[dict[tuple[str, str], dict[str, Any]], list[dict[str, Any]]]:
    """Of each row and column the setting with the best mean over trial seeds; the first one of equals.

    Returns:
        The choices, without those of which a trial is missing, and all trials with their results.
    """
    results: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    settings: dict[str, dict[str, Any]] = {}
    broken = set()
    listed = []
    for node in trials:
        run, label = read_run(matrix.folder(node)), json.dumps(node.choice)
        settings[label] = dict(node.choice)
        if run.problem:
            broken.add((node.row, node.column))
            continue
        value = matrix.value(node, run)
        results[node.row, node.column][label].append(value)
        metric = matrix.table.columns[node.column].metric or run.metric
        listed.append({"row": node.row, "column": node.column, "seed": node.seed, **dict(node.choice), metric: value})
    chosen = {}
    for key, found in results.items():
        if key not in broken:
            best = max(found, key=lambda label: float(np.mean(found[label])))
            chosen[key] = settings[best]
    return chosen, listed


def cells(matrix: Matrix, choices: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[tuple[Node, Run]]:
    """Every final run that the table asks for, done or not."""
    return [(node, read_run(matrix.folder(node))) for node in matrix.finals(choices)]


def _class(node: Node) -> tuple[str, ...]:
    """Runs that take about equally long."""
    return (node.role, node.row if node.role == "pretrain" else "", node.column, f"{node.fraction}")


def _declare(matrix: Matrix) -> None:
    """Keeps the declaration beside the results, and refuses a folder of another one.

    Raises:
        SslMedError: the folder holds another table.
    """
    path = matrix.out / DECLARED
    tree = to_plain(matrix.table)
    if path.is_file():
        old = json.loads(path.read_text())
        different = sorted(key for key in tree if old.get(key) != json.loads(json.dumps(tree)).get(key))
        if different:
            say(
                f"note: the table was declared otherwise before ({', '.join(different)}); runs that it no longer needs stay"
            )
    matrix.out.mkdir(parents=True, exist_ok=True)
    write_json(path, {**tree, "declared": time.strftime("%Y-%m-%d %H:%M")})


class _Alone:
    """One campaign per folder: a second start is refused as long as the first lives."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def __enter__(self) -> None:
        self.file = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SslMedError(
                f"{self.folder}: another compare is at work here; wait for it, or choose out=DIR"
            ) from None

    def __exit__(self, *_: object) -> None:
        self.file.close()
