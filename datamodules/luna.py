"""LUNA16: 888 low-dose chest CTs in ten subsets, with nodules and candidates (Setio et al., Medical Image Analysis 42, 2017).

Expected below the root: subset0 ... subset9/<seriesuid>.mhd with .raw or .zraw, annotations.csv, candidates_V2.csv (or
candidates.csv). World coordinates are millimetres in LPS. A series counts as a patient: the files name no other unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.base import VolumeConfig, read_table
from datamodules.core.crops import cut
from datamodules.core.geometry import world_to_voxel
from datamodules.core.intensity import code_of, decode
from datamodules.core.loader import Key
from datamodules.core.readers import read_header
from datamodules.core.scans import Scan, ScanData, volume_spec
from datamodules.core.splits import Split
from datamodules.core.volumes import Cache, Content, Sample
from ssl_med.spec import DataSpec, Intensity, SslMedError

_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "class")
# official subsets by part: Models Genesis trains on 0-4, PCRL's lists on 0-6 (its 7-9 are cut here into val and test)
_SUBSETS = {"mg": ((0, 1, 2, 3, 4), (5, 6), (7, 8, 9)), "pcrl": ((0, 1, 2, 3, 4, 5, 6), (7,), (8, 9))}


@dataclass
class LunaConfig(VolumeConfig):
    """HU window of Models Genesis and PCRL."""

    patch_size: tuple[int, ...] = (64, 64, 32)
    tissue_max: float = 0.15
    """unlabelled crops: largest share of voxels above -150 HU, Models Genesis' filter for crops inside the lung; 1: off"""
    negatives_per_positive: int = 2
    """labelled training: candidates without nodule drawn per nodule and epoch; validation and test use all"""


@dataclass(frozen=True)
class Candidate:
    """A marked place: row of the table, world position in mm (LPS), 1 for a nodule."""

    row: int
    world: tuple[float, float, float]
    label: int


@dataclass(frozen=True)
class LunaScan(Scan):
    """A scan with its official subset and its candidates."""

    subset: int = 0
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)


class LunaData(ScanData):
    """Unlabelled crops, or candidates for nodule false-positive reduction."""

    Config = LunaConfig
    layout = "subset0 ... subset9 with <seriesuid>.mhd files"
    splits = ("mg", "pcrl")

    @classmethod
    def make_spec(cls, config: LunaConfig, *, labelled: bool) -> DataSpec:
        """HU window; nodule or not."""
        return volume_spec(
            config,
            channels=("ct",),
            intensity=Intensity("window", config.intensity_low, config.intensity_high, "HU"),
            target="class" if labelled else "none",
            class_names=("non-nodule", "nodule"),
        )

    @property
    def content(self) -> Content | None:
        """Models Genesis' tissue filter."""
        if self.config.tissue_max >= 1:
            return None
        return Content(threshold=code_of(-150.0, self.spec.intensity), low=0.0, high=self.config.tissue_max)

    def index(self, root: Path) -> Sequence[LunaScan]:
        """All scans; with labels those that have candidates, since no row says nothing about a scan."""
        paths = {path.stem: (k, path) for k in range(10) for path in sorted((root / f"subset{k}").glob("*.mhd"))}
        if not paths:
            return []
        candidates: dict[str, list[Candidate]] = {}
        if self.labelled:
            table = root / "candidates_V2.csv"
            table = table if table.is_file() else root / "candidates.csv"
            for row, values in enumerate(read_table(table, _COLUMNS)):
                try:
                    world = (float(values["coordX"]), float(values["coordY"]), float(values["coordZ"]))
                    candidate = Candidate(row, world, int(values["class"]))
                except (TypeError, ValueError):
                    raise SslMedError(f"{table}: line {row + 2} holds a value that is no number; repair it") from None
                candidates.setdefault(values["seriesuid"], []).append(candidate)
        scans = []
        for uid, (subset, path) in sorted(paths.items()):
            read_header(str(path))
            marked = tuple(candidates.get(uid, ()))
            if marked or not self.labelled:
                scans.append(LunaScan(uid, uid, (str(path),), subset=subset, candidates=marked))
        if self.labelled and not scans:
            raise SslMedError(f"{root}: none of its {len(paths)} scans has a row in the candidates table")
        if self.labelled and len(scans) < len(paths):
            self.notes.append(f"{len(paths) - len(scans)} of {len(paths)} scans have no candidates and are left out")
        return scans

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """By official subset."""
        parts = dict(zip(("train", "val", "test"), _SUBSETS[name], strict=True))
        return {part: [case.subject for case in cases if case.subset in subsets] for part, subsets in parts.items()}

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """With or without nodule."""
        return {case.subject: str(max(c.label for c in case.candidates)) for case in cases}

    def check_budget(self, cases: Sequence[Any]) -> None:
        """Both classes must be among the training candidates."""
        labels = {candidate.label for case in cases for candidate in case.candidates}
        for label, word in enumerate(self.spec.class_names):
            if label not in labels:
                raise SslMedError(
                    f"labels.fraction={self.label_fraction:g} leaves no '{word}' candidate to train on; raise it"
                )

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Candidates when labelled."""
        if not self.labelled:
            return super().dataset(cases, part=part)
        ratio = self.config.negatives_per_positive if part == "train" else None
        read = Cache(self.load, gigabytes=self.config.cache_gb)
        return CandidateCubes(cases, read, patch=self.spec.patch_size, seed=self.seed, negatives_per_positive=ratio)

    def eval_batch(self) -> int:
        """Cubes have one size."""
        return max(1, self.batch_size // self.world)


class CandidateCubes(Dataset[Sample]):
    """Cubes around candidates; outside the scan is the window's lower end (-1000 HU: air).

    With `negatives_per_positive` an epoch holds every nodule and that many other candidates per nodule, drawn anew each
    epoch; with None it holds every candidate.
    """

    def __init__(
        self,
        cases: Sequence[LunaScan],
        read: Cache,
        *,
        patch: tuple[int, ...],
        seed: int,
        negatives_per_positive: int | None,
    ) -> None:
        self.read, self.patch, self.seed = read, patch, seed
        self.all = [(case, candidate) for case in cases for candidate in case.candidates]
        labels = np.array([candidate.label for _, candidate in self.all])
        self.positive, self.negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        self.drawn = None
        if negatives_per_positive is not None:
            self.drawn = min(len(self.negative), negatives_per_positive * len(self.positive))

    def __len__(self) -> int:
        return len(self.all) if self.drawn is None else len(self.positive) + self.drawn

    def _pick(self, epoch: int, index: int) -> int:
        if self.drawn is None:
            return index
        if index < len(self.positive):
            return int(self.positive[index])
        order = np.random.default_rng([self.seed, epoch, 0x2E6]).permutation(self.negative)
        return int(order[index - len(self.positive)])

    def __getitem__(self, key: Key) -> Sample:
        case, candidate = self.all[self._pick(*key)]
        item = self.read(case)
        assert item.to_world is not None
        centre = np.rint(world_to_voxel(np.array([candidate.world]), item.to_world)[0]).astype(int)
        start = centre - np.array(self.patch) // 2
        return {
            "id": f"{case.name}/{candidate.row}",
            "index": key[1],
            "image": decode(cut(item.codes, start, self.patch)),
            "label": candidate.label,
        }
