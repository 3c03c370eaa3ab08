"""Families whose samples have a class or findings: budgets by the rarest one, counts, and crops of whole scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.base import MedicalData
from datamodules.core.crops import around, cut, window_start
from datamodules.core.image_samples import label_of
from datamodules.core.intensity import decode
from datamodules.core.loader import Key
from datamodules.core.volumes import Loaded, Placed, Sample, world_of
from ssl_med.spec import SslMedError, Target


class LabelledCases(MedicalData):
    """What follows from `label` of each case: (number of the class,), or one value a finding, nan where it is not known."""

    def classes_of(self, case: Any) -> list[int]:
        """Numbers of the classes or findings that a case has."""
        if self.spec.target == "class":
            return [int(case.label[0])]
        return [k for k, value in enumerate(case.label) if value >= 0.5]

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """A subject's rarest class or finding, so that rare ones stay in small budgets."""
        names = self.spec.class_names
        found = [self.classes_of(case) for case in cases]
        counts = np.bincount([k for one in found for k in one], minlength=len(names))
        rarest: dict[str, int | None] = {}
        for case, one in zip(cases, found, strict=True):
            known = rarest.get(case.subject)
            options = [*one, *([known] if known is not None else [])]
            rarest[case.subject] = min(options, key=lambda k: counts[k]) if options else None
        return {subject: names[k] if k is not None else "" for subject, k in rarest.items()}

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Cases by class or finding; nothing for masks."""
        if self.spec.target == "mask":
            return {}
        names = self.spec.class_names
        counts = np.bincount([k for case in cases for k in self.classes_of(case)], minlength=len(names))
        return dict(zip(names, counts.tolist(), strict=True))

    def drawn(self, cases: Sequence[Any]) -> tuple[list[float], list[int]]:
        """Findings may be unknown, or be taken for something in between: see data.uncertain of CheXpert."""
        if self.spec.target != "multilabel":
            return super().drawn(cases)
        trained: Any = self.dataset(cases, part="train")
        labels = np.array([case.label for case in trained.cases], float)
        return np.nansum(labels, 0).tolist(), (~np.isnan(labels)).sum(0).tolist()

    def check_budget(self, cases: Sequence[Any]) -> None:
        """A class that no training case has cannot be learned."""
        check_classes(self, cases)


class LabelledScans(Dataset[Sample]):
    """A random crop of each scan in training, its middle otherwise, with the scan's label.

    Args:
        cases: the scans.
        read: decodes one.
        patch: crop size in voxels.
        seed: of the crops.
        target: class or multilabel.
        train: random crops.
    """

    def __init__(
        self,
        cases: Sequence[Any],
        read: Callable[[Any], Loaded],
        *,
        patch: tuple[int, ...],
        seed: int,
        target: Target,
        train: bool,
    ) -> None:
        self.cases, self.read, self.patch, self.seed = cases, read, patch, seed
        self.target, self.train = target, train

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: Key) -> Sample:
        return self.placed(key)[0]

    def placed(self, key: Key, size: tuple[int, ...] | None = None) -> Placed:
        """A sample and where it lies; see `Placing`."""
        epoch, index = key
        case = self.cases[index]
        item = self.read(case)
        rng = np.random.default_rng([self.seed, epoch + 1, index]) if self.train else None
        shape = item.codes.shape[1:]
        window = around(window_start(shape, self.patch, rng), self.patch, size, shape)
        image = decode(cut(item.codes, window.start, window.size), item.norm)
        sample = {"id": case.name, "index": index, "image": image, **label_of(case.label, self.target)}
        return sample, window, world_of(item, window)


def check_classes(data: MedicalData, cases: Sequence[Any]) -> None:
    """Refuses training cases of a classification task that lack a class."""
    if data.spec.target != "class":
        return
    for name, count in data.positives(cases).items():
        if not count:
            raise SslMedError(
                f"no '{name}' case is left to train on (data.split={data.config.split}, "
                f"{data.budget}); take more subjects"
            )
