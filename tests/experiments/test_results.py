"""A table's folder, whole or not, as its report sees it."""

import json

import pytest

from experiments.commands.compare import compare, open_plan
from experiments.comparison.results import comparison_of, failures_of
from ssl_med.reports import run_folder as records
from ssl_med.reports import writing
from ssl_med.reports.writing import write_json

TABLE = """
title: Nodules
test: paired_t
trainer: cpu
pretrain: {data: medmnist, root: nodule2d, seeds: [0]}
rows: {scratch: {}, simclr: {method: simclr}}
columns:
  fine_tuning: {task: nodule2d, root: nodule2d, fractions: [0.1, 1.0], tune: {optim.lr: [0.001, 0.003]}}
  probe: {task: nodule2d, protocol: linear, root: nodule2d}
seeds: [0, 1]
tune: {fraction: 0.1, seeds: [1000]}
"""


@pytest.fixture
def words(tmp_path):
    (tmp_path / "small.yaml").write_text(TABLE)
    return [f"table={tmp_path / 'small.yaml'}", f"root.nodule2d={tmp_path}", f"out={tmp_path / 'out'}"]


def finish(plan, node, value=0.8):
    """Leaves what a finished run of a node leaves."""
    kind = node.kind
    summary = {"kind": kind, "status": "done", "seed": node.seed, "steps": 10, "seconds": 5.0, "data": "medmnist"}
    if kind != "pretrain":
        summary |= {"task": "nodule2d", "metric": "auc", "metrics": {"test/auc": value}, "n_test": 2}
        summary |= {
            "labels": {"fraction": node.fraction},
            "init": {},
            "protocol": "linear" if kind == "probe" else None,
        }
    summary |= {"method": plan.table.rows[node.row].method or None}
    writing.write_summary(plan.folder(node), summary)


def test_what_is_missing_says_why(words):
    plan, _ = open_plan(words)
    (pretraining,) = plan.pretrainings()
    trials = plan.trials()
    for trial in trials[:3]:
        finish(plan, trial, 0.7 + trial.choice[0][1])
    choices = {("scratch", "fine_tuning"): {"optim.lr": 0.003}}
    finals = plan.finals(choices)
    done = next(n for n in finals if (n.column, n.row, n.seed) == ("fine_tuning", "scratch", 1))
    finish(plan, done)
    broken = next(n for n in finals if (n.column, n.row, n.seed) == ("probe", "scratch", 0))
    comparison = comparison_of(
        plan, choices, {plan.folder(pretraining): "loss is nan", plan.folder(broken): "no memory"}
    )
    why = {(e.role, e.column, e.row, e.fraction, e.seed): e.why for e in comparison.entries if e.role != "tune"}
    assert why["pretrain", "", "simclr", 1.0, 0] == "failed: loss is nan"
    assert why["final", "fine_tuning", "scratch", 0.1, 1] == ""
    assert why["final", "fine_tuning", "scratch", 0.1, 0] == "not run yet"
    assert why["final", "probe", "scratch", 1.0, 0] == "failed: no memory"
    assert why["final", "probe", "simclr", 1.0, 0] == "its pretraining failed: loss is nan"
    lost = why["final", "fine_tuning", "simclr", 1.0, 1]
    assert lost == "no setting chosen; a trial whose pretraining failed: loss is nan"
    assert len(comparison.of("final")) == 2 * (2 * 2 + 2)  # all that were declared, chosen or not
    assert comparison.cell("fine_tuning", 0.1, "scratch").values == (0.8,)
    assert {e.chosen for e in comparison.of("final") if e.row == "scratch" and e.column == "fine_tuning"} == {
        "optim.lr 0.003"
    }


def test_the_report_alone_runs_nothing(words, tmp_path):
    plan, _ = open_plan(words)
    for trial in plan.trials():
        finish(plan, trial, 0.7 + trial.choice[0][1])
    choices = {(row, "fine_tuning"): {"optim.lr": 0.003} for row in plan.table.rows}
    for node in (*plan.pretrainings(), *plan.finals(choices)):
        finish(plan, node)
    gone = plan.folder(plan.finals(choices)[0])
    (gone / records.SUMMARY).unlink()
    write_json(plan.out / "progress.json", {"done": 1, "of": 2, "failed": {str(gone): "RunError: disk full"}})
    before = {path for path in plan.out.rglob("*") if path.is_file()}
    assert compare([*words, "--report"]) == plan.out
    made = {path.name for path in plan.out.rglob("*") if path.is_file() and path not in before}
    assert {"report.html", "report.md", "results.csv", "table.tex"} <= made
    assert all(name.endswith(".png") for name in made - {"report.html", "report.md", "results.csv", "table.tex"})
    assert "failed: RunError: disk full" in (plan.out / "report.md").read_text()


def test_the_report_knows_the_scale(words, tmp_path):
    small = tmp_path / "small.yaml"
    small.write_text(TABLE + "small: {seeds: [0]}\n")
    for scale in ("full", "small"):
        plan, _ = open_plan([*words, f"scale={scale}"])
        assert comparison_of(plan, {}, {}).design.scale == scale


def test_failures_of_a_folder_without_progress(tmp_path):
    assert failures_of(tmp_path / "progress.json") == {}
    (tmp_path / "progress.json").write_text(json.dumps({"done": 0, "of": 1}))
    assert failures_of(tmp_path / "progress.json") == {}
