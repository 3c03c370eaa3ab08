"""Declarations and the runs that they expand to; nothing is trained."""

import textwrap
from itertools import product
from typing import Any

import pytest

from experiments.commands.compare import check
from experiments.comparison.overrides import family_of, flatten, grid
from experiments.comparison.plan import Plan, root_names
from experiments.comparison.table import load_table, tables
from experiments.comparison.trees import merge
from ssl_med.reports.writing import write_summary
from ssl_med.spec import SslMedError

BASE = """
    title: A table
    trainer: cpu
    seeds: [0, 1, 2]
    settings: {data: {patch_size: [16, 16, 16]}, backbone: {channels: [8, 8, 16]}}
    pretrain: {data: lits, seeds: [5, 6], settings: {trainer: {max_steps: 3}}}
    rows:
      scratch: {}
      mg: {method: models_genesis}
      wide: {method: models_genesis, settings: {trainer: {max_steps: 4}}, transfer: {transfer: {decoder: "false"}}}
    columns:
      liver:
        task: lits
        fractions: [0.5, 1.0]
        settings: {trainer: {max_steps: 2}}
        tune: {optim.lr: [0.001, 0.01]}
      lungs: {task: luna, protocol: linear, root: ct}
    tune: {share: 0.25, fraction: 0.5, seeds: [1000]}
"""
ROOTS = {"lits": "/data/lits", "luna": "/data/luna", "ct": "/data/ct", "chest14": "/data/chest14"}


@pytest.fixture
def load(tmp_path):
    """Writes a yaml and loads it."""

    def loaded(text=BASE, *words, scale="full", name="table.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return load_table(str(path), words, scale=scale)

    return loaded


def matrix_of(table, out, roots=ROOTS, stores=None):
    return Plan("table", table, out=out, roots=roots, stores=stores or {})


def more(text):
    """The base with further lines at its top level."""
    return textwrap.dedent(BASE) + textwrap.dedent(text)


def words_of(node):
    return dict(word.split("=", 1) for word in node.overrides)


# --- small pieces ------------------------------------------------------------------------------------------------


def test_grid_is_every_combination_in_the_order_given():
    assert list(grid({})) == [()]
    assert list(grid({"a": [1, 2], "b": ["x", "y"]})) == [
        (("a", 1), ("b", "x")),
        (("a", 1), ("b", "y")),
        (("a", 2), ("b", "x")),
        (("a", 2), ("b", "y")),
    ]


def test_merge_goes_key_by_key_and_changes_neither_side():
    below, above = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2], "e": None}
    assert merge(below, above) == {"a": {"b": 1, "c": 3}, "d": [2], "e": None}
    assert below == {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merge({"a": {"b": 1}}, {"a": 5}) == {"a": 5}


def test_flatten_spells_values_so_that_they_are_read_back():
    from ssl_med.config import parse_overrides
    from ssl_med.values import convert

    tree = {"a": {"b": [1, 2], "c": "off", "d": True, "e": None}, "f": 1e-5, "g": "x: y, [z]"}
    assert flatten(tree)[0] == "a.b=[1, 2]"
    read = parse_overrides(flatten(tree)).tree
    assert {key: convert(Any, text) for key, text in read["a"].items()} == tree["a"]
    assert (convert(float, read["f"]), convert(str, read["g"])) == (tree["f"], tree["g"])


def test_a_number_of_a_table_is_no_text(load, tmp_path):
    """Yaml made 1.1 of an unquoted 1.10 before anybody knew that a text is asked for."""
    change = "pretrain: {data: lits, seeds: [5, 6], settings: {tracking: {project: %s}}}"
    start = "pretrain: {data: lits, seeds: [5, 6], settings: {trainer: {max_steps: 3}}}"
    quoted = matrix_of(load(BASE.replace(start, change % "'1.10'")), tmp_path).pretrainings()[0]
    assert quoted.config().tracking.project == "1.10"
    with pytest.raises(SslMedError, match=r"tracking.project is 1.1 in the table; it must be text: put it in quotes$"):
        matrix_of(load(BASE.replace(start, change % "1.10")), tmp_path).pretrainings()


def test_family_of_a_task():
    assert family_of("hippocampus") == "msd"
    with pytest.raises(SslMedError, match="task 'lit' is unknown; did you mean"):
        family_of("lit")


# --- the file ----------------------------------------------------------------------------------------------------


def test_small_and_words_are_laid_over_and_null_takes_out(load):
    text = more("""
        published: {mg: {liver: 0.5, liver@0.5: 0.4}, wide: {lungs: 0.9}}
        small:
          seeds: [0]
          rows: {wide: null}
          columns: {liver: {tune: null, fractions: [1.0]}}
    """)
    full, small = load(text), load(text, scale="small")
    assert full.published == {"mg": {"liver": 0.5, "liver@0.5": 0.4}, "wide": {"lungs": 0.9}}
    assert small.seeds == (0,)
    assert list(small.rows) == ["scratch", "mg"]
    assert small.columns["liver"].tune == {}
    assert small.columns["liver"].settings == full.columns["liver"].settings
    assert small.published == {"mg": {"liver": 0.5}}
    words = load(text, "columns.lungs=null", "columns.liver.settings.trainer.max_steps=7")
    assert list(words.columns) == ["liver"]
    assert words.columns["liver"].settings == {"trainer": {"max_steps": 7}}
    assert words.published == {"mg": {"liver": 0.5, "liver@0.5": 0.4}}


def test_a_column_varies(load):
    text = BASE.replace(
        "lungs: {task: luna, protocol: linear, root: ct}",
        """lungs:
        task: luna
        protocol: linear
        fractions: [0.5]
        settings: {probe: {max_iter: 10}}
        vary:
          "9:1": {settings: {data: {pretrain_share: 0.9}}}
          few: {settings: {labels: {shots: 2}}, fractions: [1.0]}""",
    )
    table = load(text)
    assert list(table.columns) == ["liver", "lungs 9:1", "lungs few"]
    assert table.columns["lungs 9:1"].settings == {"probe": {"max_iter": 10}, "data": {"pretrain_share": 0.9}}
    assert table.columns["lungs 9:1"].fractions == (0.5,)
    assert [column.series for column in table.columns.values()] == ["", "lungs", "lungs"]
    assert table.columns["lungs few"].fractions == (1.0,)
    assert list(load(text, "columns.lungs.vary.few=null").columns) == ["liver", "lungs 9:1"]


def test_a_table_is_like_another(load, tmp_path):
    load(more("published: {mg: {liver: 0.5, lungs: 0.6}}\nsmall: {seeds: [4]}\n"), name="first.yaml")
    text = f"like: {tmp_path / 'first.yaml'}\ntitle: Second\nrows: {{wide: null}}\ncolumns: {{lungs: null}}\n"
    table = load(text, name="second.yaml")
    assert table.title == "Second"
    assert list(table.rows) == ["scratch", "mg"]
    assert table.published == {"mg": {"liver": 0.5}}
    assert load(text, scale="small", name="second.yaml").seeds == (4,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1, 2]", "seeds: []", "the table has no seeds"),
        ("trainer: cpu", "baseline: scrath", "baseline 'scrath' is no row; did you mean 'scratch'"),
        ("mg: {method: models_genesis}", "mg: {family: voco}", "rows.mg: has a family and no init"),
        ("settings: {data", "settings: {trainer: {progress: false}, data", "settings.trainer.progress: leave it out, a table"),
        ("settings: {trainer: {max_steps: 2}}", "settings: {tracking: {table: x}}", "settings.tracking.table: leave it"),
        ("settings: {trainer: {max_steps: 4}}", "settings: {seed: 4}", "rows.wide.settings.seed: give seeds"),
        ("settings: {trainer: {max_steps: 4}}", "settings: {init: x}", "rows.wide.settings.init: say rows.NAME.init"),
        ("transfer: {transfer", "transfer: {labels: {fraction: 0.5}, transfer", "labels.fraction: say columns.NAME.fractions"),
        ("settings: {trainer: {max_steps: 3}}", 'settings: {"data.root": /x}', "pretrain.settings.data.root: give root.N"),
        ("tune: {optim.lr: [0.001, 0.01]}", "tune: {out: [a, b]}", "columns.liver.tune.out: give out=DIR"),
        ("mg: {method: models_genesis}", "mg: {init: x, family: vocco}", "rows.mg.family: 'vocco' is unknown; did you"),
        ("pretrain: {data: lits, seeds", "pretrain: {seeds", "rows.mg: is pretrained, and pretrain.data names no data set"),
        ("seeds: [5, 6]", "seeds: []", "pretrain.seeds is empty"),
        ("fractions: [0.5, 1.0]", "fractions: []", "columns.liver.fractions is empty"),
        ("optim.lr: [0.001, 0.01]", "optim.lr: []", "columns.liver.tune.optim.lr is empty"),
        ("protocol: linear,", "protocol: pretext_rotation, fractions: [0.5],", "pretext_rotation trains on no labels"),
        ("title: A table", "titel: A table", "key 'titel' is unknown"),
        ("title: A table", "published: {mmg: {liver: 1}}", "published.mmg is no row; did you mean 'mg'"),
        ("title: A table", "published: {mg: {livr: 1}}", "published.mg: 'livr' is no column; did you mean 'liver'"),
        ("title: A table", "published: {mg: {liver@0.3: 1}}", "'liver@0.3' is no column"),
        ("title: A table", "published_p: {mg: {lung: 1}}", "published_p.mg: 'lung' is no column"),
        ("lungs: {task: luna, protocol: linear", "away: {task: lits, tests: livr", "'livr' is no column; did you mean 'liver'"),
        ("lungs: {", "away: {task: lits, tests: lungs}\n      lungs: {", "'lungs' trains no network"),
        ("protocol: linear,", "tests: liver, protocol: linear,", "tests what 'liver' trained; protocol, tune, "),
        ("protocol: linear,", "tests: liver, fractions: [0.5],", "tests what 'liver' trained; protocol, tune, "),
        ("protocol: linear,", "tests: liver, tune: {optim.lr: [1]},", "tests what 'liver' trained; protocol, tune, "),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_one_line(load, old, new, message):
    assert old in BASE
    with pytest.raises(SslMedError) as caught:
        load(BASE.replace(old, new, 1))
    assert message in str(caught.value)
    assert str(caught.value).startswith("tables/table.yaml: ")


def test_an_unknown_table_and_a_missing_small_part(load):
    with pytest.raises(SslMedError, match="table 'hipocampus' is unknown; did you mean 'hippocampus'"):
        load_table("hipocampus", [], scale="full")
    with pytest.raises(SslMedError, match="has no part 'small'; leave scale=small out"):
        load(scale="small")
    assert {"hippocampus", "nodule2d", "pcrl_table4b"} <= set(tables())


# --- the runs ----------------------------------------------------------------------------------------------------


def test_pretrainings_are_shared_and_come_seed_by_seed(load, tmp_path):
    text = BASE.replace("wide: {", "again: {method: models_genesis}\n      wide: {")
    plan = matrix_of(load(text), tmp_path)
    found = plan.pretrainings()
    assert [(node.row, node.seed, node.column) for node in found] == [
        ("mg", 5, ""), ("wide", 5, ""), ("mg", 6, ""), ("wide", 6, "")]  # fmt: skip
    assert words_of(found[0])["data.root"] == "'/data/lits'"
    assert len({plan.folder(node) for node in found}) == 4
    needed = {plan.folder(need) for node in plan.finals({}) for need in node.needs}
    assert needed <= {plan.folder(node) for node in found}


def test_finals_start_from_the_pretraining_of_their_seed(load, tmp_path):
    plan = matrix_of(load(), tmp_path)
    finals = plan.finals({("mg", "liver"): {"optim.lr": 0.01}})
    runs = [node for node in finals if (node.row, node.column, node.fraction) == ("mg", "liver", 0.5)]
    assert [(node.seed, node.needs[0].seed) for node in runs] == [(0, 5), (1, 6), (2, 5)]
    assert [words_of(node)["init"] for node in runs] == [str(plan.folder(node.needs[0])) for node in runs]
    assert words_of(runs[0])["optim.lr"] == "0.01"
    assert words_of(runs[0])["labels.fraction"] == "0.5"
    # a column with settings to choose waits for the choice of each row; one without does not
    assert {(node.row, node.column) for node in finals} == {
        ("mg", "liver"), ("scratch", "lungs"), ("mg", "lungs"), ("wide", "lungs")}  # fmt: skip
    assert [node.seed for node in finals] == sorted(node.seed for node in finals)
    scratch = next(node for node in finals if node.row == "scratch")
    assert words_of(scratch)["init"] == "scratch"
    assert not scratch.needs


def test_trials_never_see_the_test_part_and_are_the_same_for_every_row(load, tmp_path):
    table = load()
    trials = matrix_of(table, tmp_path).trials()
    by_row = {row: [node.choice for node in trials if node.row == row] for row in table.rows}
    assert by_row["scratch"] == by_row["mg"] == by_row["wide"] == [(("optim.lr", 0.001),), (("optim.lr", 0.01),)]
    for node in trials:
        assert node.seed not in table.seeds
        config = node.config()
        assert config.data.tuning_share == 0.25
        assert config.labels.fraction == 0.5
    for node in matrix_of(table, tmp_path).finals({("mg", "liver"): {}}):
        assert node.config().data.tuning_share == 0
        assert not node.config().data.allow_overlap


def test_pretraining_differs_by_column_and_row(load, tmp_path):
    text = BASE.replace("root: ct}", "root: ct, pretrain: {data: luna, root: ct, settings: {data: {tissue_max: 1}}}}")
    text = text.replace("wide: {method: models_genesis, ", "wide: {method: models_genesis, data: brats, root: mr, ")
    text = text.replace("settings: {trainer: {max_steps: 3}}", "settings: {trainer: {max_steps: 3}, data: {split: mg}}")
    table = load(text)
    assert table.origin("mg", "liver") == ("lits", "lits", {"trainer": {"max_steps": 3}, "data": {"split": "mg"}})
    # settings of another family's data do not come along, all others do
    assert table.origin("mg", "lungs") == ("luna", "ct", {"trainer": {"max_steps": 3}, "data": {"tissue_max": 1}})
    assert table.origin("wide", "lungs") == ("brats", "mr", {"trainer": {"max_steps": 4}})
    plan = matrix_of(table, tmp_path, roots=ROOTS | {"mr": "/data/mr"}, stores={"ct": "/fast/ct"})
    found = plan.pretrainings()
    assert [node.name for node in found if node.seed == 5] == [
        "pretrain mg, seed 5", "pretrain mg for lungs, seed 5", "pretrain wide, seed 5"]  # fmt: skip
    assert words_of(found[1])["data.store"] == "'/fast/ct'"
    final = next(node for node in plan.finals({}) if (node.row, node.column) == ("mg", "lungs"))
    assert words_of(final)["init"] == str(plan.folder(found[1]))


def test_a_row_can_start_from_a_file_and_change_its_transfer(load, tmp_path):
    text = BASE.replace("mg: {method: models_genesis}", "mg: {init: /weights/x.safetensors}")
    finals = matrix_of(load(text), tmp_path).finals({(row, "liver"): {} for row in ("scratch", "mg", "wide")})
    given = next(node for node in finals if (node.row, node.column) == ("mg", "liver"))
    assert words_of(given)["init"] == "/weights/x.safetensors"
    assert not given.needs
    wide = next(node for node in finals if (node.row, node.column) == ("wide", "liver"))
    assert wide.config().transfer.decoder == "false"
    assert given.config().transfer.decoder == "auto"
    named = matrix_of(load(text.replace("x.safetensors}", "x.safetensors, family: voco}")), tmp_path)
    (one, *_) = (node for node in named.finals({("mg", "liver"): {}}) if (node.row, node.column) == ("mg", "liver"))
    assert one.config().general.family == "voco"
    assert "family" not in words_of(given)


def test_probes_get_no_words_of_training_but_those_of_loading(load, tmp_path):
    text = BASE.replace("backbone: {channels", "trainer: {max_steps: 9, batch_size: 4}, backbone: {channels")
    text = text.replace(
        "root: ct}", "root: ct, settings: {transfer: {adapt_channels: true, norm: group}, optim: {lr: 1}}}"
    )
    node = next(node for node in matrix_of(load(text), tmp_path).finals({}) if node.column == "lungs")
    words = words_of(node)
    assert node.kind == "probe"
    assert words["trainer.batch_size"] == "4"
    assert words["transfer.adapt_channels"] == "true"
    assert not {"trainer.max_steps", "transfer.norm", "optim.lr"} & set(words)
    assert node.config().protocol == "linear"
    assert node.config().transfer.adapt_channels


AWAY = "away: {tests: liver, task: lits, root: ct, settings: {map: same}}"
EXTERNAL = BASE.replace("lungs: {task: luna, protocol: linear, root: ct}", AWAY)


def test_an_external_column_tests_each_fine_tuning_of_another(load, tmp_path):
    plan = matrix_of(load(EXTERNAL, "settings.trainer={batch_size: 3, max_steps: 9}"), tmp_path)
    choices = {("scratch", "liver"): {"optim.lr": 0.01}, ("mg", "liver"): {"optim.lr": 0.001}}
    finals = plan.finals(choices)
    outside = [node for node in finals if node.column == "away"]
    inside = [node for node in finals if node.column == "liver"]
    # the same rows, budgets and seeds; a row without a choice has neither
    key = [(node.row, node.fraction, node.seed) for node in outside]
    assert key == [(node.row, node.fraction, node.seed) for node in inside]
    assert {row for row, _, _ in key} == {"scratch", "mg"}
    assert [node.needs for node in outside] == [(node,) for node in inside]
    assert [node.kind for node in outside] == ["external"] * len(outside)
    first = outside[0]
    folder, *rest = first.overrides
    assert folder == str(plan.folder(inside[0]))
    words = dict(word.split("=", 1) for word in rest)
    assert (words["task"], words["map"]) == ("lits", "'same'")
    assert words["data.root"] == "'/data/ct'"
    assert words["trainer.batch_size"] == "3"  # how it loads; not how long the others train
    assert "trainer.max_steps" not in words
    assert "seed" not in words
    assert len({plan.folder(node) for node in finals}) == len(finals)
    # nothing is pretrained for it, and nothing is chosen on it
    assert {node.column for node in plan.pretrainings()} == {""}
    assert {node.column for node in plan.trials()} == {"liver"}


def test_the_map_of_an_external_column_is_checked_before_anything_is_trained(load, tmp_path):
    choices = {(row, "liver"): {"optim.lr": 0.01} for row in ("scratch", "mg", "wide")}

    def first(text):
        plan = matrix_of(load(text), tmp_path)
        return next(node for node in plan.finals(choices) if node.column == "away")

    node = first(EXTERNAL)
    assert set(node.config().external.classes) == set(node.needs[0].config().spec.class_names)
    longer = EXTERNAL.replace("trainer: {max_steps: 2}", "trainer: {max_steps: 9}")
    assert first(longer).config().hash() != node.config().hash()  # another training, another test
    spelt = first(EXTERNAL.replace("map: same", "map: {liver: [liver]}"))
    assert "map.liver=['liver']" in spelt.overrides
    assert spelt.config().external.classes == {"liver": ["liver"]}
    for said, message in (("sam", "map 'sam' is unknown; did you mean 'same'"), ("{liver: lung}", "'lung'")):
        wrong = first(EXTERNAL.replace("map: same", f"map: {said}"))
        with pytest.raises(SslMedError, match=message) as caught:
            wrong.config()
        assert str(caught.value).startswith("away at 50 %: scratch, seed 0: ")


def test_a_pretext_protocol_takes_a_family_and_no_budget(load, tmp_path):
    text = BASE.replace(
        "lungs: {task: luna, protocol: linear, root: ct}", "turns: {task: lits, protocol: pretext_rotation}"
    )
    node = next(node for node in matrix_of(load(text), tmp_path).finals({}) if node.column == "turns")
    words = words_of(node)
    assert words["data"] == "lits"
    assert "labels.fraction" not in words
    assert not node.config().labelled


def test_names_tell_what_a_run_is(load, tmp_path):
    plan = matrix_of(load(), tmp_path)
    trial = plan.trials()[0]
    assert trial.name == "liver at 50 %: scratch, seed 1000, trial optim.lr=0.001"
    assert plan.pretrainings()[0].name == "pretrain mg, seed 5"
    final = plan.finals({("mg", "liver"): {}})[0]
    assert final.name == "liver at 50 %: mg, seed 0"
    assert plan.folder(final).parent == tmp_path / "final"
    assert plan.folder(trial).parent.name == "tune"
    assert plan.command(final)[-1] == f"out={plan.folder(final)}"


def test_what_is_missing_or_wrong_is_said(load, tmp_path):
    with pytest.raises(SslMedError, match=r"table table: needs the folder of ct; say root\.ct=DIR"):
        matrix_of(load(), tmp_path, roots={"lits": "/data/lits"}).finals({})
    table = load(BASE.replace("settings: {trainer: {max_steps: 2}}", "settings: {trainer: {max_step: 2}}"))
    with pytest.raises(SslMedError, match=r"liver at 50 %: scratch, seed 1000, trial .*'trainer.max_step' is unknown"):
        matrix_of(table, tmp_path).trials()[0].config()


def test_the_value_of_a_cell(load, tmp_path, monkeypatch):
    plan = matrix_of(load(BASE.replace("task: lits\n", "task: lits\n        metric: iou\n", 1)), tmp_path)
    choices = {("mg", "liver"): {}}
    liver, lungs = (next(n for n in plan.finals(choices) if n.column == c) for c in ("liver", "lungs"))
    monkeypatch.setattr(plan, "folder", lambda node: tmp_path)
    summary = {"format": 1, "kind": "finetune", "status": "done", "task": "lits", "metric": "dice"}
    write_summary(tmp_path, {**summary, "metrics": {"test/dice": 0.8, "test/iou": 0.7}})
    assert (plan.run(liver).metric, plan.run(liver).value) == ("iou", 0.7)
    assert (plan.run(lungs).metric, plan.run(lungs).value) == ("dice", 0.8)
    write_summary(tmp_path, {**summary, "metrics": {"test/dice": 0.8}})
    assert plan.run(liver).problem == "has no test metric 'iou'; there are: dice"
    assert not plan.run(lungs).problem


def test_folders_of_runs_on_other_machines_do_not_depend_on_this_one(load, tmp_path, monkeypatch):
    names = {}
    for switch, elsewhere in product("01", (False, True)):
        monkeypatch.setenv("SSL_MED_BF16", switch)
        plan = Plan("table", load(), out=tmp_path, roots=ROOTS, stores={}, elsewhere=elsewhere)
        names[switch, elsewhere] = [plan.folder(node).name for node in [*plan.pretrainings(), *plan.finals({})]]
    assert names["0", True] == names["1", True]
    assert not set(names["0", False]) & set(names["1", False])


def test_roots_come_from_one_place_and_what_is_missing_is_named_at_once(load, tmp_path, monkeypatch):
    from experiments.commands.compare import open_plan

    names = root_names(load())
    assert len(names) > 1
    with pytest.raises(SslMedError, match="needs the folders of " + ", ".join(names)) as caught:
        matrix_of(load(), tmp_path, roots={})
    assert all(f"root.{name}=DIR" in str(caught.value) for name in names)
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "table.yaml").write_text(BASE)
    monkeypatch.setenv("SSL_MED_DATA", str(tmp_path / "data"))
    plan, _ = open_plan([f"table={tmp_path / 'table.yaml'}", f"root.{names[0]}=/elsewhere"])
    assert plan.roots == {name: str(tmp_path / "data" / name) for name in names} | {names[0]: "/elsewhere"}


def test_who_is_to_blame_is_named(load, tmp_path):
    """A data set that the table does not read, the line's own key, the table's own key, and a bound that judges nothing."""
    from experiments.commands.compare import check, open_plan

    table, names = tmp_path / "table.yaml", root_names(load())
    table.write_text(BASE)
    words = [f"table={table}", *(f"root.{name}={tmp_path}" for name in names)]
    for key in ("root", "store"):
        with pytest.raises(SslMedError, match=rf"^command line: {key}.luhna: the table reads no data set of that name"):
            open_plan([*words, f"{key}.luhna=/x"])
    with pytest.raises(SslMedError, match=r"^command line over tables/table.yaml: .*'sedes' is unknown"):
        open_plan([*words, "sedes=[1]"])
    column = "{task: hippocampus, root: hip, metric: hd95_mm%s}"
    small = f"trainer: cpu\nseeds: [0]\nrows: {{scratch: {{}}}}\ncolumns: {{seg: {column}}}\n%s"
    words = [f"table={table}", f"root.hip={tmp_path}"]
    table.write_text(small % (", settings: {trainer: {max_step: 3}}", ""))
    with pytest.raises(
        SslMedError, match=r"^tables/table.yaml: .*'trainer.max_step' is unknown; did you mean 'max_steps'"
    ):
        check(open_plan(words)[0])
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "MRI"}, "labels": {"0": "x", "1": "y"}, "training": []}')
    table.write_text(small % ("", "collapsed_below: 0.3\n"))
    with pytest.raises(SslMedError, match=r"table.yaml: collapsed_below judges metrics that are better .* \(hd95_mm\)"):
        check(open_plan(words)[0])


@pytest.mark.parametrize("text", ["[", "[]", '{"failed": [1]}', '{"failed": {"a": 1}}', "[" * 10**5, "\x00", ""])
def test_a_damaged_record_of_a_comparison_is_one_line(text, tmp_path):
    from experiments.comparison.records import Progress, read_record

    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(SslMedError, match=r"progress.json: .*; remove the file, it is written anew$"):
        read_record(tmp_path / "progress.json", Progress)


def test_a_recipe_that_gives_scratch_another_network_than_pretrained_rows_is_refused(load, tmp_path):
    """Weights keep the network that they were pretrained in; rows without any would be compared by another one."""
    recipe = textwrap.dedent(BASE).replace("{channels: [8, 8, 16]}", "{}") + "recipe: strong\n"
    plan = matrix_of(load(recipe), tmp_path)
    with pytest.raises(
        SslMedError, match=r"row scratch of column liver would be trained with name=plainconv.*have name=unet"
    ):
        check(plan)
    named = recipe.replace("backbone: {}", "backbone: {name: unet, norm: batch, channels: [8, 8, 16]}")
    assert check(matrix_of(load(named), tmp_path))
