"""The shipped tables: every run of every table composes, at full scale and small, and their texts are complete."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from datamodules.phantoms import msd
from experiments.comparison import plan as planning
from experiments.comparison.table import TABLES, load_table, tables

# studies of our own: no paper, no small form, for they are small
OWN = ("demo", "hippocampus", "nodule2d", "nodule2d_features")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "tables.md"
CASES = [(name, scale) for name in tables() for scale in ("full", "small") if not (scale == "small" and name in OWN)]


class AnyRoot(dict):
    """Folders by name; what is not there is an empty folder."""

    def __init__(self, folders, empty):
        super().__init__(folders)
        self.empty, self.asked = empty, set()

    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        self.asked.add(name)
        return str(self.get(name, self.empty))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Families that read their tables to know what they hold have a few cases; for the others a folder will do."""
    top = tmp_path_factory.mktemp("roots")
    (top / "nodule2d").mkdir()
    arrays = {f"{part}_images": np.zeros((2, 50, 50), np.uint8) for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": np.array([[0], [1]], np.uint8) for part in ("train", "val", "test")}
    np.savez(top / "nodule2d" / "nodule2d.npz", **arrays)
    msd.generate(top / "hippocampus", subjects=3, seed=0, size=(24, 24, 24))
    (top / "empty").mkdir()
    return AnyRoot({"nodule2d": top / "nodule2d", "hippocampus": top / "hippocampus"}, top / "empty")


@pytest.fixture(scope="module", autouse=True)
def once():
    """Tables that are like another have runs in common: each is composed once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("compose_pretrain", "compose_finetune", "compose_probe"):
            patch.setattr(planning, name, cache(getattr(planning, name)))
        yield


@pytest.fixture(scope="module")
def composed():
    """Runs that were composed already, without what cannot make a run invalid."""
    return set()


def with_one_seed(table):
    pretrain, tune = (replace(part, seeds=part.seeds[:1]) for part in (table.pretrain, table.tune))
    return replace(table, seeds=table.seeds[:1], pretrain=pretrain, tune=tune)


@pytest.mark.parametrize(
    ("name", "scale"), [pytest.param(*case, marks=pytest.mark.slow if case[1] == "full" else ()) for case in CASES]
)
def test_every_run_composes(name, scale, roots, composed, tmp_path):
    table = with_one_seed(load_table(name, [], scale=scale))
    plan = planning.Plan(name, table, out=tmp_path, roots=roots, stores={})
    trials = plan.trials()
    chosen = {(node.row, node.column): dict(node.choice) for node in trials}
    finals = plan.finals(chosen)
    assert {(node.row, node.column) for node in finals} == {(r, c) for r in table.rows for c in table.columns}
    for node in [*plan.pretrainings(), *trials, *finals]:
        words = tuple(w for w in node.overrides if not re.match(r"(init|seed|labels\.fraction)=", w))
        if (node.kind, words) in composed:
            continue
        composed.add((node.kind, words))
        config = node.config()
        assert config.kind == node.kind
        assert config.spec.patch_size
    for column in table.columns.values():
        assert all(0 < fraction <= 1 for fraction in column.fractions)
        assert list(column.fractions) == sorted(column.fractions)


@pytest.mark.parametrize("name", [name for name in OWN if load_table(name, [], scale="full").recipe])
def test_a_recipe_leaves_one_network_for_all_rows(name, roots, tmp_path):
    """Weights keep the network that they were pretrained in, so a recipe must not give rows from scratch another one."""
    table = with_one_seed(load_table(name, [], scale="full"))
    plan = planning.Plan(name, table, out=tmp_path, roots=roots, stores={})
    (pretrained, *_) = plan.pretrainings()
    scratch = next(node for node in plan.trials() if node.row == "scratch" and "recipe=strong" in node.overrides)
    found = scratch.config()
    assert found.general.recipe == "strong"
    assert found.task.augment
    assert found.backbone == pretrained.config().backbone


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_a_share_for_pretraining_is_the_same_on_both_sides(name, scale):
    table = load_table(name, [], scale=scale)
    for label, column in table.columns.items():
        mine = column.settings.get("data", {}).get("pretrain_share")
        for row, config in table.rows.items():
            if config.method:
                data, _, settings = table.origin(row, label)
                same = settings.get("data", {}).get("pretrain_share")
                assert same == mine, f"{label}, {row} on {data}"


@pytest.mark.parametrize("name", tables())
def test_texts_are_complete(name):
    table = load_table(name, [], scale="full")
    assert table.title
    assert len(table.protocol) > 100
    assert bool(table.source) == (name not in OWN)
    assert (TABLES / f"{name}.yaml").read_text().startswith("# ")
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert len(lines) == 1, f"docs/tables.md needs one line on {name}"


@pytest.mark.parametrize("name", [name for name in tables() if name not in OWN])
def test_the_small_form_is_small(name):
    full, small = (load_table(name, [], scale=scale) for scale in ("full", "small"))
    assert small.trainer == "cpu"
    assert small.protocol != full.protocol
    assert len(small.seeds) <= 3
    assert set(small.rows) <= set(full.rows), "a row that is out at full scale has come back"
    for row in small.rows.values():
        if row.method:
            for column in small.columns:
                trainer = small.origin(next(k for k, v in small.rows.items() if v is row), column)[2]["trainer"]
                assert trainer["max_epochs"] == -1
                assert trainer["max_steps"] <= 150
    for column in small.columns.values():
        assert not column.tune
        if column.protocol == "finetune" and not column.tests:
            assert column.settings["trainer"]["max_steps"] <= 100


@pytest.mark.parametrize("name", tables())
def test_published_numbers_are_in_the_unit_of_our_metrics(name):
    table = load_table(name, [], scale="full")
    for numbers in (table.published, table.published_p):
        assert all(0 < value < 1 for row in numbers.values() for value in row.values())
    for row, found in table.published_p.items():
        assert set(found) <= set(table.published[row])


@pytest.mark.parametrize("name", tables())
def test_the_docs_count_the_published_numbers(name):
    """Of every table that names a paper: how many of its cells have the paper's number, and its p."""
    table = load_table(name, [], scale="full")
    cells = len(table.rows) * sum(len(column.fractions) for column in table.columns.values())
    values, p = (sum(map(len, numbers.values())) for numbers in (table.published, table.published_p))
    said = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| table `{name}` |")]
    assert len(said) == bool(table.source)
    for line in said:
        start, _, why = line.rpartition(f"| table `{name}` | {values} of {cells} | {p} | ")
        assert (start, bool(why.strip(" |"))) == ("", True), line
        assert why != "none |" or values == cells, "cells without a number need a reason"
    assert table.source or not values
