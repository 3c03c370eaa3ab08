"""`ssl-med compare`: carry out a declared table of methods, tasks, label budgets and seeds, resume it, and report it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments.comparison import estimate as planner
from experiments.comparison.checks import check_plan
from experiments.comparison.execute import PROGRESS, Execution, choose
from experiments.comparison.local import Workers
from experiments.comparison.plan import Plan, PlannedRun, root_names
from experiments.comparison.records import read_record
from experiments.comparison.results import failures_of, report_table
from experiments.comparison.slurm import Slurm, SlurmConfig
from experiments.comparison.table import load_table
from experiments.config.defaults import from_environment
from experiments.run.callbacks import RunError
from experiments.run.environment import say
from experiments.run.lock import FolderLock
from experiments.run.threads import cores
from ssl_med.catalogue import nearest
from ssl_med.config import build, parse_overrides, to_plain
from ssl_med.ranges import NonNegative, Processes, Range
from ssl_med.reports.run_folder import Run
from ssl_med.reports.writing import write_json
from ssl_med.spec import SslMedError

USAGE = "ssl-med compare table=NAME|FILE root.DATA=DIR [scale=small] [jobs=N] [key=value ...] [--dry-run | --report]"
EXAMPLES = (
    "ssl-med compare table=hippocampus root.hippocampus=DIR jobs=2 --dry-run",
    "ssl-med compare table=nodule2d root.nodule2d=DIR seeds=[0,1] rows.moco=null",
)
NAMES = ("table",)
REQUIRED = ("table",)
SETTINGS = {"": "experiments.commands.compare:CompareConfig + experiments.comparison.table:TableConfig"}
OPTIONS = {
    "--dry-run": "measure a few steps of each kind of run and say what the whole will cost",
    "--report": "write the report of what is there, carry nothing out",
}

DECLARED = "table.json"
REPORT = "--report"


@dataclass
class CompareConfig:
    """How a table is carried out; tables/NAME.yaml says what it compares."""

    table: str = ""
    """name in experiments/tables, or a yaml file"""
    scale: str = "full"
    """full, or small: the part `small` of the table laid over it"""
    out: str = ""
    """folder; empty: runs/compare/TABLE, or runs/compare/TABLE-small"""
    launcher: Literal["local", "slurm"] = "local"
    """local: processes of this machine; slurm: job arrays, see slurm.partition and its like"""
    jobs: Annotated[int, Range(1, 1024)] = 1
    """local: runs at a time"""
    memory_gb: NonNegative = 0.0
    """local: memory of all runs together, by what `--dry-run` measured: fewer run at a time if need be; 0: no limit"""
    threads: Processes = 0
    """threads of each; 0: the cores divided by jobs"""
    root: dict[str, str] = field(default_factory=dict)
    """folders of the data sets that the table names"""
    store: dict[str, str] = field(default_factory=dict)
    """stores of the data sets, by the same names"""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """what a job asks the cluster for"""

    def __post_init__(self) -> None:
        if not self.table:
            raise SslMedError("table=NAME is missing; `ssl-med list tables` shows what there is")
        if self.scale not in ("full", "small"):
            raise SslMedError(f"scale is '{self.scale}'; it must be full or small")


def compare(overrides: Sequence[str]) -> Path:
    """Carries out or continues a table, with `--dry-run` says what it will cost, with `--report` reports what is there.

    Returns:
        Its folder.

    Raises:
        SslMedError: the table or a run of it is wrong; before any work.
        RunError: a run failed; the others are done.
    """
    dry = "--dry-run" in overrides
    plan, config = open_plan([override for override in overrides if override not in ("--dry-run", REPORT)])
    if REPORT in overrides:
        report_table(plan, choose(plan, plan.trials())[0], failures_of(plan.out / PROGRESS))
        return plan.out
    finals = check(plan)
    nodes = {"pretrain": plan.pretrainings(), "tune": plan.trials(), "final": finals}
    counts = {role: len({plan.folder(node) for node in found}) for role, found in nodes.items()}
    jobs = planner.within_memory(plan.out, config.jobs, config.memory_gb)
    threads = config.threads or max(1, cores() // jobs)
    with FolderLock(plan.out, "another compare is at work here"):
        _declare(plan)
        if dry:
            measured = planner.measure(plan, finals, jobs=jobs, threads=threads)
            planner.store(plan, measured, jobs=jobs, threads=threads)
            say(f"table {plan.name}: {sum(counts.values())} runs, nothing of it carried out")
            say(planner.describe(measured, jobs=jobs))
            return plan.out
        execution = Execution(plan, counts, jobs=config.slurm.limit if config.launcher == "slurm" else jobs)
        say(f"table {plan.name}: {execution.total} runs, {len(execution.done)} of them done already")
        with _launcher(config, plan.out, jobs=jobs, threads=threads) as launcher:
            failures = execution.run(launcher)
        judged = planner.judge(plan.out, execution.seconds)
        if judged:
            say(judged)
    report_table(plan, choose(plan, plan.trials())[0], failures)
    if failures:
        raise RunError(f"{len(failures)} runs failed or wait for one that did; the same command tries them again")
    say(f"table {plan.name} is complete -> {plan.out}")
    return plan.out


def _launcher(config: CompareConfig, out: Path, *, jobs: int, threads: int) -> Workers | Slurm:
    if config.launcher == "slurm":
        return Slurm(config.slurm, out / "slurm")
    return Workers(jobs, threads=threads)


def open_plan(overrides: Sequence[str]) -> tuple[Plan, CompareConfig]:
    """The table that overrides ask for, and how to carry it out."""
    own: list[str] = []
    rest: list[str] = []
    for override in overrides:
        (own if override.partition("=")[0].partition(".")[0] in _KEYS else rest).append(override)
    config = build(CompareConfig, [parse_overrides(own)], prefix="")
    name = Path(config.table).stem
    table = load_table(config.table, rest, scale=config.scale)
    for key, named in (("root", config.root), ("store", config.store)):
        for data in named:
            if data not in root_names(table):
                raise SslMedError(
                    f"command line: {key}.{data}: the table reads no data set of that name{nearest(data, root_names(table))}"
                )
    out = Path(config.out or f"runs/compare/{name}{'-small' if config.scale == 'small' else ''}")
    elsewhere = config.launcher == "slurm"
    plan = Plan(
        name,
        table,
        out=out.resolve(),
        roots={**from_environment(root_names(table)), **config.root},
        stores=config.store,
        scale=config.scale,
        elsewhere=elsewhere,
    )
    return plan, config


_KEYS = ("table", "scale", "out", "jobs", "threads", "root", "store", "launcher", "memory_gb", "slurm")


def check(plan: Plan) -> list[PlannedRun]:
    """Composes every run; those behind the cells, with the first trial's settings where these are to be chosen.

    Raises:
        SslMedError: one of them cannot be composed.
    """
    trials = plan.trials()
    first = {(node.row, node.column): dict(node.choice) for node in reversed(trials)}
    finals = plan.finals(first)
    for node in [*plan.pretrainings(), *trials, *finals]:
        plan.folder(node)
    check_plan(plan, trials, finals)
    return finals


def cells(plan: Plan, choices: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[tuple[PlannedRun, Run]]:
    """Every final run that the table asks for, done or not."""
    return [(node, plan.run(node)) for node in plan.finals(choices)]


def _declare(plan: Plan) -> None:
    """Keeps the declaration beside the results; says where it differs from that of the last start."""
    path = plan.out / DECLARED
    tree = json.loads(json.dumps(to_plain(plan.table)))
    if old := read_record(path, dict[str, Any]):
        different = sorted(key for key in tree if old.get(key) != tree[key])
        if different:
            say(
                f"note: the table was declared otherwise before ({', '.join(different)}); runs that it no longer needs stay"
            )
    write_json(path, {**tree, "declared": time.strftime("%Y-%m-%d %H:%M")})


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    compare(arguments)
