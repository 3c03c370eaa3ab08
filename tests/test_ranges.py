"""Every numeric setting has a range, which refuses what lies outside in one line; no schema checks numbers by itself."""

import dataclasses
import math
import re
import typing
from typing import Annotated

import pytest

from experiments.commands.compare import CompareConfig
from experiments.comparison.table import TableConfig
from experiments.config import sections
from experiments.config.data import CheckConfig, PrepareConfig
from experiments.config.online import OnlineConfig
from experiments.config.protocols import probes, protocol_class
from experiments.config.run import compose_finetune, compose_pretrain, compose_probe
from experiments.config.schema import settings
from experiments.config.sources import data_class_of, method_class_of, names
from ssl_med.catalogue import list_names
from ssl_med.config import build, parse_overrides
from ssl_med.evaluation.protocols.finetune import TransferConfig
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.networks.backbone import backbone_class
from ssl_med.optim import OptimConfig
from ssl_med.ranges import Range, check_ranges, range_of
from ssl_med.spec import SslMedError

SCHEMAS = {
    **{f"method {name}": ("method", method_class_of(name).Config) for name in names("method")},
    **{f"data {name}": ("data", data_class_of(name).Config) for name in names("data")},
    **{f"probe {name}": ("probe", protocol_class(name).Config) for name in probes()},
    **{
        f"backbone {name}": ("backbone", backbone_class(name, spatial_dims=2).Config)
        for name in list_names("ssl_med.networks.backbones")
    },
    "optim": ("optim", OptimConfig),
    "task": ("task", TaskConfig),
    "transfer": ("transfer", TransferConfig),
    "trainer": ("trainer", sections.TrainerConfig),
    "tracking": ("tracking", sections.TrackingConfig),
    "labels": ("labels", sections.BudgetConfig),
    "general": ("", sections.StartConfig),
    "online": ("online", OnlineConfig),
    "compare": ("", CompareConfig),
    "table": ("", TableConfig),
    "prepare": ("", PrepareConfig),
    "check": ("", CheckConfig),
}
MONAI = "backbone monai"  # a class and its arguments, no numbers; there is no default class
WITHOUT: dict[str, str] = {}  # section.key -> why it can have no range
WRONG = ("nan", "inf", "-inf", "-1", "1e30", "-1e30", str(10**40))


def numbers(hint, declared=False):
    """Whether each number in a type has a range."""
    kind, allowed = range_of(hint)
    if kind in (int, float):
        yield allowed is not None
    for one in typing.get_args(kind):
        yield from numbers(one)


def leaves(schema, prefix=""):
    """Dotted key and type of every field, those of nested dataclasses too."""
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


NUMERIC = [
    (label, prefix, key, hint)
    for label, (prefix, schema) in SCHEMAS.items()
    for key, hint in leaves(schema)
    if any(True for _ in numbers(hint))
]


def test_every_numeric_setting_has_a_range_or_a_reason():
    without = {f"{label}: {key}" for label, _, key, hint in NUMERIC if not all(numbers(hint))}
    assert without == set(WITHOUT)
    assert len(NUMERIC) > 300


def texts(hint, value):
    """A wrong number as the override of a field: bare, or in a list of as many."""
    arguments = typing.get_args(range_of(hint)[0])
    if typing.get_origin(hint) is tuple:
        return f"[{','.join([value] * (1 if Ellipsis in arguments else len(arguments)))}]"
    return value


def refusal(schema, override, prefix):
    """The one line that refuses an override; '' when it is legal."""
    section = parse_overrides([override])
    try:
        build(schema, [section.section(prefix) if prefix else section], prefix=prefix)
    except SslMedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("label", SCHEMAS)
def test_a_number_that_cannot_be_is_one_line(label):
    prefix, schema = SCHEMAS[label]
    check_ranges(
        schema() if label not in ("compare", "table", "prepare", "trainer", MONAI) else OptimConfig(), prefix
    )  # defaults
    for _, _, key, hint in (one for one in NUMERIC if one[0] == label):
        if typing.get_origin(hint) is dict:
            continue
        name = f"{prefix}.{key}" if prefix else key
        for value in WRONG:
            line = refusal(schema, f"{name}={texts(hint, value)}", prefix)
            assert "\n" not in line
            bare = float(value)
            if not math.isfinite(bare) or abs(bare) > 1e9:
                assert re.match(rf"command line: '{re.escape(name)}' is .*; (it|each) must be ", line), (
                    name,
                    value,
                    line,
                )


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("trainer.max_steps=-5", "'trainer.max_steps' is -5; it must be -1 or at least 1"),
        ("trainer.max_steps=0", "'trainer.max_steps' is 0; it must be -1 or at least 1"),
        ("trainer.batch_size=0", "'trainer.batch_size' is 0; it must be at least 1"),
        ("trainer.clip=nan", "'trainer.clip' is nan; it must be at least 0"),
        ("trainer.num_workers=2000", "'trainer.num_workers' is 2000; it must be at most 1024"),
        ("optim.lr=1e4", "'optim.lr' is 1e4; it must be at most 1000"),
        ("optim.betas=[0.9,1]", "'optim.betas' is [0.9,1]; each must be below 1"),
        ("optim.betas=[0.9]", "'optim.betas' is '[0.9]'; it must be a list of 2 numbers, each at least 0 and below 1"),
        ("optim.gamma=no", "'optim.gamma' is 'no'; it must be a number, above 0"),
        ("method.view.flip=2", "'method.view.flip' is 2; it must be at most 1"),
        ("method.view.crop_scale=[0.5,0.2]", "crop_scale is [0.5, 0.2]; its first number must not be above its second one"),
        ("data.spacing_mm=[1,0,1]", "'data.spacing_mm' is [1,0,1]; each must be above 0"),
        ("trainer.devices=0", "trainer.devices is '0'; give a number of devices or auto"),
        ("trainer.devices=²", "trainer.devices is '²'; give a number of devices or auto"),
        ("data.patch_size=[4096,4096,4096]", "data.patch_size [4096, 4096, 4096] must be positive and hold fewer than 2^31"),
    ],
)  # fmt: skip
def test_the_line_names_key_value_and_what_it_must_be(word, line):
    with pytest.raises(SslMedError) as error:
        compose_pretrain(["method=moco", "data=luna", "trainer=cpu", word])
    assert line in str(error.value)
    if not word.startswith("data.patch"):
        assert str(error.value).startswith("command line: ")


@pytest.mark.slow
@pytest.mark.parametrize("label", [label for label in SCHEMAS if label not in ("compare", "table", "prepare", "check")])
def test_a_whole_request_with_a_number_that_cannot_be_is_one_line_or_legal(label, tmp_path):
    """Through the composition of a run, where networks, specs and budgets look at the numbers too."""
    group, _, name = label.partition(" ")
    root = f"online.data.root={tmp_path}"
    base = {
        "data": (compose_pretrain, ["method=rotation", f"data={name}", "trainer=cpu"]),
        "method": (compose_pretrain, [f"method={name}", "data=brats", "trainer=cpu"]),
        "probe": (compose_probe, [*(["task=luna"] if protocol_labels(name) else ["data=luna"]), f"protocol={name}"]),
        "backbone": (compose_pretrain, ["method=rotation", "data=luna", "trainer=cpu", f"backbone.name={name}"]),
        "online": (compose_pretrain, ["method=rotation", "data=luna", "trainer=cpu", "online.task=luna", root]),
    }.get(group, (compose_finetune, ["task=luna", "trainer=cpu"]))  # fmt: skip
    compose, words = base
    if name == "dense":
        words = ["task=lits", "protocol=dense"]
    tried = 0
    for _, prefix, key, hint in (one for one in NUMERIC if one[0] == label):
        for value in ("nan", "inf", "-1", "1e30"):
            override = f"{prefix}.{key}={texts(hint, value)}" if prefix else f"{key}={texts(hint, value)}"
            tried += 1
            assert "\n" not in line_of(compose, [*words, override]), override
    assert tried >= 4 or label in ("tracking", "probe none", "backbone densenet121", MONAI)


def line_of(compose, words):
    try:
        compose(words)
    except SslMedError as error:
        return str(error)
    return ""


def protocol_labels(name):
    return protocol_class(name).labels if name in probes() else True


def test_help_and_the_page_of_settings_say_the_range():
    shown = {item.name: item.type for item in settings("ssl_med.optim:OptimConfig")}
    assert shown["lr"] == "float in (0, 1000]"
    assert shown["betas"] == "tuple[float in [0, 1), float in [0, 1)]"
    trainer = {item.name: item.type for item in settings("experiments.config.sections:TrainerConfig")}
    assert trainer["max_steps"] == "int -1 or >= 1"
    volumes = {item.name: item.type for item in settings("datamodules.volumes:Config")}
    assert volumes["npy_spacing_mm"] == "tuple[float in (0, 10000], ...] or null"
    assert volumes["intensity_low"] == "float or null"


def test_a_range_speaks_of_the_end_that_is_missed():
    both = Range(0, below=1)
    assert [both.complaint(x) for x in (0.0, 0.5)] == ["", ""]
    assert both.complaint(-0.1) == "at least 0"
    assert both.complaint(1.0) == "below 1"
    assert both.complaint(math.nan) == both.complaint(math.inf) == "at least 0 and below 1"
    assert Range().complaint(math.nan) == "a finite number"
    assert Range(above=0).complaint(0) == "above 0"
    assert Range(1, 8, special=(-1,)).complaint(0) == "-1 or at least 1 and at most 8"
    assert Range(1, 8, special=(-1,)).complaint(9) == "at most 8"
    assert Range(1, 8, special=(-1,)).complaint(-1) == ""
    assert Range(2, 10**6).words() == "at least 2"


@dataclasses.dataclass
class InPython:
    share: Annotated[float, Range(0, 1)] = 0.5
    sizes: tuple[Annotated[int, Range(1, 9)], ...] | None = None


def test_a_config_made_in_python_is_checked_where_it_is_used():
    check_ranges(InPython(sizes=(1, 9)), "x")
    for config, line in (
        (InPython(share=math.nan), "x.share is nan; it must be at least 0 and at most 1"),
        (InPython(sizes=(1, 10)), "x.sizes is (1, 10); each must be at most 9"),
    ):
        with pytest.raises(SslMedError) as error:
            check_ranges(config, "x")
        assert str(error.value) == line
