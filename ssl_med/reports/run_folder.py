"""The run folder read back: whole, or with the reason why not."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ssl_med.catalogue import nearest
from ssl_med.evaluation.metrics import metric_of
from ssl_med.reading import UnreadableError, mismatch, read_json, shown
from ssl_med.reports.run_tables import Case, Line, number, pictures, read_journal, read_table
from ssl_med.reports.summary import FORMAT, Summary
from ssl_med.spec import SslMedError

# every file name of a run folder
CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.jsonl", "summary.json"
SUBJECTS = "subjects.json"  # the subjects that a run used, for the ledger
LAST, BEST = "last.ckpt", "best.ckpt"
PREVIOUS = "previous.ckpt"  # the last.ckpt before, for when the last one is damaged
BACKBONE = "backbone.safetensors"  # of a pretraining
CASES = "test_cases.csv"
# of an analysis of features: its numbers, a row for each image, and what its figures are drawn from
FEATURES, FEATURES_ROWS, FEATURES_ARRAYS = "features.json", "features.csv", "features.safetensors"
KINDS = ("pretrain", "finetune", "probe", "external", "features")
IN_DOMAIN = "in_domain_cases.csv"  # of an external test: the trained run's test cases, scored by the mapped classes
FIGURES = "figures"
SCRATCH = "scratch"
ANALYSIS = "analysis-"  # figures of the error analysis; the others show a case each


@dataclass(frozen=True)
class Run:
    """One run folder as read. `problem` says why the run cannot count as a result; "" when it can.

    * judged_by: test metric that counts in place of the headline metric of the run; "": that one.
    """

    folder: Path
    summary: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    judged_by: str = ""

    @property
    def kind(self) -> str:
        """One of `KINDS`, or '' when unknown."""
        return str(self.summary.get("kind", ""))

    @property
    def tested(self) -> bool:
        """Whether the run has a test result: a fine-tuning or a probe."""
        return self.kind in ("finetune", "probe")

    @property
    def external(self) -> bool:
        """Whether the run tested a fine-tuning on another data set."""
        return self.kind == "external"

    @property
    def scored(self) -> bool:
        """Whether the run has a test result of any kind."""
        return self.tested or self.external

    @property
    def protocol(self) -> str:
        """How weights met the task: 'finetune' or 'frozen', or the protocol of a probe; '' for a pretraining."""
        if not self.scored:
            return ""
        return str(self.summary.get("protocol") or self._part("transfer").get("protocol") or "finetune")

    @property
    def recipe(self) -> str:
        """Recipe of a fine-tuning, 'paper' where it is the task's own protocol; '' for another run."""
        return str(self.summary.get("recipe") or "paper") if self.kind == "finetune" else ""

    @property
    def name(self) -> str:
        """Folder name, which carries the hash of the config unless the user chose it."""
        return self.folder.name

    @property
    def method(self) -> str:
        """Pretraining method; 'scratch' for a fine-tuning from random weights."""
        return str(self.summary.get("method") or SCRATCH)

    @property
    def task(self) -> str:
        """Task of a fine-tuning, else ''."""
        return str(self.summary.get("task") or "")

    @property
    def data(self) -> str:
        """Data set of this run."""
        return str(self.summary.get("data") or "")

    @property
    def seed(self) -> int:
        """Seed of this run."""
        return int(self.summary.get("seed") or 0)

    @property
    def fraction(self) -> float:
        """Share of the labelled training patients in use, in (0, 1]."""
        return float(self.labels.get("fraction", 1.0))

    @property
    def labels(self) -> Mapping[str, Any]:
        """Label budget: fraction, subjects, of."""
        return self._part("labels")

    @property
    def card(self) -> Mapping[str, Any]:
        """Card of the backbone a fine-tuning started from; empty for scratch."""
        return self._part("init").get("card") or {}

    @property
    def features(self) -> str:
        """Kind of an analysis of features, else ''."""
        return str(self.summary.get("analysis") or "") if self.kind == "features" else ""

    @property
    def drawings(self) -> list[tuple[str, str, Path]]:
        """Figures of an analysis of features as title, line on how to read it, and file; those that are there."""
        found = []
        for item in self.summary.get("drawings") or []:
            path = self.folder / FIGURES / Path(str(item["file"])).name  # never outside of the run
            if path in self._pngs:
                found.append((str(item["title"]), str(item["caption"]), path))
        return found

    @property
    def leakage(self) -> Mapping[str, Any]:
        """What the pretraining saw of validation and test; empty when that was not recorded, and for scratch."""
        return self._part("leakage")

    @property
    def leaks(self) -> list[Mapping[str, Any]]:
        """What each training before the test saw of it; an empty one was not recorded."""
        if not self.external:
            return [self.leakage] if self.card else []
        return [self.leakage.get(by) or {} for by in ("training", *(("pretraining",) if self.card else ()))]

    @property
    def trained_on(self) -> str:
        """Of an external test: the task that was trained, with its data set where the names differ; else ''."""
        told = self._part("trained_on")
        task, data = str(told.get("task", "")), str(told.get("data", ""))
        return task if task == data or not data else f"{task} on {data}"

    @cached_property
    def inside(self) -> list[Case]:
        """Of an external test: rows of the in-domain test, scored by the same classes."""
        return read_cases(self.folder, IN_DOMAIN)

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved config, when summary.json carries it."""
        return self._part("config")

    @property
    def metric(self) -> str:
        """Name of the test metric that counts."""
        return self.judged_by or str(self.summary.get("metric") or "")

    @property
    def metrics(self) -> dict[str, float]:
        """Final metrics; null reads as nan."""
        return {key: number(value) for key, value in self._part("metrics").items()}

    @property
    def value(self) -> float:
        """The test metric that counts; nan when undefined."""
        return self.metrics.get(f"test/{self.metric}", math.nan)

    @property
    def notes(self) -> list[str]:
        """What the run wants its reader to know."""
        return [str(note) for note in self.summary.get("notes") or []]

    @cached_property
    def curve(self) -> list[Line]:
        """Lines of metrics.jsonl."""
        return self._read_journal[0]

    @property
    def lost_lines(self) -> int:
        """Lines of metrics.jsonl that could not be read."""
        return self._read_journal[1]

    @cached_property
    def _read_journal(self) -> tuple[list[Line], int]:
        return read_journal(self.folder / METRICS)

    @cached_property
    def cases(self) -> list[Case]:
        """Rows of test_cases.csv."""
        return read_cases(self.folder)

    @property
    def figures(self) -> list[Path]:
        """Pictures of cases that the run left, by name."""
        return [path for path in self._pngs if not path.name.startswith(ANALYSIS)]

    @property
    def analysis(self) -> list[Path]:
        """Figures of the error analysis, by name."""
        return [path for path in self._pngs if path.name.startswith(ANALYSIS)]

    @cached_property
    def _pngs(self) -> list[Path]:
        return pictures(self.folder / FIGURES)

    @property
    def pictured(self) -> list[tuple[str, str, float, Path]]:
        """Pictured cases as case, why it was chosen, how right it is in [0, 1], and its file; as the run lists them."""
        found = []
        for item in self.summary.get("pictures") or []:
            path = self.folder / FIGURES / Path(str(item["file"])).name  # never outside of the run
            if path in self._pngs:
                found.append((str(item["case"]), str(item["why"]), number(item["goodness"]), path))
        return found

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the metric's interval over subjects; nan where there is none, as for all but the headline metric."""
        interval = self._part("interval") if self.metric == self.summary.get("metric") else {}
        return number(interval.get("low")), number(interval.get("high"))

    def _part(self, key: str) -> Mapping[str, Any]:
        value = self.summary.get(key)
        return value if isinstance(value, Mapping) else {}


def read_metrics(folder: Path) -> list[Line]:
    """metrics.jsonl as a list, null as nan; [] without the file. `read_journal` says which lines are left out.

    Raises:
        SslMedError: the file cannot be read.
    """
    return read_journal(folder / METRICS)[0]


def read_cases(folder: Path, name: str = CASES) -> list[Case]:
    """test_cases.csv, or a table of another name, as a list, numbers as float, an empty cell as nan; [] without the file.

    Raises:
        SslMedError: see `read_table`.
    """
    return read_table(folder / name)


def read_run(folder: Path, *, metric: str = "", tables: bool = False) -> Run:
    """Reads a run folder; `problem` says what is broken or unfinished; nothing is raised.

    Args:
        folder: of the run.
        metric: test metric that counts in place of the run's headline metric.
        tables: also read what else a report looks at, so that a damaged table or journal is told.
    """
    path = folder / SUMMARY
    try:
        if not path.exists():
            steps = max((int(line["step"]) for line in read_metrics(folder)), default=None)
            seen = f"last logged step {steps}" if steps is not None else "no step logged"
            return Run(folder, problem=f"no {SUMMARY}: still running or killed ({seen})")
        summary = read_json(path)
    except UnreadableError as error:
        return Run(folder, problem=f"{SUMMARY} {error}")
    except (SslMedError, OSError) as error:
        return Run(folder, problem=str(error).removeprefix(f"{folder}{os.sep}"))
    kind = summary.get("kind") if isinstance(summary, dict) else None
    if kind not in KINDS:
        return Run(folder, problem=f"{SUMMARY} names no kind of run ({', '.join(KINDS)})")
    if summary.get("format") != FORMAT:  # says nothing of its types that this version could know
        known = f"this version reads format {FORMAT}"
        return Run(folder, problem=f"{SUMMARY} has format {shown(summary.get('format'))}; {known}")
    if wrong := mismatch(Summary, summary):
        return Run(folder, problem=f"{SUMMARY}: {wrong}; run the same command again in another folder")
    run = Run(folder, summary, judged_by=metric)
    return replace(run, problem=_problem(run) or (_broken_tables(run) if tables else ""))


def _broken_tables(run: Run) -> str:
    try:
        _ = run.curve, run.cases, run.inside
    except SslMedError as error:
        return str(error).removeprefix(f"{run.folder}{os.sep}")
    return ""


def _problem(run: Run) -> str:
    status = run.summary.get("status")
    if status != "done":
        steps = run.summary.get("steps", "?")
        return f"{status or 'no status'} at step {steps}; the same command goes on from there"
    if not 0 < run.fraction <= 1:
        return f"{SUMMARY}: 'labels.fraction' is {run.fraction:g}; it must be above 0 and at most 1"
    if run.scored:
        if not run.task or not run.metric:
            return f"{SUMMARY} names no task or no metric"
        if run.judged_by and f"test/{run.metric}" not in run.metrics:
            known = [key.removeprefix("test/") for key in run.metrics if key.startswith("test/")]
            return f"has no test metric '{run.metric}'{nearest(run.metric, known)}"
        if math.isnan(run.value):
            return f"test {run.metric} is undefined (see the conventions)"
        try:
            metric_of(run.metric)
        except SslMedError as error:
            return str(error)
    return ""


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Every run at or below `paths`, each once, by folder name; broken and unfinished ones are among them.

    Raises:
        SslMedError: a path is no folder.
    """
    found: dict[Path, Path] = {}
    closed: list[Run] = []
    for path in paths:
        if not path.is_dir():
            raise SslMedError(f"{path}: no such folder of runs")
        for folder in _walk(path, closed):
            found.setdefault(folder.resolve(), folder)
    return [*(read_run(found[key], tables=True) for key in sorted(found)), *closed]


def _walk(root: Path, closed: list[Run]) -> Iterator[Path]:
    """Folders of runs; one that cannot be looked into goes to `closed`."""

    def refused(error: OSError) -> None:
        closed.append(Run(Path(error.filename or root), problem=f"cannot be read ({error.strerror})"))

    for current, folders, files in os.walk(root, onerror=refused):
        if {SUMMARY, CONFIG, METRICS}.intersection([*files, *folders]):
            folders.clear()  # what lies below is part of this run: a W&B folder has its own config.yaml
            yield Path(current)
