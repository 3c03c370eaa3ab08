"""ChestX-ray14: 112,120 frontal films of 30,805 patients with 14 findings (Wang et al., CVPR 2017; NIH Clinical Center).

Expected below the root: images/*.png or images_0NN/images/*.png, Data_Entry_2017*.csv, train_val_list.txt, test_list.txt. The
findings were mined from reports; by the authors' account about one in ten is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.core.base import CommonConfig, MedicalData, read_table
from datamodules.core.crops import film_boxes, pad_to, resize
from datamodules.core.intensity import decode, encode
from datamodules.core.lazy import film_codes
from datamodules.core.loader import Key
from datamodules.core.readers import Array, Header, Volume, read_film
from datamodules.core.splits import Split, random_split
from datamodules.core.store import Item, Store
from datamodules.core.volumes import Cache, Loaded, Sample
from ssl_med.spec import DataSpec, Intensity, Need, SslMedError

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)


@dataclass
class Chest14Config(CommonConfig):
    """Grey levels 0..255; the film is resized, then cropped."""

    patch_size: tuple[int, ...] = (224, 224)
    intensity_low: float = 0.0
    intensity_high: float = 255.0
    image_size: int = 256
    """shorter side after resizing, in pixels"""
    allow_missing: bool = False
    """go on when films of the CSV are absent, and say how many"""


@dataclass(frozen=True)
class Film:
    """One film; its findings as 0/1."""

    name: str
    subject: str
    path: str
    label: tuple[int, ...]


class Chest14Data(MedicalData):
    """Films, split by patient."""

    Config = Chest14Config
    layout = "images/*.png or images_0NN/images/*.png, and Data_Entry_2017*.csv"
    splits = ("official",)
    public_names = r"\d{8}_\d{3}\.png"

    @classmethod
    def make_spec(cls, config: Chest14Config, *, labelled: bool) -> DataSpec:
        """One grey channel; 14 findings."""
        if config.patch_size and config.image_size < max(config.patch_size):
            raise SslMedError(
                f"data.image_size={config.image_size} is smaller than data.patch_size {list(config.patch_size)}"
            )
        return DataSpec(
            name=config.name,
            spatial_dims=2,
            in_channels=1,
            patch_size=tuple(config.patch_size),
            intensity=Intensity("window", config.intensity_low, config.intensity_high, "grey level"),
            orientation="",
            channel_names=("grey",),
            target="multilabel" if labelled else "none",
            class_names=FINDINGS if labelled else (),
        )

    def index(self, root: Path) -> Sequence[Film]:
        """Rows of the table with their files."""
        folders = [root / "images", *sorted(root.glob("images_*/images")), *sorted(root.glob("images_*"))]
        files = {path.name: path for folder in folders if folder.is_dir() for path in folder.glob("*.png")}
        tables = sorted(root.glob("Data_Entry_2017*.csv"))
        if not files and not tables:
            return []
        if len(tables) != 1:
            raise SslMedError(f"{root}: needs one Data_Entry_2017*.csv, it holds {len(tables)}")
        films, missing = [], []
        listed: set[str] = set()
        for row in read_table(tables[0], ("Image Index", "Finding Labels", "Patient ID")):
            name = row["Image Index"]
            if name in listed:
                raise SslMedError(f"{tables[0]}: names image {name} twice; remove one row")
            listed.add(name)
            if name not in files:
                if not self.quarantined(root / name):
                    missing.append(name)
                continue
            found = row["Finding Labels"].split("|")
            unknown = [word for word in found if word not in (*FINDINGS, "No Finding")]
            if unknown:
                raise SslMedError(f"{tables[0]}: image {name} has the unknown finding '{unknown[0]}'")
            if not row["Patient ID"].strip().isdigit():
                raise SslMedError(f"{tables[0]}: image {name} has the Patient ID '{row['Patient ID']}', not a number")
            label = tuple(int(finding in found) for finding in FINDINGS)
            films.append(Film(name, str(int(row["Patient ID"])), str(files[name]), label))
        if missing and not self.config.allow_missing:
            raise SslMedError(
                f"{tables[0]}: names {len(missing)} images that are not below {root}, first {missing[0]}; complete the "
                "download, or set data.allow_missing=true to go on without them"
            )
        if missing:
            self.notes.append(f"{len(missing)} images of the table are absent and left out")
        return films

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """official: test_list.txt is the test part; validation is cut from the patients of train_val_list.txt."""
        root = Path(self.config.root)
        subject_of = {film.name: film.subject for film in cases}
        members = {}
        for file in ("train_val_list.txt", "test_list.txt"):
            try:
                lines = (root / file).read_text().split()
            except OSError:
                raise SslMedError(f"{root / file}: no such file; data.split=official needs it") from None
            absent = [line for line in lines if line not in subject_of]
            if absent and not self.config.allow_missing:
                raise SslMedError(
                    f"{root / file}: image {absent[0]} is not in the table or not on disk ({len(absent)} in all)"
                )
            members[file] = {subject_of[line] for line in lines if line in subject_of}
        both = sorted(members["train_val_list.txt"] & members["test_list.txt"])
        if both:
            raise SslMedError(
                f"{root / 'test_list.txt'}: patient {both[0]} is also in train_val_list.txt; repair the lists"
            )
        share = self.config.split_ratios[1] / (self.config.split_ratios[0] + self.config.split_ratios[1])
        rest = random_split(members["train_val_list.txt"], ratios=(1 - share, share, 0.0), seed=self.config.split_seed)
        return {**rest, "test": sorted(members["test_list.txt"])}

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """A patient's rarest finding, so that rare ones stay in small budgets."""
        counts = np.array([film.label for film in cases]).sum(0)
        strata: dict[str, str] = {}
        for film in cases:
            found = [k for k, value in enumerate(film.label) if value]
            known = strata.get(film.subject, "")
            options = [*found, *([FINDINGS.index(known)] if known else [])]
            strata[film.subject] = FINDINGS[min(options, key=lambda k: counts[k])] if options else ""
        return strata

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Films by finding."""
        counts = np.array([film.label for film in cases], int).reshape(-1, len(FINDINGS)).sum(0)
        return dict(zip(FINDINGS, counts.tolist(), strict=True))

    def items(self, case: Any, *, labels: bool) -> list[Item]:
        """The film; its findings stay in the table."""
        return [Item("film", (case.path,))]

    def contents(self, case: Any, item: Item, grid: Header | None) -> Iterator[Volume]:
        """Grey levels (rows, columns); films have no geometry."""
        yield Volume(read_film(case.path), np.eye(4))

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Random crops for training, centre crops otherwise."""
        return Films(
            cases,
            patch=self.spec.patch_size,
            size=self.config.image_size,
            intensity=self.spec.intensity,
            seed=self.seed,
            need=self.need,
            labelled=self.labelled,
            train=part == "train",
            cache_gb=self.config.cache_gb,
            store=self.store,
        )


class Films(Dataset[Sample]):
    """Films resized by their shorter side; crop pairs are cut at the file's resolution."""

    def __init__(
        self,
        cases: Sequence[Film],
        *,
        patch: tuple[int, ...],
        size: int,
        intensity: Intensity,
        seed: int,
        need: Need,
        labelled: bool,
        train: bool,
        cache_gb: float,
        store: Store | None = None,
    ) -> None:
        self.cases, self.patch, self.size, self.intensity = cases, patch, size, intensity
        self.seed, self.need, self.labelled, self.train, self.store = seed, need, labelled, train, store
        self.read = Cache(self._load, gigabytes=cache_gb)

    def __len__(self) -> int:
        return len(self.cases)

    def _load(self, film: Film) -> Loaded:
        if self.store is not None:
            codes, kept = film_codes(self.store, Item("film", (film.path,)), self.intensity)
            return Loaded(codes if self.need.pair else kept(self.size, self._resized))
        decoded = encode(read_film(film.path), self.intensity, source=film.path)[None]
        return Loaded(decoded if self.need.pair else self._resized(decoded))

    def _resized(self, codes: Array) -> Array:
        rows, columns = codes.shape[1:]
        scale = self.size / min(rows, columns)
        small = resize(decode(codes), (max(self.size, round(rows * scale)), max(self.size, round(columns * scale))))
        codes = np.rint(small.clamp(0, 1).numpy() * 65535).astype(np.uint16)
        return codes

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        film = self.cases[index]
        rng = np.random.default_rng([self.seed, epoch + 1, index] if self.train else [0, 0, index])
        codes = self.read(film).codes
        sample: Sample = {"id": film.name, "index": index}
        if self.need.pair:
            boxes = film_boxes(codes.shape[1:], rng, min_iou=self.need.min_iou, area=(0.2, 1.0))
            for name, (top, left, height, width) in zip(("image", "image2"), boxes.tolist(), strict=True):
                crop = decode(codes[:, top : top + height, left : left + width])
                sample[name] = resize(crop, self.patch).clamp(0, 1).contiguous()
        else:
            codes = pad_to(codes[...], self.patch)
            room = [n - p for n, p in zip(codes.shape[1:], self.patch, strict=True)]
            top, left = (int(rng.integers(r + 1)) if self.train else r // 2 for r in room)
            sample["image"] = decode(codes[:, top : top + self.patch[0], left : left + self.patch[1]])
        if self.labelled:
            sample["label"] = torch.tensor(film.label, dtype=torch.float32)
        return sample
