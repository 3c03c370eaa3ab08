"""A setting that would change nothing is refused; what each setting needs for an effect is declared at its field."""

import dataclasses
import importlib
import typing

import pytest

from experiments.config.effects import SECTIONS, why_without
from experiments.config.kinds import FeaturesRun, FinetuneRun, PretrainRun, ProbeRun
from experiments.config.online import OnlineConfig
from experiments.config.run import compose_finetune, compose_pretrain, compose_probe
from experiments.config.sections import BudgetConfig, LoadingConfig, StartConfig, TrackingConfig, TrainerConfig
from experiments.config.sources import data_class_of, method_class_of, names
from ssl_med.evaluation.protocols.finetune import TransferConfig
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.optim import OptimConfig
from ssl_med.setting import FACTS, SET, Other, marks
from ssl_med.spec import SslMedError
from ssl_med.values import convert

MASKS = ("finetune", "task=lits", "init=scratch", "trainer=cpu")
CLASSES = ("finetune", "task=nodule2d", "init=scratch", "trainer=cpu")
PRETRAIN = ("pretrain", "method=moco", "data=medmnist", "trainer=cpu")
SWAV = ("pretrain", "method=swav", "data=medmnist", "trainer=cpu")
CLUSTERS = ("pretrain", "method=deep_cluster", "data=medmnist", "trainer=cpu")
VOLUMES = ("pretrain", "method=moco", "data=lits", "trainer=cpu")
PROBED = (*PRETRAIN, "online.task=nodule2d", "online.data.root=ROOT")
PROBE = ("probe", "task=nodule2d", "protocol=linear", "init=scratch", "trainer=cpu")
COMPOSE = {"finetune": compose_finetune, "pretrain": compose_pretrain, "probe": compose_probe}
VALUES = {
    "run": {"pretrain", "finetune", "probe", "external", "features"},
    "dims": {"2D", "3D"},
    "validation": {True, False},
}
VALUES["colours"] = {"grey", "coloured"}
VALUES["labels"] = {"classes", "findings", "masks", "none"}


def compose(root, words):
    kind, *rest = words
    return COMPOSE[kind]([word.replace("ROOT", str(root)) for word in (*rest, "data.root=ROOT")])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((*MASKS, "task.crop_scale=0.5"), "the data are 3D; leave it out"),
        ((*VOLUMES, "data.foreground_batch=0.3"), "ssl-med pretrain does not use it"),
        ((*VOLUMES, "data.foreground_p=0.3"), "ssl-med pretrain does not use it"),
        ((*MASKS, "task.hidden=10"), "the labels are masks"),
        ((*CLASSES, "task.tolerance_mm=2"), "the labels are classes"),
        ((*CLASSES, "task.overlap=0"), "the labels are classes"),
        (
            (*CLASSES, "task.flips=false", "task.flip_axes=[row]"),
            "task.flips is false; leave it out, or set task.flips=true",
        ),
        ((*PROBE, "task.crop_scale=0.3"), "ssl-med probe does not use it"),
        ((*MASKS, "optim.momentum=0.5"), "optim.name is adam; leave it out, or set optim.name=sgd or optim.name=lars"),
        ((*MASKS, "optim.power=2"), "optim.schedule is constant; leave it out, or set optim.schedule=poly"),
        ((*MASKS, "data.split_file=x.json"), "data.split is random; leave it out, or set data.split=file"),
        ((*MASKS, "data.allow_overlap=true"), "init is scratch"),
        ((*PRETRAIN, "trainer.test_every_steps=4"), "ssl-med pretrain does not use it"),
        ((*PRETRAIN, "trainer.monitor=val/accuracy"), "trainer.select is last"),
        ((*PRETRAIN, "method.view.blur=0", "method.view.blur_sigma=[1,2]"), "method.view.blur is 0"),
        ((*SWAV, "method.small_view.blur=0.9"), "method.small_crops is 0"),
        ((*SWAV, "method.small_share=0.9"), "method.small_crops is 0"),
        ((*CLUSTERS, "method.small_view.blur=0.9"), "method.variant is v1"),
        ((*PROBED, "online.l2=3"), "online.protocol is knn"),
        ((*CLASSES, "data.split_ratios=[0.6,0.2,0.2]"), "data.split is official; leave it out"),
        ((*PRETRAIN, "data.split_seed=1"), "data.split is official; leave it out"),
        ((*PRETRAIN, "data.crops_per_volume=2"), "the data are 2D; leave it out"),
        (
            (*VOLUMES, "data.split=mg", "data.split_seed=1"),
            "data.split is mg; leave it out, or set data.split to another",
        ),
        ((*PROBED, "online.data.share_by=image"), "online.data.pretrain_share is 0"),
    ],
)
def test_without_an_effect_is_refused(tmp_path, words, reason):
    with pytest.raises(SslMedError) as told:
        compose(tmp_path, words)
    key = words[-1].partition("=")[0]
    assert str(told.value).startswith(f"command line: {key}=")
    assert f" has no effect, since {reason}" in str(told.value)


@pytest.mark.parametrize(
    "words",
    [
        (*MASKS, "task.tolerance_mm=2"),
        (*MASKS, "optim.name=sgd", "optim.momentum=0.5"),
        (*MASKS, "task.hidden=0"),  # what it is anyhow changes nothing and hides nothing
        (*MASKS, "task.hidden=10", "tracking.table=of many kinds of runs"),
        (*CLASSES, "task.crop_scale=0.3"),
        (*PROBED, "online.protocol=linear", "online.l2=3"),
        (*PRETRAIN, "data.pretrain_share=0.5", "data.split_seed=1"),
    ],
)
def test_with_an_effect_it_is_taken(tmp_path, words):
    compose(tmp_path, words)


def schemas():
    """Section -> every dataclass of settings that a run can have there."""
    probes = [
        importlib.import_module(f"ssl_med.evaluation.protocols.{name}")
        for name in ("knn", "linear", "fewshot", "dense")
    ]
    found = {
        "": [StartConfig],
        "method": [method_class_of(name).Config for name in names("method")],
        "data": [data_class_of(name).Config for name in names("data")],
        "task": [TaskConfig],
        "labels": [BudgetConfig],
        "transfer": [TransferConfig],
        "probe": [one for module in probes for name, one in vars(module).items() if name.endswith("Config")],
        "optim": [OptimConfig],
        "trainer": [TrainerConfig, LoadingConfig],
        "tracking": [TrackingConfig],
        "online": [OnlineConfig],
    }
    pairs = [
        (section, schema) for section, ones in found.items() for schema in ones if dataclasses.is_dataclass(schema)
    ]
    for section, schema in pairs:
        yield section, schema
        for hint in typing.get_type_hints(schema).values():
            if dataclasses.is_dataclass(hint):
                yield f"{section}.nested", hint


def test_every_need_names_a_setting_and_values_that_it_can_have():
    """And each has values with and without an effect."""
    every = list(schemas())
    known = {section: [schema for at, schema in every if at == section] for section, _ in every}
    count = 0
    for section, schema in dict.fromkeys(every):
        for key, mark in marks(schema).items():
            for needs in mark.needs:
                for name, allowed in needs.items():
                    count += 1
                    if name in FACTS:
                        assert set(allowed) < VALUES[name], (schema, key)
                        continue
                    other, _, field = name.rpartition(".") if "." in name else (section, "", name)
                    owners = [schema] if "." not in name else [one for one in known[other] if field in marks(one)]
                    assert owners, (schema, key, name)
                    assert field != key
                    assert field in marks(owners[0]), (schema, key, name)
                    hint = typing.get_type_hints(owners[0], include_extras=True)[field]
                    values = allowed.values if isinstance(allowed, Other) else allowed
                    for value in values:
                        assert convert(hint, value) == value, (schema, key, name, value)
    assert count > 100
    assert {
        name for name in SECTIONS if not any(hasattr(k, name) or name in k.__dataclass_fields__ for k in KINDS)
    } == set()


KINDS = (PretrainRun, FinetuneRun, ProbeRun, FeaturesRun)


def test_any_of_several_needs_suffices_and_unknown_facts_hold():
    for optim, idle in (
        (OptimConfig(), True),
        (OptimConfig(weight_decay=1.0), False),
        (OptimConfig(name="lars"), False),
    ):
        assert bool(why_without("optim", optim, "decay_norm_bias", {"optim": optim}, {})) == idle
    trainer = TrainerConfig(max_steps=1)
    assert why_without("trainer", trainer, "patience", {}, {}) == ""
    assert why_without("trainer", trainer, "patience", {}, {"validation": False}).startswith(
        "the split has no validation"
    )
    assert (0 in SET, 1 in SET, () in SET, "1" in Other("1"), "2" in Other("1")) == (False, True, False, False, True)
