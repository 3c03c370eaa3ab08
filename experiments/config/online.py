"""What is asked of an online probe, and what is refused before work starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from datamodules.core.base import MedicalData
from experiments.config.sources import gather, names
from ssl_med.config import Layer, build, to_plain
from ssl_med.evaluation.metrics import metric_of
from ssl_med.evaluation.tasks import TaskConfig, task_class
from ssl_med.networks.backbone import check_backbone
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.ranges import LARGEST, Count, Level, Natural, Positive, Range
from ssl_med.setting import Affects, setting
from ssl_med.spec import DataSpec, SslMedError

PREFIX = "online/"


@dataclass
class OnlineConfig:
    """Which labels are probed, how and how often; `online.data.*` are the settings of the task's data."""

    task: str = ""
    """task with classes or findings whose labels are probed while pretraining; empty: off"""
    protocol: Literal["knn", "linear"] = "knn"
    """weighted votes of nearest neighbours, or logistic regression"""
    every_steps: Count = setting(default=200, needs={"every_epochs": (0,)})
    """optimiser steps between probes; there is one before the first step and one after the last, too"""
    every_epochs: Natural = 0
    """epochs between probes, in place of steps; 0: by steps"""
    samples: Annotated[int, Range(2, LARGEST)] = 512
    """about so many labelled samples of the task's training part, and of its validation part: whole subjects, by class"""
    levels: tuple[Level, ...] = (-1,)
    """levels of the encoder whose pooled features are joined, 0: finest, -1: last"""
    neighbours: Count = setting(default=20, needs={"protocol": ("knn",)})
    """knn: number of neighbours, at most all samples"""
    l2: Positive = setting(default=1.0, needs={"protocol": ("linear",)})
    """linear: L2 value, on the sum of the losses"""


@dataclass
class NoOnline(OnlineConfig):
    """Settings of a probe that is off, which change nothing."""

    AFFECTS: ClassVar[Affects] = "nothing"


@dataclass(frozen=True)
class Online:
    """An online probe as it was asked for."""

    settings: OnlineConfig
    data_class: type[MedicalData]
    data: Any
    task: TaskConfig

    @property
    def spec(self) -> DataSpec:
        """Contract of the labelled data."""
        return self.data_class.make_spec(self.data, labelled=True)

    @property
    def key(self) -> str:
        """Name under which the number is logged and monitored, such as online/knn_auc."""
        return f"{PREFIX}{self.settings.protocol}_{task_class(self.spec).metric}"

    def tree(self, plain: Callable[[Any], Any] = to_plain) -> dict[str, Any]:
        """Tree of all settings, each section by `plain`."""
        return {**plain(self.settings), "data": plain(self.data)}

    def check(self, spec: DataSpec, backbone: BackboneConfig) -> None:
        """Refuses labels that cannot be probed and images that the pretrained network cannot take.

        Raises:
            SslMedError: masks, other dimensions or channels than `spec` of the pretraining, or a patch size that does not fit.
        """
        name, own = self.settings.task, self.spec
        if own.target == "mask":
            raise SslMedError(
                f"online.task={name}: has masks; an online probe needs classes or findings, since voxel probes are too slow "
                "to repeat: choose such a task, or run `ssl-med probe` after the pretraining"
            )
        if own.spatial_dims != spec.spatial_dims:
            raise SslMedError(
                f"online.task={name}: is {own.spatial_dims}D, the pretraining on {spec.name} is {spec.spatial_dims}D; "
                f"choose a task in {spec.spatial_dims}D"
            )
        if own.in_channels != spec.in_channels:
            raise SslMedError(
                f"online.task={name}: images have {own.in_channels} channels, those of the pretraining on {spec.name} have "
                f"{spec.in_channels}; choose a task with {spec.in_channels}"
            )
        if own.intensity.standardised != spec.intensity.standardised:
            raise SslMedError(
                f"online.data.normalisation={own.intensity.normalisation}: the pretraining on {spec.name} has "
                f"data.normalisation={spec.intensity.normalisation}; give both the same"
            )
        with spelled():
            check_backbone(backbone, own)


def compose_online(line: Layer, trainer: str | None) -> Online | None:
    """What `online.task=NAME online.data.root=DIR ...` on a command line asks for; None without a task.

    Args:
        line: overrides of the pretraining.
        trainer: what it chose by `trainer=NAME`; the data of the task follow it.
    """
    section = line.section("online")
    own = Layer(line.source, {key: value for key, value in section.tree.items() if key != "data"})
    settings = build(OnlineConfig, [own], prefix="online")
    if not settings.task:
        if section.tree:
            raise SslMedError(f"online.task=NAME is missing; there are: {', '.join(names('task'))}")
        return None
    chosen = {"task": settings.task, **({"trainer": trainer} if trainer else {})}
    with spelled():
        said = gather(
            chosen, Layer(line.source, {"data": section.section("data").tree}), order=("data", "task", "trainer")
        )
        if not said.data.root:
            raise SslMedError(f"data.root is missing: point it at the folder of task '{settings.task}', data.root=DIR")
        if not Path(said.data.root).is_dir():
            raise SslMedError(f"data.root={said.data.root}: no such folder; it should hold {said.data_class.layout}")
    return Online(settings, said.data_class, said.data, said.settings.section("task").build(TaskConfig, prefix="task"))


def check_monitor(monitor: str, online: Online | None) -> None:
    """Refuses a monitored value that cannot choose: of unknown direction, or of an online probe that does not log it."""
    if monitor.startswith(PREFIX) and online is None:
        raise SslMedError(f"trainer.monitor={monitor}: there is no online probe; give online.task=NAME to `pretrain`")
    if monitor.startswith(PREFIX) and online is not None and monitor != online.key:
        raise SslMedError(f"trainer.monitor={monitor}: is never logged; the online probe logs {online.key}")
    try:
        metric_of(monitor)
    except SslMedError as error:
        raise SslMedError(f"trainer.monitor={error}") from None


@contextmanager
def spelled() -> Iterator[None]:
    """Complaints about the labelled data name the keys as the user gives them: online.data.root, not data.root."""
    try:
        yield
    except SslMedError as error:
        text = re.sub(r"(?<![\w./])data(?=\.[a-z])", "online.data", str(error))
        raise SslMedError(re.sub(r"(?<![\w./])probe(?=\.[a-z])", "online", text)) from None
