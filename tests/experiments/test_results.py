"""A table's folder, whole or not, as its report sees it."""

import json

import pytest

from experiments.commands.compare import compare, open_plan
from experiments.comparison.results import comparison_of, failures_of
from ssl_med.reports import run_folder as records
from ssl_med.reports import writing
from ssl_med.reports.numbers.wording import missing_lines
from ssl_med.reports.sections.features import correlations_of
from ssl_med.reports.writing import write_json
from ssl_med.spec import SslMedError

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


def test_an_analysis_of_features_is_a_column_without_a_score_that_is_related_to_the_scores(tmp_path):
    methods = ("simclr", "moco", "byol")
    rows = "".join(f", {name}: {{method: {name}}}" for name in methods)
    table = TABLE.replace(", simclr: {method: simclr}", rows)
    table = table.replace(
        "  probe: {",
        "  rank: {task: medmnist, protocol: features/spectrum, root: nodule2d, settings: {features: {min_images: 9}}}\n"
        "  probe: {",
    )
    (tmp_path / "small.yaml").write_text(table)
    plan, _ = open_plan([f"table={tmp_path / 'small.yaml'}", f"root.nodule2d={tmp_path}", f"out={tmp_path / 'out'}"])
    finals = plan.finals({})  # those of the fine-tuning wait for their trials
    looked_at = [node for node in finals if node.kind == "features"]
    assert {node.column for node in looked_at} == {"rank"}
    assert len(looked_at) == 4 * 2
    for node in looked_at:
        assert "kind=spectrum" in node.overrides
        assert "data=medmnist" in node.overrides
        assert "features.min_images=9" in node.overrides
    ranks = {"scratch": 1.0, "simclr": 2.0, "moco": 3.0, "byol": 4.0}
    for node in (*plan.pretrainings(), *finals):
        if node.kind != "features":
            finish(plan, node, 0.5 + ranks[node.row] / 10)
            continue
        summary = {"kind": "features", "status": "done", "seed": node.seed, "data": "medmnist", "analysis": "spectrum"}
        numbers = {"level1/effective_rank": ranks[node.row] + node.seed}  # mean over seeds: rank + 0.5
        writing.write_summary(plan.folder(node), {**summary, "method": node.row, "metrics": numbers})
    gone = next(plan.folder(node) for node in looked_at if (node.row, node.seed) == ("byol", 1))
    told = (gone / records.SUMMARY).read_text()
    (gone / records.SUMMARY).unlink()
    assert "1 feature run (byol, seed 1): no summary.json" in "; ".join(
        missing_lines(comparison_of(plan, {}, {}).missing)
    )
    (gone / records.SUMMARY).write_text(told)
    comparison = comparison_of(plan, {}, {})
    assert {entry.row for entry in comparison.of("features")} == set(ranks)
    assert "rank" not in {column.label for column in comparison.design.columns}
    (found,) = correlations_of(comparison)
    assert (found.networks, found.x) == (("scratch", "simclr", "moco", "byol"), (1.5, 2.5, 3.5, 4.5))
    assert found.spearman.estimate == pytest.approx(1)
    compare([*[f"table={tmp_path / 'small.yaml'}", f"root.nodule2d={tmp_path}", f"out={tmp_path / 'out'}"], "--report"])
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| level1/effective_rank | 1.5 | 2.5 | 3.5 | 4.5 |" in page
    assert "Features and transfer" in page


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            "{task: medmnist, protocol: features/spectrum, metric: auc}",
            "has no score to choose by; leave metric and tune out",
        ),
        ("{task: medmnist, protocol: features/spectrum, fractions: [0.1]}", "leave fractions out"),
        ("{task: medmnist, protocol: features/spectra}", "did you mean 'spectrum'"),
    ],
)
def test_wrong_columns_of_features_are_refused(tmp_path, column, message):
    (tmp_path / "t.yaml").write_text(TABLE.replace("columns:\n", f"columns:\n  rank: {column}\n"))
    with pytest.raises(SslMedError, match=message):
        open_plan([f"table={tmp_path / 't.yaml'}", f"root.nodule2d={tmp_path}", f"root.medmnist={tmp_path}"])
