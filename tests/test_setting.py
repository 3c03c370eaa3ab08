"""What a setting changes is said at its field; hashes, stores and files of features follow from it."""

import copy
import typing
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest

from experiments.config.online import OnlineConfig
from experiments.config.protocols import probes, protocol_class
from experiments.config.run import compose_finetune, compose_pretrain, compose_probe
from experiments.config.sources import data_class_of, method_class_of, names
from ssl_med.config import hint_of, keyed, path_keys, to_plain
from ssl_med.setting import marks, setting

ELSEWHERE = {
    "root", "store", "split", "split_file", "split_ratios", "split_seed", "test_is_val", "cache_gb", "tuning_share",
    "pretrain_share", "share_by", "quarantine", "quarantine_budget", "allow_overlap", "allow", "from_card", "datalist", "fold",
}  # fmt: skip


@dataclass
class Inner:
    low: float = 0.0
    name: str = setting(default="", affects="nothing")


@dataclass
class Section:
    rate: float = 0.1
    size: int = setting(default=3, affects="sample")
    table: str = setting(default="", affects="store", named=bool)
    watch: bool = setting(default=True, affects="nothing")
    later: int = setting(default=5, before=0)
    inner: Inner = field(default_factory=Inner)


@dataclass
class Wide(Section):
    AFFECTS = "store"
    size: int = 7  # another default, the same promise
    more: int = 1


def test_a_level_holds_all_that_changes_it_or_more():
    assert keyed(Section()) == {"rate": 0.1, "size": 3, "table": False, "later": 5, "inner": {"low": 0.0}}
    assert keyed(Section(table="x"), "sample") == {"size": 3, "table": True}
    assert keyed(Section(), "store") == {"table": False}
    assert set(keyed(Wide(), "store")) == {"rate", "table", "later", "inner", "more"}
    assert keyed(Wide(), "sample")["size"] == 7


def test_a_setting_that_came_later_is_in_the_hash_only_where_it_changes_something():
    assert "later" not in keyed(Section(later=0))
    assert keyed(Section(later=1))["later"] == 1


RUNS: dict[str, Any] = {
    "pretrain": compose_pretrain(["method=moco", "data=luna", "trainer=cpu"]),
    "finetune": compose_finetune(["task=lits", "trainer=cpu", "init=/x"]),
    "probe": compose_probe(["task=luna", "protocol=linear", "trainer=cpu", "init=/x"]),
}
SECTIONS = (
    "method",
    "task",
    "labels",
    "transfer",
    "probe",
    "data",
    "backbone",
    "optim",
    "trainer",
    "tracking",
    "general",
)
FIELDS = [
    (kind, section, name)
    for kind, run in RUNS.items()
    for section in SECTIONS
    if section in run.tree() or section == "general"
    for name in marks(type(getattr(run, section)))
]


def other(value: Any, hint: Any) -> Any:
    """A value of the same type that differs; what the schema thinks of it is not asked."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return next((choice for choice in typing.get_args(hint) if choice != value), f"{value}x")
    if is_dataclass(value):
        return changed(value, fields(value)[0].name)
    return (*value, 1) if isinstance(value, tuple) else 1.0


def changed(section: Any, name: str) -> Any:
    found = copy.copy(section)
    object.__setattr__(found, name, other(getattr(section, name), hint_of(type(section), name)))
    return found


@pytest.mark.parametrize(("kind", "section", "name"), FIELDS)
def test_every_setting_is_in_the_hash_or_declared_to_change_nothing(kind, section, name):
    run = RUNS[kind]
    mark = marks(type(getattr(run, section)))[name]
    moved = replace(run, **{section: changed(getattr(run, section), name)})
    assert moved.tree() != run.tree()
    assert (moved.hash() == run.hash()) == (mark.affects == "nothing"), mark


SCHEMAS = [
    *(method_class_of(name).Config for name in names("method")),
    *(data_class_of(name).Config for name in names("data")),
    *(protocol_class(name).Config for name in probes()),
    OnlineConfig,
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_field_of_every_schema_has_its_place(schema):
    config = schema()
    for name, mark in marks(schema).items():
        same = keyed(changed(config, name)) == keyed(config)
        assert same == (mark.affects == "nothing"), name


def test_what_has_no_result_is_declared_and_nothing_else():
    """Every promise that a setting leaves all numbers alone: to be read by whoever adds one."""
    silent = {f"{section}.{name}" for kind, section, name in FIELDS
              if section != "tracking" and marks(type(getattr(RUNS[kind], section)))[name].affects == "nothing"}  # fmt: skip
    assert silent == {
        "general.out", "general.resume", "data.cache_gb", "data.allow", "data.from_card", "probe.cache",
        "trainer.num_workers", "trainer.threads", "trainer.progress", "trainer.log_every", "trainer.checkpoint_every_steps",
        "trainer.collapse_patience",
    }  # fmt: skip


@pytest.mark.parametrize("name", names("data"))
def test_a_data_set_is_keyed_by_all_that_is_not_declared_otherwise(name):
    config = data_class_of(name).Config(name=name)
    loading = {"crops_per_volume", "mixed_volumes"}
    # what does as runs did before the setting existed is left out, so that they keep their hashes
    as_before = {key for key, mark in marks(type(config)).items() if mark.before == to_plain(config)[key]}
    keys = set(to_plain(config)) - as_before
    assert set(keyed(config, "store")) == keys - ELSEWHERE - loading
    assert set(keyed(config, "sample")) == (keys - ELSEWHERE | {"root"}) - {"mixed_volumes"}
    assert set(keyed(config)) == keys - {"cache_gb", "allow", "from_card"}
    own = {"datalist"} if name == "monai" else set()
    assert set(path_keys(type(config))) == {"root", "store", "split_file", "quarantine"} | own


def test_paths_of_data_are_hidden_from_others_and_seen_in_the_tree():
    run = compose_finetune(
        ["task=lits", "data.root=/patients/Miller", "data.split=file", "data.split_file=/patients/x.json"]
    )
    assert "/patients" in str(run.tree())
    assert "/patients" not in str(run.public_tree())


def test_the_source_of_every_setting_is_known():
    run = compose_finetune(["task=lits", "trainer=cpu", "optim.lr=0.5", "seed=3"])
    sources = run.sources()
    assert sources["optim.lr"] == sources["seed"] == "command line"
    assert sources["data.name"] == "conf/task/lits.yaml"
    assert sources["trainer.max_steps"] == "conf/trainer/cpu.yaml"
    assert sources["trainer.num_nodes"] == "default"
    assert len(sources) > 50
