"""What every dataset family shares: config, splits, label budgets and loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from datamodules.core import identities
from datamodules.core.division import budget_words, for_tuning, other_side, random_parts, within_budget
from datamodules.core.loader import EpochBatches, EvaluationLoader, ResumableLoader, Traced
from datamodules.core.quarantine import Quarantine, without_quarantined
from datamodules.core.readers import PLACEHOLDER, assumed_headers
from datamodules.core.splits import PARTS, Split, check_split, file_split
from datamodules.core.store import Item, Store
from datamodules.formats.grids import Header, Volume
from ssl_med.catalogue import nearest
from ssl_med.config import to_plain
from ssl_med.spec import DataSpec, Need, SslMedError

NO_VALIDATION = "no validation part: the last weights are used"


class MedicalData(pl.LightningDataModule, ABC):
    """Batches as `ssl_med.spec.Batch` says, from a folder as it is distributed.

    Args:
        config: the family's `Config`.
        need: what a pretraining method asks of the crops.
        labelled: yield labels or masks and use the test part; without it train and val are used unlabelled, test never.
        batch_size: samples of a step over all devices.
        num_workers: loader processes per device.
        seed: of order and crops, and of the label budget.
        label_fraction: share of the training subjects whose labels are used.
        label_shots: subjects of each class whose labels are used, in place of a share; 0: by share.
        test: use the test part; None: when labelled.
        only_test: there is nothing but a test part: "test", that of the split; "all", every subject; "": as the split says.
    """

    Config: ClassVar[type]
    layout: ClassVar[str]  # what the root must hold, for messages
    splits: ClassVar[tuple[str, ...]] = ()  # further values of data.split
    # case names that the data set itself published, as a regular expression on the whole name; others may name a patient
    # and leave this module as hashes. The default is what a family makes that hashes names itself.
    public_names: ClassVar[str] = identities.HASHED

    def __init__(
        self,
        config: Any,
        *,
        need: Need | None = None,
        labelled: bool,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        label_fraction: float = 1.0,
        label_shots: int = 0,
        test: bool | None = None,
        only_test: Literal["", "test", "all"] = "",
    ) -> None:
        super().__init__()
        self.only_test = only_test
        self.label_shots, self.use_test = label_shots, labelled if test is None else test
        self.config, self.need, self.labelled = config, need or Need(), labelled
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.label_fraction = label_fraction
        self.spec = self.make_spec(config, labelled=labelled)
        self.notes: list[str] = []
        self.store: Store | None = None
        self.parts: dict[str, list[Any]] = {}
        self.unbudgeted: list[Any] = []  # training cases before the label budget
        self.labels_of = 0
        self.quarantine = Quarantine()
        self._shared: frozenset[str] = frozenset()  # files that hold more than one subject

    # --- what a family defines -----------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def make_spec(cls, config: Any, *, labelled: bool) -> DataSpec:
        """The contract, without touching files."""

    @abstractmethod
    def index(self, root: Path) -> Sequence[Any]:
        """Finds and checks all cases below the root; reads headers and tables, no voxels."""

    @abstractmethod
    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Samples of a part, by (epoch, index)."""

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """A split of the family's own, one of `splits`."""
        raise NotImplementedError(name)  # unreachable: `splits` is checked first

    def split_group(self, case: Any) -> str:
        """split=random splits each group of subjects by itself; must not depend on `labelled` or the choice of channels."""
        return ""

    def usable(self, case: Any) -> bool:
        """False leaves a case out after the split, so that all uses of a folder share one split."""
        return True

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """Subject -> stratum of the label budget; one stratum by default."""
        return {case.subject: "" for case in cases}

    lead_stratum: ClassVar[str] = ""  # a stratum that the smallest label budget must hold

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Class -> labelled samples of it, where labels are known without decoding."""
        return {}

    def cache_need(self, cases: Sequence[Any]) -> int:
        """Bytes that all cases take when decoded; 0 when that does not matter."""
        return 0

    def check_budget(self, cases: Sequence[Any]) -> None:
        """Refuses labelled training cases that a task cannot be learned from."""

    def eval_batch(self) -> int:
        """Samples of an evaluation batch per device."""
        return max(1, self.batch_size // self.world)

    store_keys: ClassVar[tuple[str, ...]] = ()  # settings of the config that change what is kept of a file

    def items(self, case: Any, *, labels: bool) -> list[Item]:
        """What a store keeps of a case; its label map only when asked for."""
        raise SslMedError(
            f"data={self.config.name} has no store; leave data.store out, data.root is read fast as it is"
        )

    def contents(self, case: Any, item: Item, grid: Header | None) -> Iterator[Volume]:
        """The arrays of an item as they lie on disk, one at a time; `grid` is that of the image below a label map."""
        raise NotImplementedError(item.kind)  # unreachable: `items` comes first

    def place(self, volume: Volume, *, nearest: bool = False) -> Volume:
        """What is done to a volume before it is kept: orientation and resampling, of labels to the nearest."""
        return volume

    @classmethod
    def spatial_dims(cls, config: Any) -> int:
        """2 or 3, before all settings are known."""
        return cls.make_spec(cls.Config(name=config.name), labelled=False).spatial_dims

    # --- shared --------------------------------------------------------------------------------------------------

    def cases(self) -> Sequence[Any]:
        """All cases below the root; refuses a folder that holds none."""
        name = self.config.name
        if not self.config.root:
            raise SslMedError(f"data.root is missing: point it at the folder of {name} ({self.layout}), data.root=DIR")
        root = Path(self.config.root)
        if not root.is_dir():
            raise SslMedError(f"data.root={root}: no such folder; it should hold {self.layout}")
        cases = self.find_cases(root)
        if not cases:
            raise SslMedError(f"data.root={root}: is this {name}? It should hold {self.layout}")
        return cases

    def open_store(self, folder: Path, *, new: bool = False) -> Store:
        """The store of these settings at `folder`; `new` allows one that is not finished or not begun."""
        settings = {key: to_plain(getattr(self.config, key)) for key in self.store_keys}
        make = Store if new else Store.open
        return make(folder, root=self.config.root, data=self.config.name, settings=settings)

    def setup(self, stage: str | None = None) -> None:
        """Indexes the folder, splits it by subject and applies the label budget; again is a no-op."""
        if self.parts:
            return
        root = Path(self.config.root)
        if self.config.store:
            self.store = self.open_store(Path(self.config.store))
        cases = self.cases()
        split = self.split(cases) if self.only_test != "all" else {"test": sorted({case.subject for case in cases})}
        if self.only_test:
            split = {part: split["test"] if part == "test" else [] for part in PARTS}
        kept = self.keep(cases)
        if not self.use_test:
            split = {**split, "test": []}
        elif self.config.tuning_share:
            share, seed = self.config.tuning_share, self.config.split_seed
            split, note = for_tuning(split, cases, self.split_group, share=share, seed=seed)
            self.notes.append(note)
        elsewhere = self._elsewhere(cases, set(split["train"])) if self.config.pretrain_share else set()
        of_subject: dict[str, list[Any]] = {}
        for case in kept:
            if case.name not in elsewhere:
                shown = identities.renamed(case, self.public_name(case.name))
                of_subject.setdefault(case.subject, []).append(shown)
        self.parts = {
            part: [case for name in split[part] for case in of_subject.get(name, ()) if self.usable(case)]
            for part in PARTS
        }
        if not self.parts["train"] and not self.only_test:
            raise SslMedError(f"data.split={self.config.split}: no training subject is left below {root}")
        if not self.parts["val"] and not self.only_test:
            self.notes.append(NO_VALIDATION)
        if self.labelled and not self.only_test:
            self._budget()
        if self.use_test and not self.parts["test"]:
            why = "" if self.only_test == "all" else f"data.split={self.config.split}: "
            raise SslMedError(f"{why}no test subject is left below {root}")
        if self.store is not None:
            used = (case for part in self.parts.values() for case in part)
            self.store.require([item for case in used for item in self.items(case, labels=self.labelled)])

    def find_cases(self, root: Path) -> Sequence[Any]:
        """All cases below the root, those in quarantine too, whose headers are not read."""
        self.quarantine = Quarantine.read(self.config.quarantine, root=root)
        placeholders = {path: PLACEHOLDER for path in self.quarantine.reasons}
        with assumed_headers(placeholders, root=root):
            cases = self.index(root)
        self._shared = identities.shared_files(cases)
        return cases

    def quarantined(self, path: str | Path) -> bool:
        """Whether the user leaves a file or folder out: `index` then skips its complaint about it."""
        return self.quarantine.skips(str(path))

    def keep(self, cases: Sequence[Any]) -> list[Any]:
        """The cases without those that need a file in quarantine; adds a note.

        Raises:
            SslMedError: more than data.quarantine_budget of the cases would be left out.
        """
        if not self.quarantine.reasons:
            return list(cases)
        config = self.config
        kept, note = without_quarantined(
            cases, self.quarantine, masks=self.labelled, file=config.quarantine, budget=config.quarantine_budget
        )
        self.notes.append(note)
        return kept

    def public_name(self, name: str) -> str:
        """The name of a case where the data set published it, else a salted hash of it."""
        return identities.public_name(name, self.public_names)

    def split(self, cases: Sequence[Any]) -> Split:
        """Subjects of each part, as data.split says."""
        config = self.config
        subjects = {case.subject for case in cases}
        if config.split == "random":
            return random_parts(cases, self.split_group, ratios=config.split_ratios, seed=config.split_seed)
        if config.split == "file":
            if not config.split_file:
                raise SslMedError("data.split=file needs data.split_file=FILE.json")
            split = file_split(config.split_file, known=subjects, test_is_val=config.test_is_val)
            if config.test_is_val:
                self.notes.append("the split file has no test list: its val list is the test part")
            return check_split(split, source=f"data.split_file {config.split_file}")
        options = ["random", "file", *self.splits]
        if config.split not in options:
            raise SslMedError(f"data.split '{config.split}' is unknown{nearest(config.split, options)}")
        return check_split(self.named_split(config.split, cases), source=f"data.split={config.split}")

    def _elsewhere(self, cases: Sequence[Any], subjects: set[str]) -> set[str]:
        """Names of the training cases that data.pretrain_share gives to the other command."""
        config, train = self.config, [case for case in cases if case.subject in subjects]
        share, by, seed = config.pretrain_share, config.share_by, config.split_seed
        names, note = other_side(train, self.split_group, labelled=self.labelled, share=share, by=by, seed=seed)
        self.notes.append(note)
        return names

    @property
    def budget(self) -> str:
        """The label budget as the user spells it."""
        return budget_words(fraction=self.label_fraction, shots=self.label_shots)

    def _budget(self) -> None:
        self.unbudgeted = self.parts["train"]
        strata = self.signatures(self.parts["train"])
        self.labels_of = len(strata)
        chosen, notes = within_budget(
            strata,
            fraction=self.label_fraction,
            shots=self.label_shots,
            seed=self.seed,
            lead=self.lead_stratum,
            strict=self.spec.target != "multilabel",
            name_of=self.stratum_name,
        )
        self.notes += notes
        self.parts["train"] = [case for case in self.parts["train"] if case.subject in chosen]
        self.check_budget(self.parts["train"])
        if self.spec.target == "multilabel":
            absent = [name for name, count in self.positives(self.parts["train"]).items() if not count]
            if absent:
                self.notes.append(f"{self.budget}: no training sample has {', '.join(absent)}")

    def stratum_name(self, stratum: str) -> str:
        """A stratum of `signatures` as the user knows it: numbers of classes become names."""
        names = self.spec.class_names
        return "+".join(
            names[int(k)] if k.isdigit() and int(k) < len(names) else k or "none" for k in stratum.split("|")
        )

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
        dataset: Any = self.dataset(cases, part=part) if train or not self.labelled else self.traced(part)
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
        )
        return (ResumableLoader if train else EvaluationLoader)(dataset, batches, num_workers=self.num_workers)

    def traced(self, part: str) -> Traced:
        """Labelled samples of an evaluation part that know their scan and subject, by (0, index)."""
        cases = self.parts[part]
        return Traced(self.dataset(cases, part=part), [case.subject for case in cases])

    def train_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Shuffled training samples."""
        return self._loader("train")

    def still_dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Samples of a part without augmentation, for features: those of evaluation."""
        return self.dataset(cases, part="val" if part == "train" else part)

    def still_loader(self, cases: Sequence[Any], *, part: str, crops: bool = False) -> EvaluationLoader:
        """Every sample of some cases once, in order; `crops`: the crops of a training epoch in place of evaluation's."""
        samples: Any = self.dataset(cases, part="train") if crops else self.still_dataset(cases, part=part)
        dataset = Traced(samples, [case.subject for case in cases])
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
