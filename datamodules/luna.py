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
from datamodules.core.readers import Array, read_header
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
    border: tuple[int, ...] = (0, 0, 0)
    """voxels at each end of an axis that unlabelled crops leave out; Models Genesis: 100, 100, 30 of 512 x 512 slices"""
    negatives_per_positive: int = 2
    """labelled training: candidates without nodule drawn per nodule and epoch; validation and test use all"""


@dataclass(frozen=True, slots=True)
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
    # roots of TCIA, NLST and of random uids
    public_names = r"(1\.3\.6\.1\.4\.1\.14519\.5\.2\.1|1\.2\.840\.113654\.2\.55|2\.25)(\.\d+)+"
    lead_stratum = "1"  # a scan with a nodule has other candidates too

    @classmethod
    def make_spec(cls, config: LunaConfig, *, labelled: bool) -> DataSpec:
        """HU window; nodule or not."""
        if len(config.border) != 3 or min(config.border) < 0:
            raise SslMedError(f"data.border {list(config.border)} must be three numbers of voxels, 0 or more")
        if config.negatives_per_positive < 1:
            raise SslMedError(f"data.negatives_per_positive is {config.negatives_per_positive}; it must be at least 1")
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
        remedy = "raise data.tissue_max (1 switches the filter off) or take a smaller data.patch_size"
        return Content(code_of(-150.0, self.spec.intensity), 0.0, self.config.tissue_max, remedy)

    def margin(self) -> tuple[int, ...]:
        """Border of Models Genesis."""
        return tuple(self.config.border)

    def index(self, root: Path) -> Sequence[LunaScan]:
        """All scans, with their rows of the candidates table."""
        paths: dict[str, tuple[int, Path]] = {}
        for subset in range(10):
            for path in sorted((root / f"subset{subset}").glob("*.mhd")):
                if path.stem in paths and self.quarantined(path):
                    continue
                if path.stem in paths:
                    raise SslMedError(f"{path}: is a second copy of {paths[path.stem][1]}; keep one")
                paths[path.stem] = (subset, path)
        if not paths:
            return []
        table = root / "candidates_V2.csv"
        table = table if table.is_file() else root / "candidates.csv"
        # unlabelled use needs no table, but where there is one the split is the same as with labels
        candidates = _read_candidates(table) if self.labelled or table.is_file() else {}
        absent = len(candidates.keys() - paths.keys())
        if absent and self.labelled:
            self.notes.append(f"{table.name} names {absent} scans that are not below {root}; their rows are left out")
        scans = []
        for uid, (subset, path) in sorted(paths.items()):
            marked = tuple(candidates.get(uid, ()))
            if marked and self.labelled and not self.quarantined(path):
                self._check_places(path, marked, table=table)
            scans.append(LunaScan(uid, uid, (str(path),), "", self.voxels(str(path)), subset, marked))
        with_rows = sum(bool(scan.candidates) for scan in scans)
        if self.labelled and not with_rows:
            raise SslMedError(f"{table}: has no row of the {len(scans)} scans below {root}; is it their table?")
        if self.labelled and with_rows < len(scans):
            self.notes.append(f"{len(scans) - with_rows} of {len(scans)} scans have no candidates and are left out")
        return scans

    def _check_places(self, path: Path, marked: tuple[Candidate, ...], *, table: Path) -> None:
        """Refuses a candidate whose cube would hold no voxel of the scan: wrong table, or coordinates not in LPS."""
        header = read_header(str(path))
        voxel = world_to_voxel(np.array([candidate.world for candidate in marked]), header.to_world)
        reach = max(self.spec.patch_size) / 2
        outside = ((voxel < -reach) | (voxel > np.array(header.shape) + reach)).any(1)
        if outside.any():
            row = marked[int(outside.argmax())].row
            raise SslMedError(f"{table}: line {row + 2} lies outside scan {path.name}; coordinates are mm in LPS")

    def split_group(self, case: Any) -> str:
        """Scans with candidates are split by themselves: no row says nothing about a scan."""
        return "labelled" if case.candidates else ""

    def usable(self, case: Any) -> bool:
        """Labelled use takes the scans with candidates."""
        return bool(case.candidates) or not self.labelled

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
                    f"no '{word}' candidate is left to train on (data.split={self.config.split}, "
                    f"labels.fraction={self.label_fraction:g}); take more subjects"
                )

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Candidates by class."""
        labels = [candidate.label for case in cases for candidate in case.candidates]
        return {word: labels.count(label) for label, word in enumerate(self.spec.class_names)}

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
        self.cases, self.read, self.patch, self.seed = cases, read, patch, seed
        self.all = [(number, candidate) for number, case in enumerate(cases) for candidate in case.candidates]
        self.scan = np.array([number for number, _ in self.all])
        labels = np.array([candidate.label for _, candidate in self.all])
        self.positive, self.negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        self.drawn = None
        if negatives_per_positive is not None:
            self.drawn = min(len(self.negative), negatives_per_positive * len(self.positive))
        self._epoch: tuple[int, Array] | None = None

    def __len__(self) -> int:
        return len(self.all) if self.drawn is None else len(self.positive) + self.drawn

    def members(self, epoch: int) -> Array:
        """Candidates of an epoch."""
        if self.drawn is None:
            return np.arange(len(self.all))
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 0x2E6])
            negative = rng.choice(self.negative, self.drawn, replace=False)
            self._epoch = (epoch, np.concatenate([self.positive, negative]))
        return self._epoch[1]

    def owners(self, epoch: int) -> Array:
        """Scan of each sample."""
        owner: Array = self.scan[self.members(epoch)]
        return owner

    def __getitem__(self, key: Key) -> Sample:
        number, candidate = self.all[self.members(key[0])[key[1]]]
        case = self.cases[number]
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


def _read_candidates(table: Path) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    for row, values in enumerate(read_table(table, _COLUMNS)):
        try:
            world = (float(values["coordX"]), float(values["coordY"]), float(values["coordZ"]))
            label = int(values["class"])
        except (TypeError, ValueError):
            raise SslMedError(f"{table}: line {row + 2} holds a value that is no number; repair it") from None
        if label not in (0, 1) or not np.isfinite(world).all():
            raise SslMedError(f"{table}: line {row + 2} needs finite coordinates and class 0 or 1; repair it")
        found.setdefault(values["seriesuid"], []).append(Candidate(row, world, label))
    return found
