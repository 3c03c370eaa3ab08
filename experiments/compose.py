"""From words on the command line to one frozen, validated run config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from datamodules.core.base import MedicalData
from experiments.online import PREFIX, Online, OnlineConfig, check_monitor, spelled
from ssl_med.catalogue import get_class, list_names, nearest
from ssl_med.config import Layer, build, config_hash, parse_words, read_yaml, to_plain
from ssl_med.evaluation.dense import DenseConfig
from ssl_med.evaluation.pretext import PretextConfig
from ssl_med.evaluation.probes import FewshotConfig, KnnConfig, LinearConfig
from ssl_med.evaluation.protocols import InitConfig, TransferConfig
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.ledger import salted
from ssl_med.methods._base import Method
from ssl_med.networks.backbone import BackboneConfig, resolve
from ssl_med.optim import OptimConfig
from ssl_med.spec import DataSpec, SslMedError

CONF = Path(__file__).parent / "conf"
SCRATCH = "scratch"
PATHS = ("root", "store", "split_file", "quarantine")  # keys of data that hold paths
PASS = ("accelerator", "batch_size", "precision", "num_workers", "progress")  # keys of trainer that a probe has
PROTOCOLS: dict[str, type] = {
    "linear": LinearConfig,
    "knn": KnnConfig,
    "fewshot": FewshotConfig,
    "pretext_rotation": PretextConfig,
    "pretext_position": PretextConfig,
}


@dataclass
class TrainerConfig:
    """How long, how wide, on what, and how often to look."""

    max_epochs: int = -1
    """-1: no limit; an epoch of volumes is crops_per_volume crops of each"""
    max_steps: int = -1
    """optimiser steps; -1: no limit"""
    batch_size: int = 32
    """samples per batch over all devices"""
    accumulate: int = 1
    """batches per optimiser step"""
    clip: float = 0.0
    """largest gradient norm; 0: no clipping"""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """arithmetic of the forward pass"""
    accelerator: str = "auto"
    """auto, cpu, gpu"""
    devices: str = "auto"
    """number of devices per node, or auto"""
    num_nodes: int = 1
    """number of machines"""
    strategy: str = "auto"
    """auto, ddp, ddp_spawn or another Lightning strategy"""
    sync_batchnorm: bool = True
    """with several devices: batch statistics over the global batch, so that the result does not depend on their number"""
    num_workers: int = 0
    """loader processes per device"""
    val_every_steps: int = 0
    """validate every so many batches; 0: after each epoch"""
    patience: int = 0
    """stop when the monitored value has not improved for so many validations, of an online probe: probes; 0: never"""
    monitor: str = "val/loss"
    """value that names the best weights: of the validation (val/...), the collapse monitors or the online probe; lower is
    better for losses, mse, alignment and uniformity, higher for everything else"""
    select: Literal["best", "last"] = "best"
    """weights that leave the run: best validation, or the last"""
    test_every_steps: int = 0
    """finetune: test every so many steps for a learning curve (curve/METRIC), on which nothing is chosen; 0: never"""
    checkpoint_every_steps: int = 500
    """write last.ckpt every so many steps, besides each validation and the end"""
    collapse_patience: int = 20
    """pretraining: stop when the features have been collapsed in so many monitors (one each log_every steps); 0: never"""
    log_every: int = 10
    """steps between lines of metrics.jsonl"""
    progress: bool = True
    """progress bar"""
    channels_last: bool = False
    """memory format of the network's convolutions"""

    def __post_init__(self) -> None:
        if self.max_epochs < 0 and self.max_steps < 0:
            raise SslMedError("trainer: no end is set; give trainer.max_epochs=N or trainer.max_steps=N")
        for key in ("batch_size", "accumulate", "num_nodes", "log_every", "checkpoint_every_steps"):
            if getattr(self, key) < 1:
                raise SslMedError(f"trainer.{key} is {getattr(self, key)}; it must be at least 1")
        if self.test_every_steps and (self.select == "best" or self.patience):
            raise SslMedError(
                "trainer.test_every_steps looks at the test part during training, so nothing may be chosen on the way; "
                "set trainer.select=last and trainer.patience=0"
            )
        if self.collapse_patience < 0:
            raise SslMedError(f"trainer.collapse_patience is {self.collapse_patience}; it must be 0 or more")
        if self.devices != "auto" and not (self.devices.isdigit() and int(self.devices) > 0):
            raise SslMedError(f"trainer.devices is '{self.devices}'; give a number of devices or auto")


@dataclass
class TrackingConfig:
    """Where metrics go besides metrics.jsonl; nothing is ever sent unless `wandb: online`."""

    wandb: Literal["off", "offline", "online"] = "offline"
    """offline writes a wandb folder into the run, to be sent by `wandb sync`"""
    project: str = "ssl_med"
    """W&B project"""
    entity: str = ""
    """W&B team or user; empty: the account's default"""
    table: str = ""
    """comparison that the run belongs to, one of its tags"""
    pictures: bool = False
    """W&B gets the pictures of test cases too: they show the scans"""

    def __post_init__(self) -> None:
        longest = 58  # "table:NAME" is a W&B tag, of at most 64
        if len(self.table) > longest:
            raise SslMedError(f"tracking.table has {len(self.table)} letters; W&B takes at most {longest}")


@dataclass
class LabelsConfig:
    """How many labelled training patients a task may use."""

    fraction: float = 1.0
    """share of the training patients, in (0, 1]; the smaller budget lies within the larger one of the same seed"""
    shots: int = 0
    """training patients of each class, in place of a fraction; 0: off"""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise SslMedError(f"labels.fraction is {self.fraction:g}; it must lie in (0, 1]")
        if self.shots < 0:
            raise SslMedError(f"labels.shots is {self.shots}; it must be 0 or more")
        if self.shots and self.fraction != 1:
            raise SslMedError("labels.fraction and labels.shots are both given; choose one")

    @property
    def whole(self) -> bool:
        """All labels are used."""
        return self.fraction == 1 and not self.shots


@dataclass
class BudgetConfig(LabelsConfig):
    """And what budgets of different size have in common when they are trained."""

    match: Literal["epochs", "steps"] = "epochs"
    """what trainer.max_epochs counts: epochs of the budget, so that fewer labels mean fewer steps; or steps: every budget
    takes the steps, the schedule and the validations of all labels. trainer.max_steps alone always matches steps"""


@dataclass
class GeneralConfig:
    """Keys without a section."""

    seed: int = 0
    """of initial weights, batches, views and label budgets; the split has its own data.split_seed"""
    out: str = ""
    """run folder; empty: runs/<kind>/<name>-<hash>"""
    init: str = SCRATCH
    """finetune, probe: run folder or backbone file to start from, or scratch"""
    resume: bool = True
    """go on from last.ckpt when the run folder holds one"""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise SslMedError(f"seed is {self.seed}; it must be 0 or more, and below 2^32")


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

    @property
    def labelled(self) -> bool:
        """Whether the run reads labels."""
        return self.kind in ("finetune", "external") or (
            self.kind == "probe" and not self.protocol.startswith("pretext")
        )

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

    def hash(self) -> str:
        """Names the run by all that can change its result; where it is written and how it is watched cannot."""
        tree = self.tree()
        for key in ("out", "resume", "tracking"):
            tree.pop(key, None)
        for key in ("num_workers", "progress", "log_every", "checkpoint_every_steps", "collapse_patience"):
            tree["trainer"].pop(key, None)
        tree.get("probe", {}).pop("cache", None)
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
            tree["init"] = str(Path(tree["init"]).resolve())
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


def names(group: str) -> list[str]:
    """What `method=`, `data=`, `task=` or `trainer=` can be."""
    if group == "method":
        return list_names("ssl_med.methods")
    if group == "data":
        return list_names("datamodules")
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def presets() -> dict[str, str]:
    """`method/preset` of every named variant, conf/method/METHOD/PRESET.yaml, and its first comment line: what it is."""
    found = {}
    for path in sorted((CONF / "method").glob("*/*.yaml")):
        first = path.read_text().partition("\n")[0]
        found[f"{path.parent.name}/{path.stem}"] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def compose_pretrain(words: Sequence[str]) -> RunConfig:
    """`method=pcrl data=luna data.root=DIR ...` -> RunConfig."""
    chosen, line = _choose(words, required=("method", "data"), optional=("trainer",))
    method_class = _method_class(chosen["method"])
    data_class = get_class("datamodules", chosen["data"], kind="data", base=MedicalData)
    layers = _layers(chosen, line, ("data", "method", "trainer"), data_class, chosen["data"])
    keys = ("method", "data", "backbone", "optim", "trainer", "tracking", "seed", "out", "resume")
    _known(layers[:-1], keys)
    _known([line], (*keys, "online"))
    if str(line.section("trainer").tree.get("monitor", "")).startswith(PREFIX):
        # recipes that keep the last weights have no value to choose by; whoever names one here has
        layers.insert(-1, Layer("", {"trainer": {"select": "best"}}))
    method = _section(method_class.Config, layers, "method")
    return _finish(
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
        data_class, name, layers = _of_task(picked, Layer(line.source, {"data": section.section("data").tree}))
        data: Any = build(data_class.Config, [Layer("", {"name": name}), *_sections(layers, "data")], prefix="data")
        if not data.root:
            raise SslMedError(f"data.root is missing: point it at the folder of task '{settings.task}', data.root=DIR")
        if not Path(data.root).is_dir():
            raise SslMedError(f"data.root={data.root}: no such folder; it should hold {data_class.layout}")
    task = build(TaskConfig, [Layer("", {"name": settings.task}), *_sections(layers, "task")], prefix="task")
    return Online(settings, data_class, data, task)


def compose_finetune(words: Sequence[str]) -> RunConfig:
    """`task=lits init=RUN data.root=DIR ...` -> RunConfig."""
    chosen, line = _choose(words, required=("task",), optional=("data", "trainer"))
    data_class, data_name, layers = _of_task(chosen, line)
    sections = ("task", "data", "backbone", "optim", "trainer", "tracking", "labels", "transfer")
    _known(layers, (*sections, "seed", "out", "resume", "init"))
    return _finish("finetune", chosen["task"], layers, data_class=data_class, data_name=data_name)


def compose_probe(words: Sequence[str]) -> RunConfig:
    """`task=luna protocol=linear init=RUN data.root=DIR ...` -> RunConfig; pretext protocols take data=NAME.

    What yamls say of training (optim, most of trainer) has no meaning here and is left out; on the command line it is refused.
    """
    protocols = [word.partition("=")[2] for word in words if word.startswith("protocol=")]
    rest = [word for word in words if not word.startswith("protocol=")]
    if len(protocols) != 1 or protocols[0] not in PROTOCOLS:
        if len(protocols) > 1:
            raise SslMedError("command line: 'protocol' is given twice")
        if not protocols or not protocols[0]:
            raise SslMedError(f"protocol=NAME is missing; there are: {', '.join(PROTOCOLS)}")
        raise SslMedError(f"protocol '{protocols[0]}' is unknown{nearest(protocols[0], list(PROTOCOLS))}")
    protocol = protocols[0]
    pretext = protocol.startswith("pretext")
    chosen, line = _choose(
        rest, required=("data",) if pretext else ("task",), optional=("trainer",) if pretext else ("data", "trainer")
    )
    own: tuple[str, ...] = (
        "data", "backbone", "trainer", "tracking", "transfer", "probe", "seed", "out", "resume", "init",
    )  # fmt: skip
    if pretext:
        name = data_name = chosen["data"]
        data_class = get_class("datamodules", data_name, kind="data", base=MedicalData)
        layers = _layers(chosen, line, ("data", "trainer"), data_class, data_name)
    else:
        name, own = chosen["task"], (*own, "task", "labels")
        data_class, data_name, layers = _of_task(chosen, line)
    _known([line], own)
    _known([line.section("trainer")], PASS, prefix="trainer.")
    _known(layers, (*own, "optim", "task"))
    kept = {"trainer": PASS, "transfer": tuple(item.name for item in fields(InitConfig))}
    layers = [*(_without(layer, kept) for layer in layers[:-1]), line]
    once = Layer("", {"trainer": {"max_epochs": 1}})  # one pass
    return _finish("probe", name, [once, *layers], data_class=data_class, data_name=data_name, protocol=protocol)


def _of_task(chosen: dict[str, str], line: Layer) -> tuple[type[MedicalData], str, list[Layer]]:
    """Family, its name and all layers of a task."""
    if chosen["task"] not in names("task"):
        raise SslMedError(f"task '{chosen['task']}' is unknown{nearest(chosen['task'], names('task'))}")
    task_yaml = _conf("task", chosen["task"])
    data_name = chosen.get("data") or task_yaml.section("data").tree.get("name")
    if not data_name:
        raise SslMedError(f"{task_yaml.source}: key 'data.name' is missing")
    data_class = get_class("datamodules", data_name, kind="data", base=MedicalData)
    return (
        data_class,
        data_name,
        _layers({"data": data_name, **chosen}, line, ("data", "task", "trainer"), data_class, data_name),
    )


def _without(layer: Layer, kept: dict[str, tuple[str, ...]]) -> Layer:
    """A yaml's layer without the sections of training and, of some sections, with the kept keys alone."""
    tree = {key: value for key, value in layer.tree.items() if key != "optim"}
    for section, keys in kept.items():
        if section in tree:
            tree[section] = {key: value for key, value in layer.section(section).tree.items() if key in keys}
    return Layer(layer.source, tree)


@dataclass
class PrepareConfig:
    """What `ssl-med prepare` does besides reading the data set."""

    store: str = ""
    """folder to write; outside data.root"""
    workers: int = 0
    """processes, each with one volume in memory; 0: one per core"""
    verify: bool = False
    """read back everything that is in the store already, and replace what is damaged"""

    def __post_init__(self) -> None:
        if not self.store:
            raise SslMedError(
                "store=DIR is missing: say where to write, ssl-med prepare data=NAME data.root=RAW store=DIR"
            )
        if self.workers < 0:
            raise SslMedError(f"workers is {self.workers}; it must be 0 or more")


@dataclass
class CheckConfig:
    """Keys of `ssl-med check` besides data."""

    out: str = ""
    """folder of the report; empty: runs/check/<data>-<hash of root>"""
    workers: int = field(
        default_factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    """processes that read"""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise SslMedError(f"workers is {self.workers}; it must be 0 or more")


def compose_prepare(words: Sequence[str]) -> tuple[PrepareConfig, MedicalData]:
    """`data=luna data.root=RAW store=DIR [method=pcrl] ...`; a method says which crops it will ask for."""
    chosen, line = _choose(words, required=("data",), optional=("method",))
    data_class = get_class("datamodules", chosen["data"], kind="data", base=MedicalData)
    layers = _layers(chosen, line, ("data", "method"), data_class, chosen["data"])
    own = ("store", "workers", "verify")
    _known([line], ("data", "method", *own))
    named = Layer("", {"name": chosen["data"], "store": ""})
    data: Any = build(data_class.Config, [named, *_sections(layers, "data")], prefix="data")
    if data.store:
        raise SslMedError(f"command line: prepare writes to store=DIR, not data.store; say store={data.store}")
    need = None
    if "method" in chosen:
        method_class = _method_class(chosen["method"])
        method: Any = _section(method_class.Config, layers, "method")
        need = method_class.need(method, data_class.make_spec(data, labelled=False))
    settings = build(PrepareConfig, [Layer(line.source, {k: v for k, v in line.tree.items() if k in own})], prefix="")
    return settings, data_class(data, need=need, labelled=False, batch_size=1)


def compose_check(words: Sequence[str]) -> tuple[CheckConfig, type[MedicalData], Any]:
    """`data=lits data.root=DIR out=DIR workers=4` -> settings, family, its config."""
    chosen, line = _choose(words, required=("data",), optional=())
    data_class, data, layers = _data_only(chosen["data"], line)
    _known(layers, ("data", "out", "workers"))
    general = [Layer(x.source, {k: v for k, v in x.tree.items() if k in ("out", "workers")}) for x in layers]
    return build(CheckConfig, general, prefix=""), data_class, data


def compose_source(name: str, root: str) -> tuple[type[MedicalData], Any]:
    """A family with its default settings, at a root."""
    data_class, data, _ = _data_only(name, Layer("command line", {"data": {"root": root}}))
    return data_class, data


def _data_only(name: str, line: Layer) -> tuple[type[MedicalData], Any, list[Layer]]:
    data_class = get_class("datamodules", name, kind="data", base=MedicalData)
    layers = _layers({"data": name}, line, ("data",), data_class, name)
    return (
        data_class,
        build(data_class.Config, [Layer("", {"name": name}), *_sections(layers, "data")], prefix="data"),
        layers,
    )


def _finish(
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
    general_keys = ("seed", "out", "init", "resume")
    general_layers = [Layer(x.source, {k: v for k, v in x.tree.items() if k in general_keys}) for x in layers]
    data: Any = build(data_class.Config, [Layer("", {"name": data_name}), *_sections(layers, "data")], prefix="data")
    labelled = kind != "pretrain" and not protocol.startswith("pretext")
    spec = data_class.make_spec(data, labelled=labelled)
    probe = None
    if kind == "probe":
        probe = _section(_probe_schema(protocol, spec, name), layers, "probe")
    backbone = resolve(_section(BackboneConfig, layers, "backbone"), spec)
    trainer = _section(TrainerConfig, layers, "trainer")
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
        optim=_section(OptimConfig, layers, "optim"),
        trainer=trainer,
        tracking=_section(TrackingConfig, layers, "tracking"),
        general=build(GeneralConfig, general_layers, prefix=""),
        labels=_section(LabelsConfig if kind == "probe" else BudgetConfig, layers, "labels"),
        transfer=_section(InitConfig if kind == "probe" else TransferConfig, layers, "transfer"),
        task=build(TaskConfig, [Layer("", {"name": name}), *_sections(layers, "task")], prefix="task"),
        protocol=protocol,
        probe=probe,
        online=online,
    )


def _probe_schema(protocol: str, spec: DataSpec, name: str) -> type:
    """Settings of a protocol; a linear probe of masks is one of voxels."""
    if spec.target == "mask":
        if protocol != "linear":
            raise SslMedError(f"protocol={protocol} needs class labels, task '{name}' has masks; use protocol=linear")
        return DenseConfig
    return PROTOCOLS[protocol]


def _choose(
    words: Sequence[str], *, required: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[dict[str, str], Layer]:
    groups = (*required, *optional)
    chosen: dict[str, str] = {}
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in groups:
            if key in chosen and chosen[key] != value:
                raise SslMedError(f"command line: '{key}' is given twice")
            chosen[key] = value
        else:
            rest.append(word)
    for group in required:
        if not chosen.get(group):
            raise SslMedError(f"{group}=NAME is missing; there are: {', '.join(names(group))}")
    return chosen, parse_words(rest)


def _conf(group: str, name: str) -> Layer:
    path = CONF / group / f"{name}.yaml"
    source = f"conf/{group}/{name}.yaml"
    if not path.is_file():
        raise SslMedError(f"{group} '{name}' is unknown{nearest(name, names(group))}")
    return read_yaml(path, source)


def _method_class(name: str) -> type[Method]:
    """The class of `method` or `method/preset`; refuses a preset that no yaml describes."""
    method, slash, preset = name.partition("/")
    found: type[Method] = get_class("ssl_med.methods", method, kind="method", base=Method)
    own = [known.partition("/")[2] for known in presets() if known.startswith(f"{method}/")]
    if slash and preset not in own:
        hint = nearest(preset, own) if own else "; it has none"
        raise SslMedError(f"method '{name}' is unknown: {method} has no preset '{preset}'{hint}")
    return found


def _layers(
    chosen: dict[str, str], line: Layer, order: tuple[str, ...], data_class: type[MedicalData], data_name: str
) -> list[Layer]:
    found = []
    for group in order:
        if group in chosen:
            name, slash, _ = chosen[group].partition("/")
            found.append(_conf(group, name))
            if slash:  # a preset is laid over its method
                found.append(_conf(group, chosen[group]))
    sections = _sections([*found, line], "data")
    dims = data_class.spatial_dims(build(data_class.Config, [Layer("", {"name": data_name}), *sections], prefix="data"))
    if "trainer" in chosen:  # what a method or a task says of this trainer is more special than the trainer's own
        found += [layer.section(f"when_{chosen['trainer']}") for layer in found]
    layers = []
    for layer in found:
        layers.append(Layer(layer.source, {k: v for k, v in layer.tree.items() if not k.startswith("when_")}))
        layers.append(layer.section(f"when_{dims}d"))
    return [*layers, line]


def _known(layers: list[Layer], keys: tuple[str, ...], *, prefix: str = "") -> None:
    for layer in layers:
        for key in layer.tree:
            if key not in keys:
                raise SslMedError(f"{layer.source}: key '{prefix}{key}' is unknown{nearest(key, list(keys))}")


def _sections(layers: list[Layer], name: str) -> list[Layer]:
    return [layer.section(name) for layer in layers]


def _section(schema: Any, layers: list[Layer], name: str) -> Any:
    return build(schema, _sections(layers, name), prefix=name)
