"""One dataclass per kind of run: its sections, and from them the tree of config.yaml, the hash that names it and its folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datamodules.core.base import MedicalData
from experiments.config.online import NoOnline, Online
from experiments.config.protocols import protocol_class
from experiments.config.sections import (
    SCRATCH,
    BudgetConfig,
    GeneralConfig,
    ImagesConfig,
    LabelsConfig,
    LoadingConfig,
    PretrainStartConfig,
    StartConfig,
    TrackingConfig,
    TrainerConfig,
    TunedConfig,
)
from ssl_med.config import Settings, config_hash, keyed, path_keys, to_plain
from ssl_med.evaluation.protocols.finetune import InitConfig, PretrainInitConfig, TransferConfig
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.ledger import salted
from ssl_med.methods.core.base import Method
from ssl_med.networks.backbone import hashed_tree
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.optim import OptimConfig
from ssl_med.precision import AUTO, Precision
from ssl_med.spec import DataSpec, Need

Plain = Callable[[Any], Any]
"""How a section enters a tree: as it is, as a hash names it, or as others may see it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(ABC):
    """What every run has.

    * name: method or task, or the data set of a probe without labels. * labels: its budget; all of them where it takes none.
    * protocol: how the weights are evaluated, "" for a pretraining.
    * precision: the arithmetic that `trainer.precision` means on this machine.
    * other_backbones: settings that yamls give for networks that were not chosen; version 0.1 hashed them.
    * given: who set what, see `sources`.
    """

    kind: ClassVar[str]
    name: str
    data_class: type[MedicalData]
    data: Any
    backbone: BackboneConfig
    trainer: LoadingConfig
    tracking: TrackingConfig
    general: GeneralConfig
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    protocol: str = ""
    precision: Precision = field(default_factory=lambda: Precision("32"))
    other_backbones: Mapping[str, Any] = field(default_factory=dict)
    given: Settings = field(default_factory=lambda: Settings.merged(()), compare=False)

    @property
    def labelled(self) -> bool:
        """Whether the run reads labels."""
        return True

    @property
    def spec(self) -> DataSpec:
        """Contract of the data this run reads."""
        return self.data_class.make_spec(self.data, labelled=self.labelled)

    @property
    def need(self) -> Need | None:
        """What the run asks of the data besides single crops."""
        return None

    def sections(self, plain: Plain) -> dict[str, Any]:
        """The parts of the tree, in the order in which config.yaml shows them."""
        shared = {"data": self.data, "backbone": self.backbone, "trainer": self.trainer, "tracking": self.tracking}
        return {name: plain(section) for name, section in shared.items()}

    def tree(self) -> dict[str, Any]:
        """Plain tree of all settings: what config.yaml holds."""
        return self._tree(to_plain)

    def public_tree(self) -> dict[str, Any]:
        """`tree()` for what is shared: paths of data, which may name patients, as salted hashes."""
        return self._tree(_public)

    def hash(self, *, planned: bool = False) -> str:
        """Names the run by all that can change its result; where it is written and how it is watched cannot.

        Args:
            planned: name it before it is known which machine runs it, so that `trainer.precision=auto` stays auto.
        """
        tree = self._tree(keyed)
        tree["backbone"] = self._network_key(tree["backbone"])
        if planned and self.precision.automatic:
            tree["trainer"]["precision"] = AUTO
        return config_hash({key: value for key, value in tree.items() if value != {}})

    def folder(self) -> Path:
        """Where the run lives."""
        if self.general.out:
            return Path(self.general.out)
        return Path("runs") / self.kind / f"{self.stem()}-{self.hash()}"

    @abstractmethod
    def stem(self) -> str:
        """Name of the folder for people, before the hash."""

    def sources(self) -> dict[str, str]:
        """`trainer.max_steps` -> the file or "command line" that set it, or "default", for every key of `tree()`."""
        given = self.given.sources()
        return {key: given.get(key) or "default" for key in _leaves(self.tree())}

    def _network_key(self, tree: dict[str, Any]) -> dict[str, Any]:
        """What names the network in a hash, of its keyed settings."""
        return hashed_tree(tree, self.other_backbones)

    def _tree(self, plain: Plain) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, **self.sections(plain), **plain(self.general)}


@dataclass(frozen=True, kw_only=True)
class PretrainRun(RunConfig):
    """A method on the images of a data set, probed meanwhile where `online` asks for it.

    Where it starts from weights, `backbone` is their network; a hash names it by the weights, which may be elsewhere by then.
    """

    kind = "pretrain"
    general: PretrainStartConfig
    transfer: PretrainInitConfig = field(default_factory=PretrainInitConfig)
    method_class: type[Method]
    method: Any
    optim: OptimConfig
    trainer: TrainerConfig
    online: Online | None = None

    @property
    def labelled(self) -> bool:
        """Whether the run reads labels."""
        return False

    @property
    def need(self) -> Need | None:
        """What the method asks of the data."""
        return self.method_class.need(self.method, self.spec)

    def sections(self, plain: Plain) -> dict[str, Any]:
        """The parts of the tree; an online probe that is off counts for nothing in a hash."""
        online = self.online.tree(plain) if self.online else plain(NoOnline())
        method = {"name": self.name, **plain(self.method)}
        own = {"method": method, "online": online, "transfer": plain(self.transfer)}
        return {**own, **super().sections(plain), "optim": plain(self.optim)}

    def _network_key(self, tree: dict[str, Any]) -> dict[str, Any]:
        if self.general.init == SCRATCH:
            return super()._network_key(tree)
        return {key: value for key, value in tree.items() if key == "init"}

    def stem(self) -> str:
        """METHOD-DATA."""
        return f"{self.name.replace('/', '-')}-{self.data.name}"


@dataclass(frozen=True, kw_only=True)
class StartedRun(RunConfig):
    """A run that starts from weights: `general.init`."""

    general: StartConfig
    task: TaskConfig

    def stem(self) -> str:
        """TASK-WEIGHTS."""
        init = Path(self.general.init)
        weights = init.stem if init.suffix == ".safetensors" and init.stem != "backbone" else init.resolve().name
        return f"{self.name.replace('/', '-')}-{weights}"


@dataclass(frozen=True, kw_only=True)
class FinetuneRun(StartedRun):
    """Training on the labels of a task, and one test."""

    kind = "finetune"
    general: TunedConfig
    labels: BudgetConfig
    transfer: TransferConfig
    optim: OptimConfig
    trainer: TrainerConfig

    def sections(self, plain: Plain) -> dict[str, Any]:
        """The parts of the tree."""
        own = {"task": self.task, "labels": self.labels, "transfer": self.transfer}
        found = {name: plain(section) for name, section in own.items()}
        return {**found, **super().sections(plain), "optim": plain(self.optim)}


@dataclass(frozen=True, kw_only=True)
class ProbeRun(StartedRun):
    """What a frozen encoder knows, by `protocol`; those named pretext_... need no labels."""

    kind = "probe"
    transfer: InitConfig
    probe: Any

    @property
    def labelled(self) -> bool:
        """Whether the run reads labels."""
        return protocol_class(self.protocol).labels

    def sections(self, plain: Plain) -> dict[str, Any]:
        """The parts of the tree; a probe without labels has neither task nor budget."""
        found = {"protocol": self.protocol, "probe": plain(self.probe), "transfer": plain(self.transfer)}
        if self.labelled:
            found |= {"task": plain(self.task), "labels": plain(self.labels)}
        return {**found, **super().sections(plain)}

    def stem(self) -> str:
        """TASK-WEIGHTS-PROTOCOL."""
        return f"{super().stem()}-{self.protocol}"


@dataclass(frozen=True, kw_only=True)
class FeaturesRun(StartedRun):
    """An analysis of what a frozen encoder has learned, on images of a data set, or of a task where it reads labels."""

    kind = "features"
    transfer: InitConfig
    analysis: str
    features: Any
    images: ImagesConfig
    with_task: bool

    @property
    def labelled(self) -> bool:
        """Whether the run reads labels."""
        return self.with_task

    def sections(self, plain: Plain) -> dict[str, Any]:
        """The parts of the tree; without labels it has no task."""
        found = {"analysis": self.analysis, "features": plain(self.features), "images": plain(self.images)}
        found["transfer"] = plain(self.transfer)
        if self.labelled:
            found["task"] = plain(self.task)
        return {**found, **super().sections(plain)}

    def stem(self) -> str:
        """TASK-WEIGHTS-ANALYSIS."""
        return f"{super().stem()}-{self.analysis}"


def _public(section: Any) -> Any:
    tree = to_plain(section)
    for key in path_keys(type(section)):
        if tree[key]:
            tree[key] = f"path-{salted(str(Path(tree[key]).resolve()))[:12]}"
    return tree


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]
    return found
