"""From the cases of the parts to loaders, and what is told of them: the same for every family, whatever its samples are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from datamodules.core import identities
from datamodules.core.content import content_key
from datamodules.core.loader import EpochBatches, EvaluationLoader, ResumableLoader, Traced
from ssl_med.spec import DataSpec, Need
from ssl_med.transforms.samples.lists import TransformList, variables_of


class Served(pl.LightningDataModule):
    """The loaders of a family, which says in `dataset` what a sample is and in `setup` which cases each part has."""

    config: Any
    need: Need
    labelled: bool
    batch_size: int
    num_workers: int
    seed: int
    public_names: ClassVar[str]
    notes: list[str]
    parts: dict[str, list[Any]]
    unbudgeted: list[Any]  # training cases before the label budget
    labels_of: int  # their subjects
    augment: TransformList  # of training samples alone
    spec: DataSpec
    _shared: frozenset[str]  # files that hold more than one subject

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Fills `parts`; again is a no-op."""

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Class -> labelled samples of it, where labels are known without decoding."""
        return {}

    def drawn(self, cases: Sequence[Any]) -> tuple[list[float], list[int]]:
        """Of each class or finding: the samples of an epoch that have it, and those whose label of it is known."""
        counts: list[float] = [*self.positives(cases).values()]
        return counts, [len(cases)] * len(counts)

    @abstractmethod
    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Samples of a part, by (epoch, index)."""

    def cache_need(self, cases: Sequence[Any]) -> int:
        """Bytes that all cases take when decoded; 0 when that does not matter."""
        return 0

    def eval_batch(self) -> int:
        """Samples of an evaluation batch per device."""
        return max(1, self.batch_size // self.world)

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.trainer.world_size if self.trainer is not None else 1

    def _loader(self, part: str) -> EvaluationLoader | list[Any]:
        self.setup()
        cases = self.parts[part]
        if not cases:
            return []
        train = part == "train"
        if self.labelled and not train:
            dataset: Any = self.traced(part)
        else:
            dataset = self.transformed(self.dataset(cases, part=part), random=train, augment=train)
        scattered = self.cache_need(cases) > self.config.cache_gb * 2**30
        batches = EpochBatches(
            len(dataset),
            batch_size=self.batch_size if train else self.eval_batch() * self.world,
            seed=self.seed,
            shuffle=train,
            rank=self.trainer.global_rank if self.trainer is not None else 0,
            world=self.world,
            owners=dataset.owners if scattered else None,
            mixed=self.config.mixed_volumes if scattered else 1,
            fixed=self.need.fixed,
            foreground=getattr(self.config, "foreground_batch", 0.0) if train and self.labelled else 0.0,
        )
        return (ResumableLoader if train else EvaluationLoader)(dataset, batches, num_workers=self.num_workers)

    def traced(self, part: str) -> Traced:
        """Labelled samples of an evaluation part that know their scan and subject, by (0, index)."""
        cases = self.parts[part]
        return Traced(self.transformed(self.dataset(cases, part=part)), [case.subject for case in cases])

    def transformed(self, samples: Any, *, random: bool = False, augment: bool = False) -> Any:
        """Samples after data.transforms, whose random entries act where `random`, and with `augment` after task.augment."""
        config = self.config
        lists = [TransformList(config.transforms, "data.transforms", config.allow, variables_of(self.spec), random)]
        lists += [self.augment] if augment else []
        lists = [one for one in lists if one]
        if not lists:
            return samples
        from datamodules.core.transformed import Transformed  # MONAI's transforms take seconds to import

        return Transformed(samples, lists, seed=self.seed, patch=self.spec.patch_size)

    def train_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Shuffled training samples."""
        return self._loader("train")

    def still_dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Samples of a part without augmentation, for features: those of evaluation."""
        return self.dataset(cases, part="val" if part == "train" else part)

    def still_loader(self, cases: Sequence[Any], *, part: str, crops: bool = False) -> EvaluationLoader:
        """Every sample of some cases once, in order; `crops`: the crops of a training epoch in place of evaluation's."""
        samples: Any = self.dataset(cases, part="train") if crops else self.still_dataset(cases, part=part)
        dataset = Traced(self.transformed(samples), [case.subject for case in cases])
        size = max(1, self.batch_size) if crops else self.eval_batch()
        batches = EpochBatches(len(dataset), batch_size=size, seed=self.seed, shuffle=False)
        return EvaluationLoader(dataset, batches, num_workers=self.num_workers)

    def full_epoch(self) -> int:
        """Batches of a training epoch with all labels."""
        self.setup()
        dataset: Any = self.dataset(self.unbudgeted or self.parts["train"], part="train")
        return max(1, len(dataset) // self.batch_size)

    def count(self, part: str) -> int:
        """Samples of an epoch of a part."""
        self.setup()
        cases: Any = self.parts[part]
        dataset: Any = self.dataset(cases, part=part) if cases else ()
        return len(dataset)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation samples in order, the same crops each time; empty without a validation part."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """All test samples in order."""
        return self._loader("test")

    def subjects(self) -> dict[str, list[str]]:
        """Who takes part in which part."""
        return {part: sorted({case.subject for case in cases}) for part, cases in self.parts.items() if cases}

    def identities(self) -> dict[str, list[str]]:
        """Who takes part in which part, as `ssl_med.ledger` compares it between data sets."""
        config = self.config
        return identities.ledger_keys(self.parts, data=config.name, root=config.root, published=self.public_names)

    def content_digest(self, cases: Sequence[Any]) -> str:
        """Digest of cases, of their labels and of the content of their files: what features of them depend on."""
        return content_key(cases, self.common_files())

    def common_files(self) -> Sequence[str]:
        """Files that hold the samples of many cases, whose dataclasses do not name them."""
        return ()

    def image_files(self) -> dict[str, list[str]]:
        """The files that hold the images of each part; a file that holds several subjects tells them not apart."""
        return identities.image_files(self.parts, shared=self._shared)

    def describe(self) -> dict[str, Any]:
        """Counts of subjects, cases and positives by part, the label budget, and notes for the summary."""
        return {
            "subjects": {part: len(members) for part, members in self.subjects().items()},
            "cases": {part: len(cases) for part, cases in self.parts.items()},
            "labels": {"subjects": len({case.subject for case in self.parts["train"]}), "of": self.labels_of},
            "positives": {part: self.positives(cases) for part, cases in self.parts.items() if self.labelled},
            "notes": list(self.notes),
        }
