"""LUNA16: 888 low-dose chest CTs in ten subsets, with nodules and candidates (Setio et al., Medical Image Analysis 42, 2017).

Expected below the root: subset0 ... subset9/<seriesuid>.mhd with .raw or .zraw, annotations.csv, candidates_V2.csv (or
candidates.csv). World coordinates are millimetres in LPS. A series counts as a patient: the files name no other unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.core.candidates import (
    CandidateConfig,
    CandidateData,
    CandidateScan,
    mark_lesions,
    read_candidates,
    read_lesions,
)
from datamodules.core.intensity import code_of
from datamodules.core.splits import Split
from datamodules.core.volume_settings import volume_spec
from datamodules.core.volumes import Content
from ssl_med.ranges import Natural, Share, Side
from ssl_med.spec import DataSpec, SslMedError

_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "class")
_EXCLUDED = "annotations_excluded.csv"
_LESION_COLUMNS = (*_COLUMNS[:4], "diameter_mm")
# official subsets by part: Models Genesis trains on 0-4, PCRL's lists on 0-6 (its 7-9 are cut here into val and test)
_SUBSETS = {"mg": ((0, 1, 2, 3, 4), (5, 6), (7, 8, 9)), "pcrl": ((0, 1, 2, 3, 4, 5, 6), (7,), (8, 9))}

_SUBSET = re.compile(r"subset\d")


@dataclass
class LunaConfig(CandidateConfig):
    """HU window of Models Genesis and PCRL."""

    patch_size: tuple[Side, ...] = (64, 64, 32)
    tissue_max: Share = 0.15
    """unlabelled crops: largest share of voxels above -150 HU, Models Genesis' filter for crops inside the lung; 1: off"""
    border: tuple[Natural, ...] = (0, 0, 0)
    """voxels at each end of an axis that unlabelled crops leave out; Models Genesis: 100, 100, 30 of 512 x 512 slices"""


@dataclass(frozen=True)
class LunaScan(CandidateScan):
    """A scan with its official subset and its candidates."""

    subset: int = 0


class LunaData(CandidateData):
    """Unlabelled crops, or candidates for nodule false-positive reduction."""

    Config = LunaConfig
    public_sets = ("LUNA16", "LIDC-IDRI")
    layout = "subset0 ... subset9 with <seriesuid>.mhd files"
    splits = ("mg", "pcrl")
    # roots of TCIA, NLST and of random uids
    public_names = r"(1\.3\.6\.1\.4\.1\.14519\.5\.2\.1|1\.2\.840\.113654\.2\.55|2\.25)(\.\d+)+"

    @classmethod
    def make_spec(cls, config: LunaConfig, *, labelled: bool) -> DataSpec:
        """HU window; nodule or not."""
        if len(config.border) != 3 or min(config.border) < 0:
            raise SslMedError(f"data.border {list(config.border)} must be three numbers of voxels, 0 or more")
        return volume_spec(
            config,
            channels=("ct",),
            intensity=config.intensity_of("window", "HU"),
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

    @classmethod
    def begins(cls, folder: Path, config: LunaConfig) -> bool:
        """At the folders of the subsets."""
        return any(_SUBSET.fullmatch(path.name) for path in folder.glob("subset*"))

    def index(self, root: Path) -> Sequence[LunaScan]:
        """All scans, with their rows of the candidates table."""
        paths: dict[str, tuple[int, Path]] = {}

        def subsets_of(path: Path) -> list[int]:
            # an archive of one subset unpacks to subset0/subset0 in some tools
            return [int(name[-1]) for name in path.relative_to(root).parts[:-1] if _SUBSET.fullmatch(name)]

        for path in self.find(root, lambda path: path.suffix.lower() == ".mhd", prefer=subsets_of):
            subsets = subsets_of(path)
            if not subsets or (path.stem in paths and self.quarantined(path)):
                continue
            if path.stem in paths:
                raise SslMedError(f"{path}: is a second copy of {paths[path.stem][1]}; keep one")
            paths[path.stem] = (subsets[-1], path)
        if not paths:
            return []
        table = root / "candidates_V2.csv"
        table = table if table.is_file() else root / "candidates.csv"
        # unlabelled use needs no table, but where there is one the split is the same as with labels
        candidates = read_candidates(table, _COLUMNS) if self.labelled or table.is_file() else {}
        marked = self.attach(table, candidates, {uid: str(path) for uid, (_, path) in paths.items()})
        nodules, others = root / "annotations.csv", root / _EXCLUDED
        if not others.is_file():  # as the challenge's script unpacks
            others = root / "evaluationScript" / "annotations" / _EXCLUDED
        lesions, excluded = (
            read_lesions(path, _LESION_COLUMNS) if self.labelled and path.is_file() else {}
            for path in (nodules, others)
        )
        if self.labelled and not lesions:
            self.notes.append("no annotations.csv: FROC counts every positive candidate as a nodule of its own")
        if self.labelled and not others.is_file():
            self.notes.append(
                f"no {_EXCLUDED} (evaluationScript of LUNA16): FROC counts candidates at findings that the challenge leaves "
                "out as false positives"
            )
        return [
            LunaScan(
                uid,
                uid,
                (str(path),),
                "",
                self.voxels(str(path)),
                *mark_lesions(marked[uid], lesions.get(uid, ()), excluded.get(uid, ())),
                subset,
            )
            for uid, (subset, path) in sorted(paths.items())
        ]

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """By official subset."""
        parts = dict(zip(("train", "val", "test"), _SUBSETS[name], strict=True))
        return {part: [case.subject for case in cases if case.subset in subsets] for part, subsets in parts.items()}
