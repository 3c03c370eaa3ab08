"""Marked places in scans (world millimetres, two classes) as cubes: the table, the checks, the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.cases import plain_number, read_table
from datamodules.core.configs import LABELLED, VolumeConfig
from datamodules.core.crops import around, cut
from datamodules.core.geometry import world_to_voxel
from datamodules.core.intensity import decode
from datamodules.core.loader import Key
from datamodules.core.readers import read_header
from datamodules.core.scans import Scan, ScanData
from datamodules.core.volumes import Cache, Placed, Sample, world_of
from datamodules.formats.grids import Array
from ssl_med.ranges import Range
from ssl_med.setting import setting
from ssl_med.spec import SslMedError


@dataclass
class CandidateConfig(VolumeConfig):
    """Settings of families with candidates."""

    negatives_per_positive: Annotated[int, Range(1, 10**6)] = setting(default=2, needs=LABELLED)
    """labelled training: negative candidates drawn per positive and epoch; validation and test use all"""


IGNORED = -2  # lesion of a candidate that is not to be judged
UNMEASURED = 10.0  # mm, diameter of a finding whose table says -1, as LUNA16's script has it


@dataclass(frozen=True, slots=True)
class Lesion:
    """A finding: world position and radius in mm."""

    world: tuple[float, float, float]
    radius: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A marked place: row of the table, world position in mm (LPS), 1 for a positive, which of its scan's lesions it marks.

    lesion: its number, -1 for none, -2 where the candidate is not to be judged.
    """

    row: int
    world: tuple[float, float, float]
    label: int
    lesion: int = -1


@dataclass(frozen=True)
class CandidateScan(Scan):
    """A scan with its candidates and the number of its lesions, those that no candidate marks too."""

    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    lesions: int = 0


class CandidateData(ScanData):
    """A family whose labels are candidates. A leaf gives `index` and `make_spec`; class 1 is the positive one."""

    lead_stratum = "1"  # a scan with a positive has other candidates too

    def attach(
        self, table: Path, candidates: Mapping[str, Sequence[Candidate]], paths: Mapping[str, str]
    ) -> dict[str, tuple[Candidate, ...]]:
        """The candidates of each scan (uid -> path), checked when labelled; what does not match is noted or refused."""
        marked = {uid: tuple(candidates.get(uid, ())) for uid in paths}
        if not self.labelled:
            return marked
        absent = len(candidates.keys() - paths.keys())
        if absent:
            self.notes.append(
                f"{table.name} names {absent} scans that are not below {self.config.root}; their rows are left out"
            )
        for uid, found in marked.items():
            if found and not self.quarantined(paths[uid]):
                self._check_places(paths[uid], found, table=table)
        with_rows = sum(map(bool, marked.values()))
        if not with_rows:
            raise SslMedError(
                f"{table}: has no row of the {len(paths)} scans below {self.config.root}; is it their table?"
            )
        if with_rows < len(paths):
            self.notes.append(f"{len(paths) - with_rows} of {len(paths)} scans have no candidates")
        return marked

    def _check_places(self, path: str, marked: Sequence[Candidate], *, table: Path) -> None:
        """Refuses a candidate whose cube would hold no voxel of the scan: wrong table, or wrong world coordinates."""
        header = read_header(path)
        voxel = world_to_voxel(np.array([candidate.world for candidate in marked]), header.to_world)
        reach = max(self.spec.patch_size) / 2
        outside = ((voxel < -reach) | (voxel > np.array(header.shape) + reach)).any(1)
        if outside.any():
            row = marked[int(outside.argmax())].row
            name = Path(path).name
            raise SslMedError(f"{table}: line {row + 2} lies outside scan {name}; coordinates are mm in LPS")

    def split_group(self, case: Any) -> str:
        """Scans with candidates are split by themselves: no row says nothing about a scan."""
        return "labelled" if case.candidates else ""

    def usable(self, case: Any) -> bool:
        """Labelled use takes the scans with candidates."""
        return bool(case.candidates) or not self.labelled

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """With or without a positive."""
        return {case.subject: str(max(c.label for c in case.candidates)) for case in cases}

    def check_budget(self, cases: Sequence[Any]) -> None:
        """Both classes must be among the training candidates."""
        labels = {candidate.label for case in cases for candidate in case.candidates}
        for label, word in enumerate(self.spec.class_names):
            if label not in labels:
                raise SslMedError(
                    f"no '{word}' candidate is left to train on (data.split={self.config.split}, "
                    f"{self.budget}); take more subjects"
                )

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Candidates by class."""
        labels = [candidate.label for case in cases for candidate in case.candidates]
        return {word: labels.count(label) for label, word in enumerate(self.spec.class_names)}

    def drawn(self, cases: Sequence[Any]) -> tuple[list[float], list[int]]:
        """Negatives as many as data.negatives_per_positive takes of them."""
        negatives, positives = self.positives(cases).values()
        counts = [min(negatives, self.config.negatives_per_positive * positives), positives]
        return counts, [sum(counts)] * 2

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Candidates when labelled."""
        if not self.labelled:
            return super().dataset(cases, part=part)
        ratio = self.config.negatives_per_positive if part == "train" else None
        read = Cache(self.load, gigabytes=self.config.cache_gb)
        silent = self.unused.get(part, ())  # scans without a candidate are scans: their lesions are missed
        return CandidateCubes(
            cases,
            read,
            patch=self.spec.patch_size,
            seed=self.seed,
            negatives_per_positive=ratio,
            silent=(len(silent), sum(scan.lesions for scan in silent)),
        )

    def still_dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """For training the candidates of its first epoch, since negatives are hundreds of thousands."""
        return self.dataset(cases, part=part) if self.labelled else super().still_dataset(cases, part=part)

    def eval_batch(self) -> int:
        """Cubes have one size."""
        return max(1, self.batch_size // self.world)


class CandidateCubes(Dataset[Sample]):
    """Cubes around candidates; outside the scan is the window's lower end (-1000 HU: air).

    With `negatives_per_positive` an epoch holds every positive and that many negatives per positive, drawn anew each
    epoch; with None it holds every candidate.
    """

    def __init__(
        self,
        cases: Sequence[CandidateScan],
        read: Cache,
        *,
        patch: tuple[int, ...],
        seed: int,
        negatives_per_positive: int | None,
        silent: tuple[int, int] = (0, 0),
    ) -> None:
        self.silent = np.array(silent, np.int64)
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
        return self.placed(key)[0]

    def placed(self, key: Key, size: tuple[int, ...] | None = None) -> Placed:
        """A cube and where it lies; see `Placing`."""
        number, candidate = self.all[self.members(key[0])[key[1]]]
        case = self.cases[number]
        item = self.read(case)
        assert item.to_world is not None
        centre = np.rint(world_to_voxel(np.array([candidate.world]), item.to_world)[0]).astype(int)
        start = centre - np.array(self.patch) // 2
        window = around(start, self.patch, size, item.codes.shape[1:])
        sample = {
            "id": f"{case.name}/{candidate.row}",
            "index": key[1],
            "image": decode(cut(item.codes, window.start, window.size), item.norm),
            "label": candidate.label,
        }
        if self.drawn is None:
            sample |= {"lesion": candidate.lesion, "lesions": case.lesions, "silent": self.silent}
        return sample, window, world_of(item, window)


def mark_lesions(
    found: Sequence[Candidate], lesions: Sequence[Lesion] = (), excluded: Sequence[Lesion] = ()
) -> tuple[tuple[Candidate, ...], int]:
    """Candidates that know their lesion, and the number of lesions.

    A positive candidate marks the lesion whose centre is nearest to it; without `lesions` it is one by itself. A negative one
    within the radius of an `excluded` finding is not to be judged.
    """
    positive = [candidate for candidate in found if candidate.label == 1]
    if lesions and positive:
        apart = np.array([c.world for c in positive])[:, None] - np.array([lesion.world for lesion in lesions])
        nearest = np.linalg.norm(apart, axis=-1).argmin(1).tolist()
    else:
        nearest = range(len(positive))
    lesion_of = {candidate.row: number for candidate, number in zip(positive, nearest, strict=True)}
    for candidate in found if excluded else ():
        at = np.linalg.norm(np.array([one.world for one in excluded]) - candidate.world, axis=1)
        if candidate.label == 0 and (at < [one.radius for one in excluded]).any():
            lesion_of[candidate.row] = IGNORED
    marked = tuple(replace(candidate, lesion=lesion_of.get(candidate.row, -1)) for candidate in found)
    return marked, len(lesions) or len(positive)


def read_lesions(table: Path, columns: Sequence[str]) -> dict[str, list[Lesion]]:
    """Lesions by scan from a CSV with the columns uid, x, y, z and diameter, all mm; names the line of a bad value."""
    uid, *numbers = columns
    found: dict[str, list[Lesion]] = {}
    for row, values in enumerate(read_table(table, columns)):
        try:
            x, y, z, diameter = (float(values[key]) for key in numbers)
        except ValueError:
            raise SslMedError(f"{table}: line {row + 2} holds a value that is no number; repair it") from None
        if not np.isfinite((x, y, z, diameter)).all():
            raise SslMedError(f"{table}: line {row + 2} needs finite coordinates and a finite diameter; repair it")
        found.setdefault(values[uid], []).append(Lesion((x, y, z), (diameter if diameter >= 0 else UNMEASURED) / 2))
    return found


def read_candidates(
    table: Path, columns: Sequence[str], *, turn: Sequence[float] = (1, 1, 1)
) -> dict[str, list[Candidate]]:
    """Rows of a CSV by scan.

    Args:
        table: the file.
        columns: names of the columns of uid, x, y, z (mm) and label (0 or 1).
        turn: factors that make the coordinates LPS.

    Raises:
        SslMedError: missing file or column, a value that is no finite number, another label; names the line.
    """
    uid, x, y, z, mark = columns
    found: dict[str, list[Candidate]] = {}
    for row, values in enumerate(read_table(table, columns)):
        try:
            first, second, third = (float(values[key]) * sign for key, sign in zip((x, y, z), turn, strict=True))
            label = int(plain_number(values[mark]))
        except (TypeError, ValueError):
            raise SslMedError(f"{table}: line {row + 2} holds a value that is no number; repair it") from None
        world = (first, second, third)
        if label not in (0, 1) or not np.isfinite(world).all():
            raise SslMedError(f"{table}: line {row + 2} needs finite coordinates and {mark} 0 or 1; repair it")
        found.setdefault(values[uid], []).append(Candidate(row, world, label))
    return found
