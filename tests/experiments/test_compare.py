"""How a table is carried out: order, choices, resuming, failures. The runs are made by a desk in this process."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from launchers import Inline

from experiments.cli import main
from experiments.commands import compare as module
from experiments.comparison.execute import CHOICES
from experiments.comparison.plan import PlannedRun
from experiments.run.lock import FolderLock
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.reports.run_folder import SUMMARY
from ssl_med.reports.writing import write_summary

TABLE = """
    title: A table
    trainer: cpu
    seeds: [0, 1]
    settings: {data: {patch_size: [16, 16, 16]}, backbone: {channels: [8, 8, 16]}}
    pretrain: {data: lits, settings: {trainer: {max_steps: 3}}}
    rows:
      scratch: {}
      mg: {method: models_genesis}
      moco: {method: moco}
    columns:
      liver:
        task: lits
        settings: {trainer: {max_steps: 2}}
        tune: {optim.lr: [0.001, 0.01, 0.1]}
      lungs: {task: luna, fractions: [0.5, 1.0], settings: {trainer: {max_steps: 2}}}
    tune: {seeds: [1000]}
"""
RUNS = 2 + 9 + 6 + 12  # pretrainings, trials, finals of liver, finals of lungs


class Desk(Inline):
    """In the place of `Workers`: carries a job out at once by writing what a run leaves."""

    started: ClassVar[list[str]] = []
    nodes: ClassVar[list[PlannedRun]] = []
    broken: tuple[str, ...] = ()
    stop_after = 10**6

    def carry_out(self, job):
        if len(Desk.started) >= Desk.stop_after:
            raise KeyboardInterrupt
        Desk.started.append(job.key.name)
        Desk.nodes.append(job.key)
        error = next((f"no {part}" for part in Desk.broken if part in job.key.name), "")
        words = dict(word.split("=", 1) for word in job.overrides if "=" in word)
        if not error:
            folder = Path(words["out"])
            folder.mkdir(parents=True, exist_ok=True)
            write_summary(folder, self.summary(job, words))
        return error

    @staticmethod
    def summary(job, words):
        if job.kind == "pretrain":
            return {"kind": "pretrain", "status": "done", "steps": 3}
        # scratch is best at 0.1 by the metric and at 0.001 by IoU; the others at 0.01
        best = {"scratch": 0.1}.get(job.key.row, 0.01)
        rate = float(words.get("optim.lr", 0.01))
        metrics = {"test/dice": 0.8 - abs(rate - best), "test/iou": 0.5 - rate, "test/hd95_mm": 5 + 10 * rate}
        if job.kind == "external":
            assert "tracking.table" not in words  # it has no such setting
            metrics |= {"in_domain/dice": 0.9}
        return {"kind": job.kind, "status": "done", "task": "lits", "metric": "dice", "metrics": metrics}


class Plain:
    """Of a resolved config what names its folder; composing is tested elsewhere and takes its time."""

    def __init__(self, words):
        self.name = next(word.partition("=")[2] for word in words if word.startswith(("task=", "method=")))
        self.overrides, self.protocol, self.kind = words, "", "finetune"
        self.spec = SimpleNamespace(target="mask", class_names=("liver",))
        self.backbone = BackboneConfig()

    def hash(self, *, planned=False):
        return hashlib.sha256(" ".join(self.overrides).encode()).hexdigest()[:8]


@pytest.fixture
def start(tmp_path, monkeypatch, capsys, request):
    """Starts the table by the command; returns code, what was started, and what was printed."""
    monkeypatch.setattr(module, "Workers", Desk)
    if not request.node.get_closest_marker("parametrize"):
        monkeypatch.setattr(PlannedRun, "config", lambda node: Plain(node.overrides))
    path = tmp_path / "table.yaml"
    path.write_text(textwrap.dedent(TABLE))

    def started(*words, broken=(), stop_after=10**6):
        Desk.started, Desk.nodes, Desk.broken, Desk.stop_after = [], [], broken, stop_after
        roots = [f"root.{name}={tmp_path / name}" for name in ("lits", "luna")]
        code = main(["compare", f"table={path}", f"out={tmp_path / 'out'}", *roots, *words])
        printed = capsys.readouterr()
        return code, list(Desk.started), printed.out + printed.err

    return started


def test_what_a_run_needs_comes_before_it_and_choices_enter_the_finals(start, tmp_path):
    code, started, printed = start()
    assert code == 0
    assert len(started) == RUNS
    assert "table table is complete" in printed
    for name in started:
        for row in ("mg", "moco"):
            if f": {row}, seed" in name:
                assert started.index(f"pretrain {row}, seed 0") < started.index(name)
    trials = [k for k, name in enumerate(started) if "trial" in name]
    assert max(trials) < min(k for k, name in enumerate(started) if name.startswith("liver") and "trial" not in name)
    listed = json.loads((tmp_path / "out" / CHOICES).read_text())
    assert len(listed) == 9
    assert {"row": "mg", "column": "liver", "seed": 1000, "optim.lr": 0.01, "dice": 0.8} in listed
    assert "chosen for scratch in liver: optim.lr=0.1" in printed
    assert "chosen for moco in liver: optim.lr=0.01" in printed
    progress = json.loads((tmp_path / "out" / module.PROGRESS).read_text())
    assert progress == {"done": RUNS, "of": RUNS, "failed": {}}
    declared = json.loads((tmp_path / "out" / module.DECLARED).read_text())
    assert list(declared["rows"]) == ["scratch", "mg", "moco"]


@pytest.mark.parametrize("metric", ["iou", "hd95_mm"])
def test_choices_and_the_report_follow_the_metric_of_the_column(start, monkeypatch, tmp_path, metric):
    monkeypatch.setattr(PlannedRun, "config", lambda node: Plain(node.overrides))
    _, _, printed = start(f"columns.liver.metric={metric}")
    rows = ("scratch", "mg", "moco")
    assert all(f"chosen for {row} in liver: optim.lr=0.001" in printed for row in rows)  # scratch by dice: 0.1
    value = {"iou": 0.499, "hd95_mm": 5.01}[metric]
    assert re.search(rf"liver.*: mg, seed 0: {metric} {value:.4f}", printed)
    report = (tmp_path / "out" / "report.md").read_text()
    liver, lungs = report.partition("## Liver")[2].split("## Lungs")
    assert f"test {metric}" in liver
    assert f"| {value:.3f}" in liver
    assert "test dice" in lungs
    with (tmp_path / "out" / "results.csv").open() as file:
        found = {(row["column"], row["metric"], row["value"]) for row in csv.DictReader(file) if row["role"] == "final"}
    assert {key[:2] for key in found} == {("liver", metric), ("lungs", "dice")}
    assert ("liver", metric, f"{value:.6g}") in found


def test_a_metric_that_the_task_lacks_is_refused_before_work_starts(start, monkeypatch):
    monkeypatch.setattr(PlannedRun, "config", lambda node: Plain(node.overrides))
    for metric, said in (
        ("accuracy", "columns.liver.metric=accuracy: is no test metric of lits; there are: dice, iou"),
        ("dice/liverr", "columns.liver.metric=dice/liverr: is no test metric of lits; did you mean 'dice/liver'?"),
        ("ioo", "columns.liver.metric=ioo: is no metric"),
    ):
        code, started, printed = start(f"columns.liver.metric={metric}")
        assert (code, started) == (2, [])
        assert said in printed


def test_what_is_finished_is_skipped_after_an_interruption(start, tmp_path):
    code, first, printed = start(stop_after=7)
    assert code == 130
    assert "interrupted" in printed
    code, second, printed = start()
    assert code == 0
    assert "29 runs, 7 of them done already" in printed
    assert len(second) == RUNS - 7
    assert not set(first) & set(second)
    code, third, printed = start()
    assert (code, third) == (0, [])
    assert "29 runs, 29 of them done already" in printed
    lost = next(path for path in sorted((tmp_path / "out" / "final").iterdir()) if path.name.startswith("luna"))
    (lost / SUMMARY).unlink()
    code, fourth, _ = start()
    assert code == 0
    assert len(fourth) == 1
    assert fourth[0].startswith("lungs")


def test_a_failed_run_is_reported_and_the_others_are_done(start, tmp_path):
    code, started, printed = start(broken=("lungs at 50 %: mg, seed 1",))
    assert code == 1
    assert len(started) == RUNS
    assert "FAILED: lungs at 50 %: mg, seed 1: no lungs at 50 %: mg, seed 1; log: " in printed
    assert "1 runs failed or wait for one that did" in printed
    progress = json.loads((tmp_path / "out" / module.PROGRESS).read_text())
    assert progress["done"] == RUNS - 1
    assert len(progress["failed"]) == 1
    code, started, _ = start()
    assert code == 0
    assert started == ["lungs at 50 %: mg, seed 1"]


def test_runs_whose_pretraining_failed_wait(start):
    code, started, printed = start(broken=("pretrain moco",))
    assert code == 1
    assert not any(": moco" in name for name in started)
    assert "not run: lungs: moco, seed 0" in printed
    assert "not run: liver: moco, because its trials failed" in printed
    # nothing of the other rows waits for it: trials, finals of liver and of lungs
    assert len([name for name in started if ": mg" in name or ": scratch" in name]) == 6 + 4 + 8
    code, started, _ = start()
    assert code == 0
    assert all("moco" in name for name in started)


def test_a_row_without_its_file_is_not_started_and_its_cell_says_where_the_file_is(start, tmp_path):
    file = tmp_path / "VoCo_B.pt"
    row = f'rows.voco={{"init": "{file}", "family": "voco"}}'
    code, started, printed = start(row)
    assert code == 1
    assert len(started) == RUNS  # of the other rows
    assert not any("voco" in name for name in started)
    said = f"{file}: no such run folder or file of weights; get it from Luffy503/VoCo on Hugging Face"
    assert f"FAILED: lungs: voco, seed 0: {said}" in printed
    assert said in (tmp_path / "out" / "report.md").read_text()
    file.touch()
    code, started, _ = start(row)
    assert code == 0
    assert len(started) == 3 + 2 + 4  # trials of liver, finals of liver and of lungs
    assert all("voco" in name for name in started)


def test_a_pretraining_without_the_file_that_it_starts_from_is_not_started(start, tmp_path):
    """Also once the weights that came of it are there, the file may go."""
    file = tmp_path / "resnet18.pth"
    row = f'rows.further={{"method": "moco", "init": "{file}", "family": "torchvision"}}'
    code, started, printed = start(row)
    assert code == 1
    assert len(started) == RUNS
    said = f"{file}: no such run folder or file of weights; get it from https://download.pytorch.org/models"
    for what in ("pretrain further, seed 0", "lungs: further, seed 0"):
        assert f"FAILED: {what}: {said}" in printed
    file.touch()
    code, started, _ = start(row)
    assert code == 0
    assert len(started) == 1 + 3 + 2 + 4
    assert started[0] == "pretrain further, seed 0"
    (node,) = [one for one in Desk.nodes if one.name == started[0]]
    assert node.overrides[-3:] == (f"init={file}", "family=torchvision", "seed=0")
    assert not any("family=" in word for one in Desk.nodes if one.role == "final" for word in one.overrides)
    file.unlink()
    assert start(row)[:2] == (0, [])


AWAY = 'columns.away={"tests": "liver", "task": "lits", "root": "luna", "settings": {"map": "same"}}'


def test_fine_tunings_are_tested_elsewhere_once_they_are_done(start, tmp_path):
    code, started, printed = start(AWAY)
    assert code == 0
    assert len(started) == RUNS + 6
    for name in started:
        if name.startswith("away"):
            assert started.index(name.replace("away", "liver", 1)) < started.index(name)
    assert "away: moco, seed 1: dice 0.8" in printed
    report = (tmp_path / "out" / "report.md").read_text()
    assert "### In and out of domain" in report
    assert "| moco | 0.900 ± 0.000 (2) | 0.800 ± 0.000 (2) | +0.100 ± 0.000 (2) |" in report
    assert start(AWAY)[1] == []


@pytest.mark.slow
def test_what_would_test_a_failed_fine_tuning_is_not_run(start):
    code, started, printed = start(AWAY, broken=("liver: mg, seed 0",))
    assert code == 1
    assert len([name for name in started if name.startswith("away")]) == 5
    assert "not run: away: mg, seed 0" in printed
    assert start(AWAY)[1] == ["liver: mg, seed 0", "away: mg, seed 0"]


def test_a_column_whose_trial_failed_has_no_results_of_that_row(start):
    code, started, printed = start(broken=("liver: mg, seed 1000, trial optim.lr=0.1",))
    assert code == 1
    assert "not run: liver: mg, because its trials failed" in printed
    assert [name for name in started if name.startswith("liver: mg") and "trial" not in name] == []
    assert len([name for name in started if name.startswith("liver: moco") and "trial" not in name]) == 2


def test_two_at_once_are_refused(start, tmp_path):
    with FolderLock(tmp_path / "out", "another"):
        code, started, printed = start()
    assert (code, started) == (2, [])
    assert "another compare is at work here" in printed
    assert start()[0] == 0


def test_another_declaration_of_the_same_folder_is_noted(start):
    start()
    code, started, printed = start("seeds=[0,1,2]")
    assert code == 0
    assert "the table was declared otherwise before (seeds)" in printed
    assert len(started) == 9
    assert all("seed 2" in name for name in started)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scale=tiny"], "scale is 'tiny'; it must be full or small"),
        (["jobs=0"], "'jobs' is 0; it must be at least 1"),
        (["scale=small"], "has no part 'small'"),
        (["columns.liver.task=livr"], "task 'livr' is unknown"),
        (["columns.lungs.settings.optim.lr=fast"], "optim.lr"),
        (["root.lits="], "data.root"),
    ],
)
def test_a_wrong_request_ends_before_any_work(start, tmp_path, words, message):
    if words == ["root.lits="]:
        code = main(["compare", f"table={tmp_path / 'table.yaml'}", f"out={tmp_path / 'out'}", "root.luna=/x"])
        assert code == 2
    else:
        code, started, printed = start(*words)
        assert (code, started) == (2, [])
        assert message in printed
    assert not (tmp_path / "out").exists()


def test_no_table(capsys):
    assert main(["compare"]) == 2
    assert "table=NAME is missing; there are: anton_fig4, " in capsys.readouterr().err


# --- for real ----------------------------------------------------------------------------------------------------

REAL = """
    title: Images
    trainer: cpu
    seeds: [0, 1]
    settings:
      data: {patch_size: [32, 32], image_size: 40}
      backbone: {channels: [8, 8, 16]}
      trainer: {batch_size: 4}
    pretrain: {data: chest14, settings: {trainer: {max_steps: 2}, method: {hidden_dim: 16}}}
    rows:
      scratch: {}
      simclr: {method: simclr}
    columns:
      findings:
        task: chest14
        settings: {trainer: {max_epochs: -1, max_steps: 2, val_every_steps: 2, patience: 0, select: last},
                   task: {pictures: [0, 0, 0, 0]}}
"""


def descendants(pid):
    """Processes that a process started, and theirs."""
    started = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            started.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += started.get(one, [])
    return found[1:]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_killed_command_leaves_no_process_and_goes_on(tmp_path, shared_phantom, capsys):
    images = shared_phantom("chest14", subjects=24, seed=0)
    (tmp_path / "images.yaml").write_text(textwrap.dedent(REAL))
    words = [
        "compare",
        f"table={tmp_path / 'images.yaml'}",
        f"root.chest14={images}",
        f"out={tmp_path / 'out'}",
        "threads=1",
    ]
    command = [sys.executable, "-m", "experiments.cli", *words]
    environment = {**os.environ, "SSL_MED_QUIET": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = tmp_path / "out" / module.PROGRESS
    until = time.monotonic() + 280
    try:
        while not progress.is_file():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        workers = descendants(process.pid)  # and the process that they are forked from
        assert len(workers) >= 2
        assert main(words) == 2
        assert f"another compare is at work here (process {process.pid} on " in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    done = json.loads(progress.read_text())["done"]
    assert 1 <= done < 5
    while any(Path(f"/proc/{pid}").is_dir() for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.1)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob(SUMMARY)}
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "5 runs, " in printed
    assert "is complete" in printed
    kept = {path: time for path, time in finished.items() if json.loads(path.read_text())["status"] == "done"}
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert json.loads(progress.read_text())["done"] == 5
