"""What every dataset family shares: config, splits, label budgets and loaders."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from datamodules.core.cases import case_files, has_uid
from datamodules.core.loader import EpochBatches, EvaluationLoader, ResumableLoader, Traced
from datamodules.core.quarantine import Quarantine
from datamodules.core.readers import PLACEHOLDER, assumed_headers, voxel_file
from datamodules.core.splits import PARTS, Split, check_split, file_split, label_budget, random_split, share_split
from datamodules.core.store import Item, Store
from datamodules.formats.grids import Header, Volume
from ssl_med.catalogue import nearest
from ssl_med.config import to_plain
from ssl_med.ledger import salted
from ssl_med.spec import DataSpec, Need, SslMedError

NO_VALIDATION = "no validation part: the last weights are used"
UID = r"[0-2](\.(0|[1-9]\d*)){5,}|2\.25\.\d{20,}"  # DICOM PS3.5, 9: one of a kind in the world


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
    public_names: ClassVar[str] = r"(image|case)-[0-9a-f]{12,}"

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
        self._skipped: set[str] = set()  # entries of the quarantine that `index` asked about
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
            split = self._for_tuning(split, cases)
        other_side = self._other_side(cases, set(split["train"])) if self.config.pretrain_share else set()
        of_subject: dict[str, list[Any]] = {}
        for case in kept:
            if case.name not in other_side:
                of_subject.setdefault(case.subject, []).append(self._published(case))
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
        owners: dict[str, set[str]] = {}
        for case in cases:
            for path in case_files(case):
                owners.setdefault(path, set()).add(case.subject)
        self._shared = frozenset(path for path, subjects in owners.items() if len(subjects) > 1)
        return cases

    def quarantined(self, path: str | Path) -> bool:
        """Whether the user leaves a file or folder out: `index` then skips its complaint about it."""
        entry = self.quarantine.find(str(path))
        if entry is not None:
            self._skipped.add(entry)
        return entry is not None

    def keep(self, cases: Sequence[Any]) -> list[Any]:
        """The cases without those that need a file in quarantine; adds a note.

        Raises:
            SslMedError: more than data.quarantine_budget of the cases would be left out.
        """
        if not self.quarantine.reasons:
            return list(cases)
        kept, found = [], []
        for case in cases:
            entries = [self.quarantine.find(path) for path in (case.name, *case_files(case, masks=self.labelled))]
            entry = next((entry for entry in entries if entry is not None), None)
            if entry is None:
                kept.append(case)
            else:
                found.append(entry)
        # what `index` itself had to skip is no case any more
        found += sorted(self._skipped.difference(found))
        total = len(kept) + len(found)
        file, config = Path(self.config.quarantine).name, self.config
        if len(found) > config.quarantine_budget * total:
            raise SslMedError(
                f"data.quarantine={config.quarantine}: would leave out {len(found)} of {total} cases, more than "
                f"data.quarantine_budget={config.quarantine_budget:g}; repair the files or raise the budget"
            )
        self.notes.append(
            f"quarantine: {len(found)} of {total} cases are left out ({file}: {self.quarantine.count(found) or 'none'})"
        )
        return kept

    def public_name(self, name: str) -> str:
        """The name of a case where the data set published it, else a salted hash of it."""
        return name if re.fullmatch(self.public_names, name) else f"case-{salted(name)[:12]}"

    def _published(self, case: Any) -> Any:
        public = self.public_name(case.name)
        return case if public == case.name else dataclasses.replace(case, name=public)

    def split(self, cases: Sequence[Any]) -> Split:
        """Subjects of each part, as data.split says."""
        config = self.config
        subjects = {case.subject for case in cases}
        if config.split == "random":
            groups: dict[str, set[str]] = {}
            for case in cases:
                groups.setdefault(self.split_group(case), set()).add(case.subject)
            parts = [random_split(g, ratios=config.split_ratios, seed=config.split_seed) for g in groups.values()]
            return {part: sorted(name for split in parts for name in split[part]) for part in PARTS}
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

    def _for_tuning(self, split: Split, cases: Sequence[Any]) -> Split:
        """The split without its test part: validation subjects or some of the training take its place."""
        if split["val"]:
            self.notes.append("tuning: tested on the validation part; the test part is put away")
            return {"train": split["train"], "val": [], "test": split["val"]}
        training = set(split["train"])
        groups: dict[str, set[str]] = {}
        for case in cases:
            if case.subject in training:
                groups.setdefault(self.split_group(case), set()).add(case.subject)
        share = self.config.tuning_share
        held, kept = share_split(groups, share=share, seed=self.config.split_seed)
        self.notes.append(
            f"tuning: tested on {len(held)} of the {len(held) + len(kept)} training subjects; the test part is put away"
        )
        return {"train": kept, "val": [], "test": held}

    def _other_side(self, cases: Sequence[Any], subjects: set[str]) -> set[str]:
        """Names of the training cases that data.pretrain_share gives to the other command."""
        config = self.config
        train = [case for case in cases if case.subject in subjects]
        by_image = config.share_by == "image"
        groups: dict[str, list[str]] = {}
        for case in train:
            groups.setdefault(self.split_group(case), []).append(case.name if by_image else case.subject)
        if "labelled" in groups:  # what has no labels is for pretraining anyway
            groups = {"labelled": groups["labelled"]}
        sides = share_split(groups, share=config.pretrain_share, seed=config.split_seed)
        other = set(sides[0] if self.labelled else sides[1])
        names = {case.name for case in train if (case.name if by_image else case.subject) in other}
        mine = {case.subject for case in train if case.name not in names}
        shared = mine & {case.subject for case in train if case.name in names}
        words = f"pretraining has {config.pretrain_share:g} of the training {config.share_by}s, labels the rest"
        if by_image:
            words += f"; LEAK: {len(shared)} of the {len(mine)} subjects here are on the other side too"
        self.notes.append(words)
        return names

    @property
    def budget(self) -> str:
        """The label budget as the user spells it."""
        return f"labels.shots={self.label_shots}" if self.label_shots else f"labels.fraction={self.label_fraction:g}"

    def _budget(self) -> None:
        self.unbudgeted = self.parts["train"]
        signatures = self.signatures(self.parts["train"])
        self.labels_of = len(signatures)
        fraction, shots = self.label_fraction, self.label_shots
        budget = label_budget(signatures, fraction=fraction, shots=shots, seed=self.seed, lead=self.lead_stratum)
        chosen = set(budget)
        if shots:
            strata = Counter(signatures.values())
            for stratum, count in sorted(strata.items()):
                # of scans with candidates only those with a positive must be as many
                wanted = stratum == self.lead_stratum or not self.lead_stratum
                if count < shots and wanted and self.spec.target != "multilabel":
                    kind = f" of class '{self.stratum_name(stratum)}'" if stratum else ""
                    raise SslMedError(
                        f"labels.shots={shots}: there are {count} training subjects{kind}; take fewer shots"
                    )
                if count < shots:
                    self.notes.append(
                        f"{self.budget}: '{self.stratum_name(stratum)}' has {count} training subjects, all are used"
                    )
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
        """Who takes part in which part, as `ssl_med.ledger` compares it between data sets.

        A DICOM uid stands for itself; a case of another name that knows its series' uid has both keys. A published case
        belongs to its data set, wherever that lies; a case of anybody's own to this folder.
        """
        here = Path(self.config.root).resolve()

        def identity(case: Any) -> str:
            if re.fullmatch(UID, case.subject):
                return f"uid:{case.subject}"
            if self.public_names != MedicalData.public_names and re.fullmatch(self.public_names, case.name):
                return f"{self.config.name}:{case.subject}"
            return f"{self.config.name}:{here}:{case.subject}"

        return {
            part: sorted({identity(case) for case in cases} | {f"uid:{case.uid}" for case in cases if has_uid(case)})
            for part, cases in self.parts.items()
            if cases
        }

    def image_files(self) -> dict[str, list[str]]:
        """The files that hold the images of each part; a file that holds several subjects tells them not apart."""
        return {
            part: sorted(
                {
                    str(voxel_file(path))
                    for case in cases
                    for path in case_files(case, masks=False)
                    if path not in self._shared
                }
            )
            for part, cases in self.parts.items()
            if cases
        }

    def describe(self) -> dict[str, Any]:
        """Counts of subjects, cases and positives by part, the label budget, and notes for the summary."""
        return {
            "subjects": {part: len(members) for part, members in self.subjects().items()},
            "cases": {part: len(cases) for part, cases in self.parts.items()},
            "labels": {"subjects": len({case.subject for case in self.parts["train"]}), "of": self.labels_of},
            "positives": {part: self.positives(cases) for part, cases in self.parts.items() if self.labelled},
            "notes": list(self.notes),
        }
