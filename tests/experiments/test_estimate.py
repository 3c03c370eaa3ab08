"""What a table is said to cost: counts of steps, sums, limits, and the judgement afterwards."""

import json

import pytest

from experiments.cli import main
from experiments.comparison import estimate as planner
from experiments.comparison.estimate import Estimate, changed, describe, judge, within_memory
from experiments.config.run import compose_finetune, compose_pretrain
from ssl_med.spec import SslMedError

ONE = Estimate(
    steps=100, validations=3, curves=2, start=10.0, step=0.5, validation=4.0, curve=6.0, memory_mb=2048, disk_mb=512
)
TINY = ["trainer=cpu", "trainer.progress=false", "trainer.batch_size=2", "backbone.channels=[8,8,16]"]
CROPS = ["data.patch_size=[16,16,16]", "data.crops_per_volume=4"]


@pytest.fixture(scope="module")
def scans(shared_phantom):
    return shared_phantom("lits", subjects=10, seed=0, size=(32, 32, 24))


def test_seconds_of_a_run_are_those_of_its_parts():
    assert ONE.seconds == 10 + 100 * 0.5 + 3 * 4 + 2 * 6


def test_sums_of_the_plan():
    plan = {("pretrain", "moco", "", "1.0"): (2, ONE), ("final", "", "liver", "0.1"): (10, ONE)}
    text = describe(plan, jobs=2).splitlines()
    assert "final liver at 10 %" in text[2]
    hours = 12 * ONE.seconds / 3600
    assert f"{hours:7.2f}" in text[-1]
    assert f"{hours / 2:.2f} h with jobs=2, 4.0 GiB of memory, 6.00 GiB of disk" in text[-1]


def test_words_are_set_anew_or_taken_out():
    words = ("task=lits", "trainer.max_steps=500", "init=runs/x")
    assert changed(words, {"trainer.max_steps": 4, "init": None}) == ("task=lits", "trainer.max_steps=4")


def test_steps_validations_and_curve_points(scans):
    words = [f"data.root={scans}", *TINY, *CROPS]
    fine = ["task=lits", *words, "trainer.max_epochs=-1", "trainer.max_steps=100", "trainer.val_every_steps=30"]
    assert planner._rhythm(compose_finetune(fine)) == (100, 3, 0)
    curve = ["trainer.select=last", "trainer.patience=0", "trainer.test_every_steps=40"]
    assert planner._rhythm(compose_finetune([*fine, *curve])) == (100, 3, 2)
    # seven scans of ten train, of each four crops: fourteen batches of two in an epoch
    epochs = ["method=moco", "data=lits", *words, "trainer.max_steps=-1", "trainer.max_epochs=3"]
    assert planner._rhythm(compose_pretrain([*epochs, "trainer.val_every_steps=0"])) == (42, 3, 0)


def test_memory_sets_the_number_of_runs_at_a_time(tmp_path):
    assert within_memory(tmp_path, 4, 0.0) == 4
    with pytest.raises(SslMedError, match="measure it with --dry-run"):
        within_memory(tmp_path, 4, 16.0)
    (tmp_path / planner.PLAN).write_text(json.dumps({"kinds": [{"memory_mb": 6 * 1024}]}))
    assert within_memory(tmp_path, 4, 16.0) == 2
    with pytest.raises(SslMedError, match=r"one run needs 6\.0 GiB"):
        within_memory(tmp_path, 4, 4.0)


def test_the_plan_is_judged_on_the_runs_of_this_start(tmp_path):
    assert judge(tmp_path, {("final", "", "liver", "0.1"): [10.0]}) == ""
    rows = [{"kind": ["final", "", "liver", "0.1"], "seconds": 3600.0}]
    (tmp_path / planner.PLAN).write_text(json.dumps({"kinds": rows}))
    said = judge(tmp_path, {("final", "", "liver", "0.1"): [3960.0, 3960.0], ("tune", "", "liver", "1.0"): [1.0]})
    assert said == "planned 2.00 h of runs, took 2.20 h (+10 %)"


@pytest.mark.slow
def test_a_dry_run_measures_and_leaves_nothing_but_the_plan(scans, tmp_path, capsys):
    table = tmp_path / "small.yaml"
    table.write_text(
        """
        title: two rows
        trainer: cpu
        seeds: [0]
        settings:
          data: {patch_size: [16, 16, 16], crops_per_volume: 4}
          trainer: {batch_size: 2, max_steps: 20, val_every_steps: 10}
          backbone: {channels: [8, 8, 16]}
        pretrain: {data: lits}
        rows: {scratch: {}, autoencoder: {method: autoencoder}}
        columns: {liver: {task: lits}}
        """
    )
    out = tmp_path / "out"
    assert main(["compare", f"table={table}", f"root.lits={scans}", f"out={out}", "--dry-run"]) == 0
    assert "device-hours in all" in capsys.readouterr().out
    kinds = {tuple(row["kind"]): row for row in json.loads((out / planner.PLAN).read_text())["kinds"]}
    assert {kind[0] for kind in kinds} == {"pretrain", "final"}
    assert all(row["seconds"] > 0 and row["memory_mb"] > 100 for row in kinds.values())
    assert {path.name for path in out.iterdir()} == {".lock", "table.json", planner.PLAN}
