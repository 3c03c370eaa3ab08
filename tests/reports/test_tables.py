import csv
import io
import math
from statistics import stdev

import pytest
from report_samples import write_finetune, write_pretrain

from ssl_med.reports.loose_runs import comparison_of_runs
from ssl_med.reports.numbers.cells import Cell
from ssl_med.reports.numbers.fairness import pretrain_warnings
from ssl_med.reports.render import csv as results
from ssl_med.reports.run_folder import find_runs


def only(root):
    """The runs of the only column."""
    (runs,) = comparison_of_runs(find_runs([root])).column_runs.values()
    return runs


def test_cell():
    cell = Cell((0.5, 0.6, 0.9))
    assert cell.mean == pytest.approx(2 / 3)
    assert cell.sd == pytest.approx(stdev([0.5, 0.6, 0.9]))
    assert str(cell) == "0.667 ± 0.208"
    assert str(Cell((0.5,))) == "0.500"
    assert str(Cell()) == "—"
    assert math.isnan(Cell((0.5,)).sd)


def test_rows_and_columns(run_folders):
    table = only(run_folders)
    assert table.rows == ("scratch", "models_genesis", "pcrl")
    assert table.fractions == (0.2, 1.0)
    cell = table.cell("pcrl", 0.2)
    assert cell.n == 2
    assert cell.mean == pytest.approx(0.75)
    assert cell.sd == pytest.approx(stdev([0.74, 0.76]))
    assert table.budget(0.2) == "20 % (2 of 10)"
    assert table.n_test == "3"
    assert table.warnings == ()
    assert table.further_metrics == []  # one region, equal to the mean over regions


def test_a_row_is_best_only_where_it_is_told_apart_from_all_others(tmp_path):
    for fraction, seeds in ((0.2, 6), (1.0, 3)):
        for method, mean in (("scratch", 0.5), ("pcrl", 0.7)):
            for seed in range(seeds):
                write_finetune(tmp_path, method, fraction=fraction, seed=seed, values=[mean + 0.01 * seed])
    comparison = comparison_of_runs(find_runs([tmp_path]))
    assert [comparison.best("lits", x) for x in (0.2, 1.0)] == ["pcrl", ""]  # three sign flips tell nothing apart
    write_finetune(tmp_path, "pcrl", fraction=0.2, seed=6, values=[0.7])
    assert comparison_of_runs(find_runs([tmp_path])).best("lits", 0.2) == ""  # not the same seeds


def test_what_rows_do_not_share_is_listed(tmp_path):
    both = {"fraction": 1.0, "seed": 0}
    write_finetune(
        tmp_path, "scratch", **both, values=[0.5, 0.6],
        config={"trainer": {"max_steps": 60, "batch_size": 8, "progress": False}, "optim": {"lr": 0.01}, "family": "voco"},
    )  # fmt: skip
    write_finetune(tmp_path, "pcrl", **both, values=[0.5], backbone={"name": "unet", "channels": [8, 16]})
    write_finetune(tmp_path, "moco", **both, values=[0.5, 0.6], card={"steps": 999})
    warnings = only(tmp_path).warnings
    assert "trainer.batch_size differs: 4 (moco, pcrl); 8 (scratch)" in warnings
    assert "optim.lr differs: 0.003 (moco, pcrl); 0.01 (scratch)" in warnings
    assert "backbone.channels differs: [8, 16, 32, 64] (moco, scratch); [8, 16] (pcrl)" in warnings
    assert "pretraining steps differs: 999 (moco); 120 (pcrl)" in warnings
    assert "the test cases are not the same: 2 cases (moco, scratch); 1 cases (pcrl)" in warnings
    # what a row starts from is what it is
    assert not [line for line in warnings if "progress" in line or "family" in line]


def test_seeds_and_budgets_are_compared_within_a_column(tmp_path):
    short = {"trainer": {"max_steps": 30}}
    for method in ("scratch", "pcrl"):
        write_finetune(tmp_path, method, fraction=0.2, seed=0, values=[0.5], config=short)
        write_finetune(tmp_path, method, fraction=1.0, seed=0, values=[0.5])
    assert only(tmp_path).warnings == ()  # all rows change in the same way
    write_finetune(tmp_path, "pcrl", fraction=0.2, seed=1, values=[0.5], config=short)
    assert only(tmp_path).warnings == ("seeds differ: pcrl 0, 1; scratch 0 (at 20 % labels)",)
    folder = write_finetune(tmp_path / "again", "pcrl", fraction=0.2, seed=1, values=[0.5], config=short)
    (runs,) = comparison_of_runs(find_runs([tmp_path, folder])).column_runs.values()
    warnings = runs.warnings
    assert "pcrl has seed 1 more than once; its mean counts all (at 20 % labels)" in warnings


def test_unrecorded_settings_are_admitted(tmp_path):
    write_finetune(tmp_path, "scratch", fraction=1.0, seed=0, values=[0.5])
    folder = write_finetune(tmp_path, "pcrl", fraction=1.0, seed=0, values=[0.5])
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace('"config"', '"settings"'))
    assert "settings of 1 runs are not recorded in summary.json and were not compared" in only(tmp_path).warnings


def test_one_method_pretrained_in_two_ways_has_two_rows(tmp_path):
    write_finetune(tmp_path / "a", "pcrl", fraction=1.0, seed=0, values=[0.5])
    write_finetune(tmp_path / "b", "pcrl", fraction=1.0, seed=0, values=[0.7], card={"steps": 200, "seed": 1})
    comparison = comparison_of_runs(find_runs([tmp_path]))
    assert comparison.design.rows == ("pcrl (steps 120)", "pcrl (steps 200)")
    assert comparison.cell("lits", 1.0, "pcrl (steps 200)").values == (0.7,)
    assert [comparison.method(row) for row in comparison.design.rows] == ["pcrl", "pcrl"]
    assert len({look.color for look in comparison.styles.values()}) == 2


def test_tasks_data_sets_metrics_and_protocols_are_columns(tmp_path):
    write_finetune(tmp_path / "a", "pcrl", fraction=1.0, seed=0, values=[0.5])
    write_finetune(tmp_path / "b", "pcrl", fraction=1.0, seed=0, values=[0.7], data="other")
    write_finetune(tmp_path / "c", "pcrl", fraction=1.0, seed=0, values=[0.7], metric="auc", metrics={"test/auc": 0.8})
    write_finetune(tmp_path / "d", "pcrl", fraction=1.0, seed=0, values=[0.7], kind="probe", protocol="knn")
    comparison = comparison_of_runs(find_runs([tmp_path]))
    labels = [column.label for column in comparison.design.columns]
    assert labels == ["lits", "lits, dice", "lits, knn", "lits on other"]
    assert [comparison.metric(label) for label in labels] == ["auc", "dice", "dice", "dice"]
    assert [runs.title for runs in comparison.column_runs.values()] == ["lits", "lits", "lits, knn", "lits on other"]
    assert comparison.cell("lits on other", 1.0, "pcrl").values == (0.7,)


def test_loose_probes_that_repeat_one_another_count_once(tmp_path):
    """One pretraining, all labels: a probe draws nothing anew, so its second seed is no second run."""
    for seed in (0, 1):
        known = {"fraction": 1.0, "seed": seed, "values": [0.7], "kind": "probe", "protocol": "knn"}
        write_finetune(tmp_path / "one", "pcrl", **known, card={"seed": 0})
        write_finetune(tmp_path / "two", "moco", **known, card={"seed": seed})
    comparison = comparison_of_runs(find_runs([tmp_path]))
    cells = {row: comparison.cell("lits, knn", 1.0, row).n for row in comparison.design.rows}
    assert cells == {"pcrl": 1, "moco": 2}
    assert comparison.repeated("lits, knn", 1.0, "pcrl") == 1


def test_pretraining_budgets_are_compared(tmp_path):
    write_pretrain(tmp_path, "pcrl", steps=100)
    write_pretrain(tmp_path, "moco", steps=200)
    assert pretrain_warnings(find_runs([tmp_path])) == ["trainer.max_steps differs: 200 (moco); 100 (pcrl)"]


def test_results_csv_has_one_row_per_run_and_keeps_the_broken(run_folders):
    rows = list(csv.DictReader(io.StringIO(results.text(comparison_of_runs(find_runs([run_folders]))))))
    assert len(rows) == 2 + 12 + 1
    by_name = {row["folder"].rsplit("/", 1)[-1]: row for row in rows}
    row = by_name["pcrl-0.2-seed1"]
    assert float(row["value"]) == pytest.approx(0.76)
    assert (row["label_fraction"], row["label_subjects"], row["pretrain_seed"]) == ("0.2", "2", "0")
    assert "last logged step 7" in by_name["killed"]["problem"]
    assert by_name["killed"]["value"] == ""
    assert by_name["pcrl"]["label_fraction"] == ""
    assert (row["role"], row["row"], row["column"]) == ("final", "pcrl", "lits")
    assert (by_name["killed"]["role"], by_name["killed"]["missing_because"]) == ("unused", by_name["killed"]["problem"])
