"""What a table will cost, from a few measured steps of each distinct configuration; and afterwards, how far off that was."""

from __future__ import annotations

import math
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from experiments.comparison.execute import kind_of
from experiments.comparison.local import Finished, Job, Workers
from experiments.comparison.plan import Plan, PlannedRun, besides
from experiments.comparison.records import Prediction, read_record
from experiments.config.kinds import FinetuneRun, PretrainRun
from experiments.config.run import compose_finetune, compose_pretrain
from experiments.run.environment import say
from ssl_med.reports.writing import write_json
from ssl_med.spec import SslMedError
from ssl_med.values import spell

PLAN = "plan.json"
SHORT, LONG = 4, 16  # steps whose difference is the time of a step; the first ones warm up and belong to the start


@dataclass(frozen=True)
class Estimate:
    """Prediction for one run of a kind.

    * steps, validations, curves: how many of each. * start: seconds besides them: reading, the last validation, the test.
    * step, validation, curve: seconds of one. * memory_mb: of the process. * disk_mb: of its folder.
    """

    steps: int
    validations: int
    curves: int
    start: float
    step: float
    validation: float
    curve: float
    memory_mb: float
    disk_mb: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.start + self.steps * self.step + self.validations * self.validation + self.curves * self.curve


def measure(
    plan: Plan, finals: Sequence[PlannedRun], *, jobs: int, threads: int
) -> dict[tuple[str, ...], tuple[int, Estimate]]:
    """Kind of run -> how many, and the prediction for one; `jobs` of them at a time, as in the execution.

    Raises:
        SslMedError: a short run failed.
    """
    kinds: dict[tuple[str, ...], list[PlannedRun]] = defaultdict(list)
    for node in [*plan.pretrainings(), *plan.trials(), *finals]:
        kinds[kind_of(node)].append(node)
    folder = plan.out / "plan"
    shutil.rmtree(folder, ignore_errors=True)
    probes: dict[tuple[str, ...], Estimate] = {}
    try:
        with Workers(jobs, threads=threads) as workers:
            stopwatch = _Stopwatch(workers, folder)
            for kind, nodes in kinds.items():
                say(f"measuring {nodes[0].name}")
                probes[kind] = stopwatch.estimate(nodes[0])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {kind: (len(nodes), probes[kind]) for kind, nodes in kinds.items()}


def describe(estimates: Mapping[tuple[str, ...], tuple[int, Estimate]], *, jobs: int) -> str:
    """The estimate as a table with its sums."""
    lines = [f"{'runs':>6}  {'seconds each':>12}  {'hours':>7}  what"]
    for (role, row, column, fraction), (count, one) in estimates.items():
        wanted = f" for {column}" if column else ""
        what = f"{role} {row}{wanted}" if role == "pretrain" else f"{role} {column} at {100 * float(fraction):g} %"
        lines.append(f"{count:6d}  {one.seconds:12.1f}  {count * one.seconds / 3600:7.2f}  {what}")
    total = sum(count * one.seconds for count, one in estimates.values())
    runs = sum(count for count, _ in estimates.values())
    disk = sum(count * one.disk_mb for count, one in estimates.values())
    memory = jobs * max((one.memory_mb for _, one in estimates.values()), default=0.0)
    lines.append(
        f"{runs:6d}  {'':12}  {total / 3600:7.2f}  device-hours in all; {total / jobs / 3600:.2f} h with jobs={jobs}, "
        f"{memory / 1024:.1f} GiB of memory, {disk / 1024:.2f} GiB of disk"
    )
    return "\n".join(lines)


def store(plan: Plan, estimates: Mapping[tuple[str, ...], tuple[int, Estimate]], *, jobs: int, threads: int) -> None:
    """plan.json: the prediction, for the report to judge."""
    rows = [
        {"kind": list(kind), "count": count, "seconds": one.seconds, **asdict(one)}
        for kind, (count, one) in estimates.items()
    ]
    write_json(plan.out / PLAN, {"jobs": jobs, "threads": threads, "kinds": rows})


def within_memory(out: Path, jobs: int, memory_gb: float) -> int:
    """How many runs of the measured size fit into memory_gb, at most `jobs`.

    Raises:
        SslMedError: there is a limit but no plan, or not even one run fits.
    """
    if not memory_gb:
        return jobs
    kinds = read_record(out / PLAN, Prediction).get("kinds")
    if not kinds:
        raise SslMedError("memory_gb: how much a run needs is not known yet; measure it with --dry-run")
    largest = max(1.0, *(row.get("memory_mb", 0.0) for row in kinds)) / 1024
    if largest > memory_gb:
        raise SslMedError(f"memory_gb={memory_gb:g}: one run needs {largest:.1f} GiB; raise it or take smaller crops")
    return min(jobs, int(memory_gb // largest))


def judge(out: Path, measured: Mapping[tuple[str, ...], Sequence[float]]) -> str:
    """'predicted 1.2 h, took 1.3 h (+8 %)' over the runs of this start; '' without a plan."""
    kinds = read_record(out / PLAN, Prediction).get("kinds", []) if measured else []
    predicted = {tuple(row.get("kind", ())): row.get("seconds", 0.0) for row in kinds}
    took = sum(x for kind, seconds in measured.items() if kind in predicted for x in seconds)
    said = sum(predicted[kind] * len(seconds) for kind, seconds in measured.items() if kind in predicted)
    if not said:
        return ""
    return f"planned {said / 3600:.2f} h of runs, took {took / 3600:.2f} h ({100 * (took / said - 1):+.0f} %)"


class _Stopwatch:
    def __init__(self, workers: Workers, folder: Path) -> None:
        self.workers, self.folder, self.count = workers, folder, 0
        self.warm = False

    def estimate(self, node: PlannedRun) -> Estimate:
        """Two short runs for the step, one more for a validation or a look at the test part where there are several."""
        if node.kind == "external":  # it needs weights to test, however little they have learned
            self._time(node.needs[0], {"trainer.max_steps": SHORT, "trainer.test_every_steps": 0})
            node = replace(node, overrides=(str(self.folder / str(self.count)), *node.overrides[1:]))
        if node.kind in ("probe", "external", "features"):
            seconds, memory, disk = self._time(node, {})
            return Estimate(0, 0, 0, seconds, 0.0, 0.0, 0.0, memory, disk)
        steps, validations, curves = _rhythm(
            (compose_pretrain if node.role == "pretrain" else compose_finetune)(node.overrides, shared=True)
        )
        short, long = min(SHORT, steps), min(LONG, steps)
        quiet = {"trainer.val_every_steps": LONG, "trainer.test_every_steps": 0}
        first, _, _ = self._time(node, {**quiet, "trainer.max_steps": short})
        second, memory, disk = self._time(node, {**quiet, "trainer.max_steps": long})
        step = max(0.0, (second - first) / (long - short)) if long > short else 0.0
        validation = curve = 0.0
        if validations > 1:
            often = {**quiet, "trainer.max_steps": long, "trainer.val_every_steps": long // 2}
            validation = max(0.0, self._time(node, often)[0] - second)
        if curves:
            often = {**quiet, "trainer.max_steps": long, "trainer.test_every_steps": long // 2}
            curve = max(0.0, self._time(node, often)[0] - second)
        start = second - long * step
        return Estimate(steps, max(0, validations - 1), curves, start, step, validation, curve, memory, disk)

    def _time(self, node: PlannedRun, changes: Mapping[str, float]) -> tuple[float, float, float]:
        """Seconds, MB of memory and MB of disk of a changed run, mean of as many at once as there are workers."""
        if not self.warm:  # the first run of a worker imports everything
            self.warm = True
            self._time(node, changes)
        file = next((word.partition("=")[2] for word in node.overrides if word.startswith("init=")), "")
        # the weights of a fine-tuning are not there yet, and a file of weights may be missing
        untrained = node.kind in ("finetune", "probe", "features") or (file and not Path(file).exists())
        started = {"init": None, "family": None} if untrained else {}
        overrides = changed(node.overrides, {**changes, **started})
        ended: list[Finished] = []
        places = []
        for _ in range(self.workers.count):
            self.count += 1
            place = self.folder / str(self.count)
            places.append(place)
            log = self.folder / f"{self.count}.log"
            job = (*overrides, f"out={place}", *besides(node, "dry-run"))
            self.workers.start(Job(place, node.kind, job, log))
        while self.workers.running:
            ended += self.workers.finished()
        for finished in ended:
            if finished.error:
                raise SslMedError(f"{node.name}: a short run of it failed: {finished.error}")
        disk = np.mean([sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) for place in places])
        peak = max(finished.peak_mb for finished in ended)
        return float(np.mean([finished.seconds for finished in ended])), peak, float(disk) / 2**20


def changed(overrides: Sequence[str], changes: Mapping[str, object]) -> tuple[str, ...]:
    """The overrides with some keys set anew, None: taken out."""
    kept = [override for override in overrides if override.partition("=")[0] not in changes]
    return (*kept, *(f"{key}={spell(value)}" for key, value in changes.items() if value is not None))


def _rhythm(config: PretrainRun | FinetuneRun) -> tuple[int, int, int]:
    """Steps, validations and looks at the test part of a whole run; early stopping is not foreseen."""
    trainer = config.trainer
    data = config.data_class(
        config.data,
        need=config.need,
        labelled=config.labelled,
        batch_size=trainer.batch_size,
        label_fraction=config.labels.fraction,
        label_shots=config.labels.shots,
    )
    data.setup("fit")
    per_epoch = max(1, data.count("train") // trainer.batch_size)
    steps = trainer.max_epochs * per_epoch // trainer.accumulate if trainer.max_epochs >= 0 else math.inf
    steps = int(min(steps, trainer.max_steps if trainer.max_steps >= 0 else math.inf))
    every = min(trainer.val_every_steps or per_epoch, steps * trainer.accumulate)
    validations = steps * trainer.accumulate // max(1, every) if data.count("val") else 0
    curves = max(0, math.ceil(steps / trainer.test_every_steps) - 1) if trainer.test_every_steps else 0
    return steps, validations, curves
