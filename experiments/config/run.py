"""From the overrides of a command line to one frozen, validated config of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from datamodules.core.base import MedicalData
from experiments.config.kinds import FinetuneRun, PretrainRun, ProbeRun
from experiments.config.network import build_network
from experiments.config.online import PREFIX, Online, OnlineConfig, check_monitor, spelled
from experiments.config.protocols import asked_protocol, probe_class
from experiments.config.sections import (
    BudgetConfig,
    GeneralConfig,
    LabelsConfig,
    LoadingConfig,
    StartConfig,
    TrackingConfig,
    TrainerConfig,
)
from experiments.config.sources import (
    build_data,
    check_keys,
    choose,
    config_sources,
    data_class_of,
    method_class_of,
    names,
    read_conf,
    sections_of,
)
from ssl_med.catalogue import nearest
from ssl_med.config import Layer, Settings, build, read_yaml
from ssl_med.evaluation.protocols.finetune import InitConfig, TransferConfig
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.optim import OptimConfig
from ssl_med.precision import decide
from ssl_med.reports.run_folder import CONFIG
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

T = TypeVar("T")


def compose_pretrain(overrides: Sequence[str]) -> PretrainRun:
    """`method=pcrl data=luna data.root=DIR ...` -> PretrainRun."""
    chosen, line = choose(overrides, required=("method", "data"), optional=("trainer",))
    method_class = method_class_of(chosen["method"])
    data_class = data_class_of(chosen["data"])
    layers = config_sources(chosen, line, ("data", "method", "trainer"), data_class, chosen["data"])
    keys = ("method", "data", "backbone", "optim", "trainer", "tracking", "seed", "out", "resume")
    check_keys(layers[:-1], (*keys, "default_data"))
    check_keys([line], (*keys, "online"))
    if unquoted(line.section("trainer").tree.get("monitor", "")).startswith(PREFIX):
        # recipes that keep the last weights have no value to choose by; whoever names one here has
        layers.insert(-1, Layer("", {"trainer": {"select": "best"}}))
    given = merged(layers, name="", data_name=chosen["data"])
    method: Any = section(given, method_class.Config, "method")
    shared = common(layers, given, data_class, labelled=False, trainer=TrainerConfig, general=GeneralConfig)
    online = _online(line, chosen)
    if online is not None:
        online.check(data_class.make_spec(shared["data"], labelled=False), shared["backbone"])
    check_monitor(shared["trainer"].monitor, online)
    return PretrainRun(
        name=chosen["method"],
        method_class=method_class,
        method=method,
        optim=section(given, OptimConfig, "optim"),
        online=online,
        **shared,
    )


def _online(line: Layer, chosen: dict[str, str]) -> Online | None:
    """What `online.task=NAME online.data.root=DIR ...` asks for; None without a task."""
    section = line.section("online")
    own = Layer(line.source, {key: value for key, value in section.tree.items() if key != "data"})
    settings = build(OnlineConfig, [own], prefix="online")
    if not settings.task:
        if section.tree:
            raise SslMedError(f"online.task=NAME is missing; there are: {', '.join(names('task'))}")
        return None
    picked = {"task": settings.task, **({"trainer": chosen["trainer"]} if "trainer" in chosen else {})}
    with spelled():
        data_class, name, layers = of_task(picked, Layer(line.source, {"data": section.section("data").tree}))
        data = build_data(data_class, name, layers)
        if not data.root:
            raise SslMedError(f"data.root is missing: point it at the folder of task '{settings.task}', data.root=DIR")
        if not Path(data.root).is_dir():
            raise SslMedError(f"data.root={data.root}: no such folder; it should hold {data_class.layout}")
    task = build(TaskConfig, [Layer("", {"name": settings.task}), *sections_of(layers, "task")], prefix="task")
    return Online(settings, data_class, data, task)


def compose_finetune(overrides: Sequence[str]) -> FinetuneRun:
    """`task=lits init=RUN data.root=DIR ...` -> FinetuneRun."""
    chosen, line = choose(overrides, required=("task",), optional=("data", "trainer"))
    data_class, data_name, layers = of_task(chosen, line)
    sections = ("task", "data", "backbone", "optim", "trainer", "tracking", "labels", "transfer")
    check_keys(layers, (*sections, "seed", "out", "resume", "init"))
    given = merged(layers, name=chosen["task"], data_name=data_name)
    shared = common(layers, given, data_class, labelled=True, trainer=TrainerConfig, general=StartConfig)
    check_monitor(shared["trainer"].monitor, None)
    transfer = section(given, TransferConfig, "transfer")
    return FinetuneRun(
        name=chosen["task"],
        task=section(given, TaskConfig, "task"),
        labels=section(given, BudgetConfig, "labels"),
        transfer=transfer,
        protocol=transfer.protocol,
        optim=section(given, OptimConfig, "optim"),
        **shared,
    )


def compose_probe(overrides: Sequence[str]) -> ProbeRun:
    """`task=luna protocol=linear init=RUN data.root=DIR ...` -> ProbeRun; pretext protocols take data=NAME.

    What yamls say of training (optim, most of trainer) has no meaning here and is left out; on the command line it is refused.
    """
    protocols = [override.partition("=")[2] for override in overrides if override.startswith("protocol=")]
    rest = [override for override in overrides if not override.startswith("protocol=")]
    if len(protocols) > 1:
        raise SslMedError("command line: 'protocol' is given twice")
    protocol = protocols[0] if protocols else ""
    labelled = asked_protocol(protocol).labels
    chosen, line = choose(
        rest, required=("task",) if labelled else ("data",), optional=("data", "trainer") if labelled else ("trainer",)
    )
    own: tuple[str, ...] = (
        "data", "backbone", "trainer", "tracking", "transfer", "probe", "seed", "out", "resume", "init",
    )  # fmt: skip
    if not labelled:
        name = data_name = chosen["data"]
        data_class = data_class_of(data_name)
        layers = config_sources(chosen, line, ("data", "trainer"), data_class, data_name)
    else:
        name, own = chosen["task"], (*own, "task", "labels")
        data_class, data_name, layers = of_task(chosen, line)
    check_keys([line], own)
    check_keys(layers, (*own, "optim", "task"))
    kept = {"trainer": keys_of(LoadingConfig), "transfer": keys_of(InitConfig)}
    layers = [*(without(layer, kept) for layer in layers[:-1]), line]
    given = merged(layers, name=name, data_name=data_name)
    data: Any = given.section("data").build(data_class.Config, prefix="data")
    kind = probe_class(protocol, data_class.make_spec(data, labelled=labelled), name)
    probe: Any = section(given, kind.Config, "probe")
    shared = common(layers, given, data_class, labelled=labelled, trainer=LoadingConfig, general=StartConfig)
    return ProbeRun(
        name=name,
        task=section(given, TaskConfig, "task"),
        labels=section(given, LabelsConfig, "labels"),
        transfer=section(given, InitConfig, "transfer"),
        protocol=protocol,
        probe=probe,
        **shared,
    )


def keys_of(schema: Any) -> tuple[str, ...]:
    """Names of the settings of a section."""
    return tuple(item.name for item in fields(schema))


def of_task(chosen: dict[str, str], line: Layer) -> tuple[type[MedicalData], str, list[Layer]]:
    """Family, its name and all layers of a task."""
    if chosen["task"] not in names("task"):
        raise SslMedError(f"task '{chosen['task']}' is unknown{nearest(chosen['task'], names('task'))}")
    task_yaml = read_conf("task", chosen["task"])
    data_name = chosen.get("data") or task_yaml.section("data").tree.get("name")
    if not data_name:
        raise SslMedError(f"{task_yaml.source}: key 'data.name' is missing")
    data_class = data_class_of(data_name)
    return (
        data_class,
        data_name,
        config_sources({"data": data_name, **chosen}, line, ("data", "task", "trainer"), data_class, data_name),
    )


def without(layer: Layer, kept: dict[str, tuple[str, ...]]) -> Layer:
    """A yaml's layer without the sections of training and, of some sections, with the kept keys alone."""
    tree = {key: value for key, value in layer.tree.items() if key != "optim"}
    for section, keys in kept.items():
        if section in tree:
            tree[section] = {key: value for key, value in layer.section(section).tree.items() if key in keys}
    return Layer(layer.source, tree)


def merged(layers: list[Layer], *, name: str, data_name: str) -> Settings:
    """All layers as one tree; task and family know their own names."""
    return Settings.merged([Layer("", {"task": {"name": name}, "data": {"name": data_name}}), *layers])


def common(
    layers: list[Layer],
    given: Settings,
    data_class: type[MedicalData],
    *,
    labelled: bool,
    trainer: type[LoadingConfig],
    general: type[GeneralConfig],
) -> dict[str, Any]:
    """The sections that every kind of run has, as arguments of its dataclass; `given` is all `layers` as one tree."""
    data: Any = given.section("data").build(data_class.Config, prefix="data")
    spec = data_class.make_spec(data, labelled=labelled)
    backbone, others = build_network(layers, spec)
    top: Any = given.top(keys_of(general)).build(general, prefix="")
    asked: Any = section(given, trainer, "trainer")
    precision = decide(asked.precision, accelerator=asked.accelerator, begun=_begun(top.out))
    return {
        "data_class": data_class,
        "data": data,
        "backbone": backbone,
        "other_backbones": others,
        "trainer": replace(asked, precision=precision.value),
        "precision": precision,
        "tracking": section(given, TrackingConfig, "tracking"),
        "general": top,
        "given": given,
    }


def _begun(out: str) -> str:
    """Arithmetic of the run that the folder `out` holds already, perhaps begun on another kind of machine; '' without one."""
    path = Path(out) / CONFIG
    if not out or not path.is_file():
        return ""
    return str(read_yaml(path, str(path)).section("trainer").tree.get("precision", ""))


def section(given: Settings, schema: type[T], name: str) -> T:
    """One section of a run."""
    return given.section(name).build(schema, prefix=name)
