"""From the overrides of a command line to one frozen, validated run config."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from datamodules.core.base import MedicalData
from experiments.config.network import build_network
from experiments.config.online import PREFIX, Online, OnlineConfig, check_monitor, spelled
from experiments.config.protocols import asked_protocol, probe_class, protocol_class
from experiments.config.sections import (
    SCRATCH,
    BudgetConfig,
    GeneralConfig,
    LabelsConfig,
    TrackingConfig,
    TrainerConfig,
)
from experiments.config.sources import (
    build_data,
    build_section,
    build_top,
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
from ssl_med.config import Layer, build, config_hash, read_yaml, to_plain
from ssl_med.evaluation.protocols.finetune import InitConfig, TransferConfig
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.ledger import salted
from ssl_med.methods.core.base import Method
from ssl_med.networks.backbone import hashed_tree
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.optim import OptimConfig
from ssl_med.precision import AUTO, Precision, decide
from ssl_med.reports.run_folder import CONFIG
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.values import unquoted

PATHS = ("root", "store", "split_file", "quarantine")  # keys of data that hold paths
PASS = (
    "accelerator",
    "batch_size",
    "precision",
    "num_workers",
    "threads",
    "progress",
)  # keys of trainer that a probe has


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run; `tree()` is what config.yaml holds."""

    kind: Literal["pretrain", "finetune", "probe", "external"]
    name: str
    method_class: type[Method] | None
    method: Any
    data_class: type[MedicalData]
    data: Any
    backbone: BackboneConfig
    optim: OptimConfig
    trainer: TrainerConfig
    tracking: TrackingConfig
    general: GeneralConfig
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    transfer: InitConfig = field(default_factory=TransferConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    protocol: str = ""
    probe: Any = None
    online: Online | None = None
    external: Any = None
    precision: Precision = field(default_factory=lambda: Precision("32"))
    other_backbones: Mapping[str, Any] = field(default_factory=dict)
    """what yamls said of networks that were not taken; version 0.1 hashed it"""

    @property
    def labelled(self) -> bool:
        """Whether the run reads labels."""
        return self.kind in ("finetune", "external") or (self.kind == "probe" and protocol_class(self.protocol).labels)

    @property
    def spec(self) -> DataSpec:
        """Contract of the data this run reads."""
        return self.data_class.make_spec(self.data, labelled=self.labelled)

    def tree(self) -> dict[str, Any]:
        """Plain tree of all settings."""
        tree: dict[str, Any] = {"kind": self.kind, "name": self.name}
        if self.kind == "pretrain":
            tree["method"] = {"name": self.name, **to_plain(self.method)}
            tree["online"] = self.online.tree() if self.online else to_plain(OnlineConfig())
            skipped = {"init"}
        elif self.kind in ("probe", "external"):
            if self.kind == "external":
                tree |= {"external": to_plain(self.external), "task": to_plain(self.task)}
            else:
                tree |= {"protocol": self.protocol, "probe": to_plain(self.probe), "transfer": to_plain(self.transfer)}
                if self.labelled:
                    tree |= {"task": to_plain(self.task), "labels": to_plain(self.labels)}
            for section in ("data", "backbone"):
                tree[section] = to_plain(getattr(self, section))
            tree["tracking"] = to_plain(self.tracking)
            tree["trainer"] = {key: getattr(self.trainer, key) for key in PASS}
            return tree | asdict(self.general)
        else:
            tree |= {"task": to_plain(self.task), "labels": to_plain(self.labels), "transfer": to_plain(self.transfer)}
            skipped = set()
        for section in ("data", "backbone", "optim", "trainer", "tracking"):
            tree[section] = to_plain(getattr(self, section))
        return tree | {key: value for key, value in asdict(self.general).items() if key not in skipped}

    def public_tree(self) -> dict[str, Any]:
        """`tree()` for what is shared: paths of data, which may name patients, as salted hashes."""
        tree = self.tree()
        for data in (tree["data"], tree.get("online", {}).get("data", {})):
            for key in PATHS:
                if data.get(key):
                    data[key] = f"path-{salted(str(Path(data[key]).resolve()))[:12]}"
        return tree

    def hash(self, *, planned: bool = False) -> str:
        """Names the run by all that can change its result; where it is written and how it is watched cannot.

        Args:
            planned: name it before it is known which machine runs it, so that `trainer.precision=auto` stays auto.
        """
        tree = self.tree()
        if planned and self.precision.automatic:
            tree["trainer"]["precision"] = AUTO
        for key in ("out", "resume", "tracking"):
            tree.pop(key, None)
        for key in ("num_workers", "threads", "progress", "log_every", "checkpoint_every_steps", "collapse_patience"):
            tree["trainer"].pop(key, None)
        tree.get("probe", {}).pop("cache", None)
        tree["backbone"] = hashed_tree(tree["backbone"], self.other_backbones)
        if self.online is None:
            tree.pop("online", None)
        for data in (tree["data"], *((tree["online"]["data"],) if self.online else ())):
            data.pop("cache_gb", None)
            # crops are the same from a store, but its scans are mixed more freely; where it lies does not matter
            data["store"] = bool(data["store"])
            data["root"] = str(Path(data["root"]).resolve())
            if data["quarantine"] and Path(data["quarantine"]).is_file():
                data["quarantine"] = salted(Path(data["quarantine"]).read_bytes())
        if self.kind != "pretrain" and self.general.init != SCRATCH:
            tree["init"] = _origin(Path(tree["init"]).resolve())
        return config_hash(tree)

    def folder(self) -> Path:
        """Where the run lives."""
        if self.general.out:
            return Path(self.general.out)
        name = self.name.replace("/", "-")
        middle = f"{name}-{self.data.name}" if self.kind == "pretrain" else f"{name}-{self.init_name()}"
        if self.kind == "probe":
            middle += f"-{self.protocol}"
        return Path("runs") / self.kind / f"{middle}-{self.hash()}"

    def init_name(self) -> str:
        """Short word for where the weights come from."""
        init = Path(self.general.init)
        return init.stem if init.suffix == ".safetensors" and init.stem != "backbone" else init.resolve().name


def compose_pretrain(overrides: Sequence[str]) -> RunConfig:
    """`method=pcrl data=luna data.root=DIR ...` -> RunConfig."""
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
    method = build_section(method_class.Config, layers, "method")
    return finish(
        "pretrain",
        chosen["method"],
        layers,
        data_class=data_class,
        data_name=chosen["data"],
        method_class=method_class,
        method=method,
        online=_online(line, chosen),
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


def compose_finetune(overrides: Sequence[str]) -> RunConfig:
    """`task=lits init=RUN data.root=DIR ...` -> RunConfig."""
    chosen, line = choose(overrides, required=("task",), optional=("data", "trainer"))
    data_class, data_name, layers = of_task(chosen, line)
    sections = ("task", "data", "backbone", "optim", "trainer", "tracking", "labels", "transfer")
    check_keys(layers, (*sections, "seed", "out", "resume", "init"))
    return finish("finetune", chosen["task"], layers, data_class=data_class, data_name=data_name)


def compose_probe(overrides: Sequence[str]) -> RunConfig:
    """`task=luna protocol=linear init=RUN data.root=DIR ...` -> RunConfig; pretext protocols take data=NAME.

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
    check_keys([line.section("trainer")], PASS, prefix="trainer.")
    check_keys(layers, (*own, "optim", "task"))
    kept = {"trainer": PASS, "transfer": tuple(item.name for item in fields(InitConfig))}
    layers = [*(without(layer, kept) for layer in layers[:-1]), line]
    once = Layer("", {"trainer": {"max_epochs": 1}})  # one pass
    return finish("probe", name, [once, *layers], data_class=data_class, data_name=data_name, protocol=protocol)


def _origin(path: Path) -> str:
    """A run folder named by its hash is the same wherever it lies, so runs that start from it can move with it."""
    return path.name if re.fullmatch(r".+-[0-9a-f]{8}", path.name) else str(path)


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


def finish(
    kind: Literal["pretrain", "finetune", "probe", "external"],
    name: str,
    layers: list[Layer],
    *,
    data_class: type[MedicalData],
    data_name: str,
    method_class: type[Method] | None = None,
    method: Any = None,
    protocol: str = "",
    online: Online | None = None,
) -> RunConfig:
    """All sections of a run from its layers."""
    data = build_data(data_class, data_name, layers)
    labelled = kind != "pretrain" and (not protocol or protocol_class(protocol).labels)
    spec = data_class.make_spec(data, labelled=labelled)
    probe = None
    if kind == "probe":
        probe = build_section(probe_class(protocol, spec, name).Config, layers, "probe")
    backbone, others = build_network(layers, spec)
    general = build_top(GeneralConfig, layers, ("seed", "out", "init", "resume"))
    asked = build_section(TrainerConfig, layers, "trainer")
    precision = decide(asked.precision, accelerator=asked.accelerator, begun=_begun(general.out))
    trainer = replace(asked, precision=precision.value)
    if online is not None:
        online.check(spec, backbone)
    check_monitor(trainer.monitor, online)
    return RunConfig(
        kind=kind,
        name=name,
        method_class=method_class,
        method=method,
        data_class=data_class,
        data=data,
        backbone=backbone,
        other_backbones=others,
        optim=build_section(OptimConfig, layers, "optim"),
        trainer=trainer,
        tracking=build_section(TrackingConfig, layers, "tracking"),
        general=general,
        labels=build_section(LabelsConfig if kind == "probe" else BudgetConfig, layers, "labels"),
        transfer=build_section(InitConfig if kind == "probe" else TransferConfig, layers, "transfer"),
        task=build(TaskConfig, [Layer("", {"name": name}), *sections_of(layers, "task")], prefix="task"),
        protocol=protocol,
        probe=probe,
        online=online,
        precision=precision,
    )


def _begun(out: str) -> str:
    """Arithmetic of the run that the folder `out` holds already, perhaps begun on another kind of machine; '' without one."""
    path = Path(out) / CONFIG
    if not out or not path.is_file():
        return ""
    return str(read_yaml(path, str(path)).section("trainer").tree.get("precision", ""))
