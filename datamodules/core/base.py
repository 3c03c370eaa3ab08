"""What every dataset family shares: config, splits, label budgets and loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.core import identities
from datamodules.core.division import budget_words, for_tuning, other_side, random_parts, within_budget
from datamodules.core.files import below, find_files
from datamodules.core.quarantine import Quarantine, without_quarantined
from datamodules.core.readers import PLACEHOLDER, assumed_headers
from datamodules.core.serving import Served
from datamodules.core.splits import PARTS, Split, check_split, file_split
from datamodules.core.store import Item, Store
from datamodules.formats.grids import Header, Volume
from ssl_med.catalogue import nearest
from ssl_med.config import to_plain
from ssl_med.ranges import check_ranges
from ssl_med.spec import DataSpec, Need, SslMedError
from ssl_med.transforms.samples.lists import NOTHING, TransformList

INNER = "data.root holds one folder, in which the data lie"
NO_VALIDATION = "no validation part: the last weights are used"


class MedicalData(Served, ABC):
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
        augment: transforms of training samples, after data.transforms.
        spec: contract of the data set that a finished run was trained on, where there is no root to read it from.
    """

    Config: ClassVar[type]
    layout: ClassVar[str]  # what the root must hold, for messages
    splits: ClassVar[tuple[str, ...]] = ()  # further values of data.split
    # public data sets that the images are from, in the words of `Family.saw` of foreign weights
    public_sets: ClassVar[tuple[str, ...]] = ()
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
        augment: TransformList = NOTHING,
        spec: DataSpec | None = None,
    ) -> None:
        super().__init__()
        check_ranges(config, "data")
        if isinstance(config.transforms, str):
            raise SslMedError(f"data.transforms is '{config.transforms}'; names are for commands, give the list itself")
        self.augment = augment
        self.only_test = only_test
        self.label_shots, self.use_test = label_shots, labelled if test is None else test
        self.config, self.need, self.labelled = self.located(config), need or Need(), labelled
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.label_fraction = label_fraction
        self.spec = spec or self.make_spec(config, labelled=labelled)
        self.notes: list[str] = [] if self.config.root == config.root else [INNER]
        self.odd: dict[str, list[str]] = {}  # kind of an odd header -> what is said of each file
        self.store: Store | None = None
        self.parts: dict[str, list[Any]] = {}
        self.unused: dict[str, list[Any]] = {}  # cases of each part that this use leaves out
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

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """A split of the family's own, one of `splits`."""
        raise NotImplementedError(name)  # unreachable: `splits` is checked first

    def split_group(self, case: Any) -> str:
        """split=random splits each group of subjects by itself; must not depend on `labelled` or the choice of channels."""
        return ""

    def usable(self, case: Any) -> bool:
        """False leaves a case out after the split, so that all uses of a folder share one split."""
        return True

    def check_case(self, case: Any) -> None:
        """Refuses a case of a part by what its headers tell, before a voxel is read."""

    def check_values(self, path: str, low: float, high: float) -> None:
        """Refuses an image whose lowest and highest value cannot be what the settings take them for."""

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """Subject -> stratum of the label budget; one stratum by default."""
        return {case.subject: "" for case in cases}

    lead_stratum: ClassVar[str] = ""  # a stratum that the smallest label budget must hold

    def check_budget(self, cases: Sequence[Any]) -> None:
        """Refuses labelled training cases that a task cannot be learned from."""

    store_keys: ClassVar[tuple[str, ...]] = ()  # settings of the config that change what is kept of a file

    def items(self, case: Any, *, labels: bool) -> list[Item]:
        """What a store keeps of a case; its label map only when asked for."""
        raise SslMedError(
            f"data={self.config.name} has no store; leave data.store out, data.root is read fast as it is"
        )

    def contents(self, case: Any, item: Item, grid: Header | None) -> Iterator[Volume]:
        """The arrays of an item as they lie on disk, one at a time; `grid` is that of the image below a label map."""
        raise NotImplementedError(item.kind)  # unreachable: `items` comes first

    def container(self) -> str:
        """The one file that holds all cases; "" where cases name their files."""
        return ""

    def place(self, volume: Volume, *, nearest: bool = False) -> Volume:
        """What is done to a volume before it is kept: orientation and resampling, of labels to the nearest."""
        return volume

    @classmethod
    def begins(cls, folder: Path, config: Any) -> bool:
        """Whether the layout begins at a folder; one whose files may lie anywhere begins everywhere."""
        return True

    @classmethod
    def located(cls, config: Any) -> Any:
        """The config with the root at which the layout begins; itself where that is data.root."""
        root = below(Path(config.root), lambda folder: cls.begins(folder, config)) if config.root else None
        return config if root is None or root == Path(config.root) else replace(config, root=str(root))

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
        if self.config.store:
            self.store = self.open_store(Path(self.config.store))
        self.divide(self.cases())
        if self.store is not None:
            used = (case for part in self.parts.values() for case in part)
            self.store.require([item for case in used for item in self.items(case, labels=self.labelled)])

    def divide(self, cases: Sequence[Any]) -> None:
        """Fills `parts` with the cases that are used; refuses a split that leaves a part empty that is needed."""
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
        self.unused = {
            part: [case for name in split[part] for case in of_subject.get(name, ()) if not self.usable(case)]
            for part in PARTS
        }
        for case in (case for cases in self.parts.values() for case in cases):
            self.check_case(case)
        if not self.parts["train"] and not self.only_test:
            raise SslMedError(self._nobody("training", cases))
        if not self.parts["val"] and not self.only_test:
            self.notes.append(NO_VALIDATION)
        if self.labelled and not self.only_test:
            self._budget()
        if self.use_test and not self.parts["test"]:
            raise SslMedError(self._nobody("test", cases))

    def _nobody(self, part: str, cases: Sequence[Any]) -> str:
        """Why a part is empty, and what would fill it."""
        config, root = self.config, self.config.root
        usable = len({case.subject for case in self.keep(cases) if self.usable(case)})
        kind = "labelled subjects" if self.labelled else "subjects"
        if not usable:
            return f"data.root={root}: none of its {len(cases)} cases can be used; ssl-med check says why of each"
        if self.only_test:
            return (
                f"data.split={config.split}: no test subject is left below {root}; part=all tests all of its {usable}"
            )
        if config.split == "random":
            remedy = (
                f"data.split_ratios={list(config.split_ratios)} of {usable} {kind}; add subjects or change the ratios"
            )
        else:
            remedy = f"it names none of the {usable} {kind} for it; choose another data.split"
            if part == "training":
                remedy += ", or test on them by ssl-med external"
        return f"data.split={config.split}: no {part} subject is left below {root}: {remedy}"

    def find_cases(self, root: Path) -> Sequence[Any]:
        """All cases below the root, those in quarantine too, whose headers are not read."""
        self.quarantine = Quarantine.read(self.config.quarantine, root=root)
        placeholders = {path: PLACEHOLDER for path in self.quarantine.reasons}
        with assumed_headers(placeholders, root=root):
            cases = self.index(root)
        self._shared = identities.shared_files(cases)
        return cases

    def find(
        self, root: Path, wanted: Callable[[Path], object], *, prefer: Callable[[Path], object] = lambda path: True
    ) -> list[Path]:
        """Files below a folder that are `wanted`, each once; see `find_files`."""
        return find_files(root, wanted, left_out=self.quarantined, prefer=prefer)

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
