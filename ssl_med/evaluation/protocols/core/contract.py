"""The contract of a protocol: what it needs of the data, and one call that gives a result.

A protocol knows tensors. Whatever has files (loaders, caches, who was held out) reaches it as a `Source`.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ssl_med.evaluation.features import Features, pooled
from ssl_med.evaluation.tasks import Row, TaskConfig, task_class
from ssl_med.finite import check_rows
from ssl_med.networks.pyramid import Backbone
from ssl_med.ranges import Level, check_ranges
from ssl_med.setting import setting
from ssl_med.spec import Batch, DataSpec

SamplesOf = Callable[[Batch], tuple[Sequence[str], Tensor, Tensor]]
"""Batch on the device -> names, features (N, D) and labels of its samples."""
PARTS = ("train", "val", "test")


@dataclass
class LevelsConfig:
    """Which features are probed."""

    levels: tuple[Level, ...] = (-1,)
    """levels of the encoder whose pooled features are joined, 0: finest, -1: last"""
    cache: str = setting(default="", affects="nothing")
    """folder of the feature files; empty: features/ in the run folder; runs that share one extract once"""


@dataclass
class Result:
    """What a protocol found on the test part.

    * metric: the headline among `metrics`. * rows: one per test sample. * chosen: what validation chose.
    * notes: what the reader should know. * pictures: case -> image, truth and prediction of a few test cases.
    """

    metric: str
    metrics: dict[str, float]
    rows: list[Row]
    chosen: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


class Asked(typing.Protocol):
    """Whose answers are fitted and scored.

    * task: how answers are scored. * held: validation samples are training subjects that were set aside.
    * whole: all labels are used.
    """

    task: TaskConfig
    backbone: Backbone
    held: bool
    whole: bool

    def subjects(self) -> list[int]:
        """Number of the subject of each test sample."""


class Source(Asked, typing.Protocol):
    """A frozen encoder and the samples of one data set, as a protocol sees them.

    * spec: of the labels. * levels: of the encoder, as asked for. * device: where features are. * seed: of everything random.
    """

    spec: DataSpec
    levels: tuple[int, ...]
    device: torch.device
    seed: int

    def features(
        self, samples_of: SamplesOf, *, kind: str, parts: Sequence[str] = PARTS, crops: bool = False, **about: Any
    ) -> list[Features]:
        """Features of each part, from their files where they are there.

        Args:
            samples_of: makes them from a batch.
            kind: names how; with `about`, what features of other settings must not be taken for.
            parts: some of train, val and test.
            crops: of training crops in place of the samples of evaluation.
            about: further settings that `samples_of` depends on.
        """

    def batches(self, part: str) -> Iterator[Batch]:
        """Batches of evaluation, on the device."""


class Protocol(ABC):
    """How weights are evaluated; file name = name."""

    Config: ClassVar[type]
    command: ClassVar[str] = "probe"
    """command of `ssl-med` that runs it"""
    labels: ClassVar[bool] = True
    """whether it needs a task; else it takes any data set"""
    targets: ClassVar[tuple[str, ...]] = ("class", "multilabel", "mask")
    """kinds of labels that it can use, see DataSpec.target"""
    metric: ClassVar[str] = ""
    """its headline; empty: that of the task"""


class Probe(Protocol):
    """A protocol of frozen features: nothing of the encoder is trained.

    Args:
        config: an instance of `Config`.
    """

    targets: ClassVar[tuple[str, ...]] = ("class", "multilabel")
    parts: ClassVar[tuple[str, ...]] = PARTS
    """parts of the data that it uses; without a validation part training subjects are held out where "val" is among them"""
    on_masks: ClassVar[str] = ""
    """protocol that asks the same question of masks"""

    def __init__(self, config: Any) -> None:
        check_ranges(config, "probe")
        self.config = config

    @abstractmethod
    def result(self, source: Source) -> Result:
        """Runs it.

        Raises:
            SslMedError: too few samples for the settings.
        """


def pooled_features(source: Source, parts: Sequence[str] = PARTS) -> list[Features]:
    """Global averages of the chosen levels of each sample; protocols that use them share their files."""

    def samples_of(batch: Batch) -> tuple[Sequence[str], Tensor, Tensor]:
        return batch["id"], pooled(source.backbone, batch["image"], source.levels), batch["label"]

    return source.features(samples_of, kind="pooled", parts=parts)


def scored(
    source: Asked,
    spec: DataSpec,
    test: Features,
    logits: Tensor,
    *,
    chosen: Mapping[str, float],
    notes: Sequence[str],
    place: Callable[[int, str], int] = lambda number, name: number,
) -> Result:
    """The result of class or finding logits (N, K) of the test samples, by the task's own measures.

    Args:
        source: whose task and subjects they are.
        spec: of the labels.
        test: the samples.
        logits: (N, K).
        chosen: what validation chose.
        notes: for the reader.
        place: number and name of a sample -> number of the test image that it was made of.
    """
    check_rows(test.ids, logits, "answers")
    task = task_class(spec)(source.task, spec, source.backbone, None)
    batch: Any = {"id": test.ids, "label": test.label}
    subjects = source.subjects()
    rows = [
        {**row, "subject": subjects[place(k, name)]}
        for k, (row, name) in enumerate(zip(task.rows(logits, batch), test.ids, strict=True))
    ]
    return Result(task.metric, task.summarize(rows), rows, dict(chosen), list(notes))
