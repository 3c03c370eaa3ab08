import json
import math
from pathlib import Path

import numpy as np
import pytest

from ssl_med.reports import run_folder as records
from ssl_med.reports import writing
from ssl_med.spec import SslMedError

DONE = {"kind": "finetune", "status": "done", "task": "lits", "metric": "dice", "metrics": {"test/dice": 0.5}}


def test_metrics_round_trip_with_different_keys(tmp_path):
    writing.append_metrics(tmp_path, 5, {"train/loss": 1.5, "epoch": 0})
    writing.append_metrics(tmp_path, 5, {"val/loss": np.float32(0.25)})
    writing.append_metrics(tmp_path, 10, {"train/loss": math.inf})
    lines = records.read_metrics(tmp_path)
    assert lines[0] == {"step": 5, "train/loss": 1.5, "epoch": 0}
    assert lines[1] == {"step": 5, "val/loss": 0.25}
    assert math.isnan(lines[2]["train/loss"])
    assert "NaN" not in (tmp_path / records.METRICS).read_text()
    assert records.read_metrics(tmp_path / "absent") == []


def test_half_a_line_of_a_killed_process_costs_only_itself(tmp_path):
    writing.append_metrics(tmp_path, 1, {"a": 1.0})
    with (tmp_path / records.METRICS).open("a") as file:
        file.write('{"step": 2, "a"')
    assert [line["step"] for line in records.read_metrics(tmp_path)] == [1]
    writing.append_metrics(tmp_path, 3, {"a": 3.0})
    assert [line["step"] for line in records.read_metrics(tmp_path)] == [1, 3]


def test_a_resumed_run_overwrites_what_it_repeats(tmp_path):
    for step, value in [(1, 1.0), (2, 2.0), (2, 2.5), (3, 3.0), (4, 4.0), (3, 30.0), (4, 40.0), (5, 50.0)]:
        writing.append_metrics(tmp_path, step, {"a": value})
    assert [(line["step"], line["a"]) for line in records.read_metrics(tmp_path)] == [
        (1, 1.0), (2, 2.0), (2, 2.5), (3, 30.0), (4, 40.0), (5, 50.0)
    ]  # fmt: skip


def test_summary_is_strict_json_and_replaced_at_once(tmp_path, monkeypatch):
    values = {
        "kind": "pretrain",
        "status": "done",
        "x": np.float32(0.5),
        "y": (1, np.int64(2)),
        "z": math.nan,
    }
    writing.write_summary(tmp_path, {**values, "path": Path("a/b"), "array": np.arange(2)})
    text = (tmp_path / records.SUMMARY).read_text()
    assert json.loads(text) == {
        "format": 1, "kind": "pretrain", "status": "done", "x": 0.5, "y": [1, 2], "z": None, "path": "a/b",
        "array": [0, 1],
    }  # fmt: skip

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(writing.os, "replace", fail)
    with pytest.raises(SslMedError, match=r"summary\.json: disk full"):
        writing.write_summary(tmp_path, {"kind": "finetune"})
    assert (tmp_path / records.SUMMARY).read_text() == text
    with pytest.raises(TypeError, match="object has no place"):
        writing.write_json(tmp_path / "x.json", object())


def test_cases_round_trip(tmp_path):
    rows = [{"case": "007", "dice": 0.5}, {"dice": np.float64(0.25), "case": "a,b", "dice/liver": 1}]
    writing.write_cases(tmp_path, rows)
    back = records.read_cases(tmp_path)
    assert (tmp_path / records.CASES).read_text().splitlines()[0] == "case,dice,dice/liver"
    assert back[0]["case"] == "007"
    assert math.isnan(back[0]["dice/liver"])
    assert back[1] == {"case": "a,b", "dice": 0.25, "dice/liver": 1.0}


def test_read_run(tmp_path):
    writing.write_summary(
        tmp_path,
        {**DONE, "seed": 3, "method": "pcrl", "labels": {"fraction": 0.3}, "init": {"card": {"seed": 1}}},
    )
    run = records.read_run(tmp_path)
    assert (run.problem, run.kind, run.method, run.task, run.seed) == ("", "finetune", "pcrl", "lits", 3)
    assert (run.fraction, run.value, run.card) == (0.3, 0.5, {"seed": 1})
    assert (run.curve, run.cases, run.figures) == ([], [], [])


@pytest.mark.parametrize(
    ("summary", "reason"),
    [
        ({**DONE, "status": "interrupted", "steps": 12}, "interrupted at step 12"),
        ({**DONE, "metrics": {"test/dice": None}}, "test dice is undefined"),
        ({**DONE, "task": None}, "names no task"),
        ({**DONE, "format": 2}, "has format 2; this version reads format 1"),
        ({"status": "done"}, "names no kind"),
    ],
)
def test_what_cannot_count_says_why(tmp_path, summary, reason):
    writing.write_summary(tmp_path, summary)
    assert reason in records.read_run(tmp_path).problem


def test_find_runs_reports_the_broken_and_the_unfinished(tmp_path):
    good, torn, running, killed = (tmp_path / name for name in ("a/good", "b/torn", "b/running", "b/killed"))
    for folder in (good, torn, running, killed):
        folder.mkdir(parents=True)
    writing.write_summary(good, DONE)
    (good / "wandb" / "files").mkdir(parents=True)
    (good / "wandb" / "files" / "config.yaml").write_text("x: 1")  # part of the run, not another run
    (torn / records.SUMMARY).write_text('{"kind": "fine')
    writing.append_metrics(running, 7, {"a": 1.0})
    (killed / records.CONFIG).write_text("x: 1")
    runs = {run.name: run.problem for run in records.find_runs([tmp_path, tmp_path / "a"])}
    assert runs["good"] == ""
    assert "summary.json is not valid JSON" in runs["torn"]
    assert "last logged step 7" in runs["running"]
    assert "no step logged" in runs["killed"]
    assert len(runs) == 4
    with pytest.raises(SslMedError, match="no such folder of runs"):
        records.find_runs([tmp_path / "none"])
