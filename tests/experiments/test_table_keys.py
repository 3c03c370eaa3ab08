"""Every key of a table does something: it changes the runs or the report, or it is refused."""

import hashlib
import textwrap
import typing
from dataclasses import fields, is_dataclass

import pytest

from experiments.comparison.plan import Plan, PlannedRun
from experiments.comparison.results import comparison_of
from experiments.comparison.table import TableConfig, load_table
from ssl_med.reports import page
from ssl_med.reports.sections import head, overview, published, ranks, results, results_speed
from ssl_med.reports.writing import write_summary
from ssl_med.spec import SslMedError

pytestmark = pytest.mark.slow  # the whole file takes tens of seconds; CI runs it

TABLE = """
    title: A table
    trainer: cpu
    seeds: [0, 1, 2]
    settings: {data: {patch_size: [16, 16, 16]}}
    pretrain: {data: lits, seeds: [5, 6], settings: {trainer: {max_steps: 3}}}
    rows:
      scratch: {}
      mg: {method: models_genesis}
    columns:
      liver: {task: lits, fractions: [0.5, 1.0], tune: {optim.lr: [0.001, 0.01]}, series: cut}
      organ: {task: lits, settings: {trainer: {max_steps: 7}}, series: cut}
      far: {task: lits, tests: organ}
      lungs: {task: luna, protocol: linear}
    tune: {fraction: 0.5}
"""
ROOTS = {"lits": "/data/lits", "luna": "/data/luna", "ct": "/data/ct"}
OTHER = {
    "title": "title=Another",
    "source": "source=A paper",
    "protocol": "protocol=Fixed before",
    "baseline": "baseline=mg",
    "test": "test=wilcoxon",
    "seeds": "seeds=[0,1]",
    "trainer": "trainer=gpu",
    "recipe": "recipe=strong",
    "settings": "settings.data.patch_size=[8,8,8]",
    "pretrain.seeds": "pretrain.seeds=[5]",
    "pretrain.data": "pretrain.data=luna",
    "pretrain.root": "pretrain.root=ct",
    "pretrain.settings": "pretrain.settings.trainer.max_steps=4",
    "rows.NAME.method": "rows.mg.method=moco",
    "rows.NAME.init": "rows.scratch.init=/weights",
    "rows.NAME.family": 'rows.scratch={"init": "/weights", "family": "torchvision"}',
    "rows.NAME.data": "rows.mg.data=luna",
    "rows.NAME.root": "rows.mg.root=ct",
    "rows.NAME.settings": "rows.mg.settings.trainer.max_steps=4",
    "rows.NAME.transfer": "rows.mg.transfer.optim.lr=0.1",
    "columns.NAME.task": "columns.organ.task=lits_liver",
    "columns.NAME.protocol": "columns.lungs.protocol=knn",
    "columns.NAME.tests": "columns.far.tests=liver",
    "columns.NAME.metric": "columns.liver.metric=hd95_mm",
    "columns.NAME.settings": "columns.organ.settings.trainer.max_steps=8",
    "columns.NAME.root": "columns.lungs.root=ct",
    "columns.NAME.fractions": "columns.organ.fractions=[0.5]",
    "columns.NAME.tune": "columns.organ.tune.seed=[1,2]",
    "columns.NAME.pretrain.data": "columns.organ.pretrain.data=luna",
    "columns.NAME.pretrain.root": "columns.organ.pretrain.root=ct",
    "columns.NAME.pretrain.settings": "columns.organ.pretrain.settings.trainer.max_steps=4",
    "columns.NAME.series": "columns.liver.series=alone",
    "tune.share": "tune.share=0.3",
    "tune.fraction": "tune.fraction=1.0",
    "tune.seeds": "tune.seeds=[7]",
    "published": "published.mg.organ=0.7",
    "published_p": "published_p.mg.organ=0.04",
    "collapsed_below": "collapsed_below=0.6",
}


def keys(config, prefix=""):
    """Every key of a declaration, those of its parts too; NAME stands for what the user names."""
    hints = typing.get_type_hints(config)
    for field in fields(config):
        kind, key = hints[field.name], f"{prefix}{field.name}"
        values = typing.get_args(kind)[-1:] if typing.get_origin(kind) is dict else ()
        if is_dataclass(kind):
            yield from keys(kind, f"{key}.")
        elif values and is_dataclass(values[0]):
            yield from keys(values[0], f"{key}.NAME.")
        else:
            yield key


class Plain:
    """Of a resolved config what names its folder."""

    def __init__(self, overrides):
        self.name, self.overrides = "run", overrides

    def hash(self, *, planned=False):
        return hashlib.sha256(" ".join(self.overrides).encode()).hexdigest()[:8]


@pytest.fixture
def effect(tmp_path, monkeypatch):
    """Overrides of the table's command line -> runs that it needs, and what its report says of their results."""
    monkeypatch.setattr(PlannedRun, "config", lambda node: Plain(node.overrides))
    drawing = [(module, "traces") for module in (results, results_speed, overview)]
    for module, name in (*drawing, (ranks, "rank_plot"), (published, "scatter")):
        monkeypatch.setattr(module, name, lambda *drawn, **words: repr((drawn, words)))
    path = tmp_path / "table.yaml"
    path.write_text(textwrap.dedent(TABLE))

    def found(*overrides):
        table = load_table(str(path), overrides, scale="full")
        plan = Plan("table", table, out=tmp_path, roots=ROOTS, stores={})
        choices = {(row, name): {} for row in table.rows for name, column in table.columns.items() if column.tune}
        nodes = [*plan.pretrainings(), *plan.trials(), *plan.finals(choices)]
        for node in nodes:
            dice = 0.5 + 0.2 * (node.row == "mg") * node.fraction + 0.01 * (node.seed % 5) ** 2
            metrics = {"test/dice": dice, "test/hd95_mm": 9 - dice, "in_domain/dice": 0.9, "in_domain/hd95_mm": 5.0}
            result = {"task": "lits", "metric": "dice", "metrics": metrics, "seed": node.seed, "steps": 10}
            labels = {"labels": {"fraction": node.fraction}}
            plan.folder(node).mkdir(parents=True, exist_ok=True)
            write_summary(plan.folder(node), {"kind": node.kind, "status": "done", **result, **labels})
        comparison = comparison_of(plan, choices, {})
        said = comparison.design.title, head.lead(comparison), page.sections_of(comparison)
        assert "Figure" not in repr(said), "a figure's text is its address, so it differs always"
        return [node.overrides for node in nodes], repr(said)

    return found


def test_every_key_has_another_value_here():
    assert sorted(keys(TableConfig)) == sorted(OTHER), "give the new key another value in OTHER"


@pytest.mark.parametrize("key", OTHER)
def test_a_key_changes_the_runs_or_the_report_or_is_refused(effect, key):
    before = effect()
    assert effect() == before
    try:
        after = effect(OTHER[key])
    except SslMedError as refused:
        after = str(refused)
    assert after != before


def test_metric_and_published_numbers_stand_where_the_reader_looks(effect):
    said = effect("columns.organ.metric=hd95_mm", "published.mg.organ=8.1", "published_p.mg.organ=0.04")[1]
    assert "test hd95_mm (lower is better)" in said
    assert "Field(text='8.1', aside='p 0.04'" in said
    assert "'published p', 'our p'" in said
    assert "Field(text='8.283', aside='± 0.021" in said  # 9 - 0.7 - the mean of 0, 0.01 and 0.04
