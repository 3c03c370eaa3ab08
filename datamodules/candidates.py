"""Bring your own candidates: CT volumes and a table of marked places, two classes, as cubes around them.

The form of Models Genesis' pulmonary embolism task (ECC: 121 CTPA scans, cubes of 64 voxels, HU -1000..1000), whose data are
private; terms: see the distributor of the scans.
Expected below the root: candidates.csv with the columns uid, x, y, z (mm) and label (0 or 1), and in any folders <uid> with
the ending of a volume format, or a folder <uid> with one DICOM series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.core.candidates import CandidateConfig, CandidateData, CandidateScan, mark_lesions, read_candidates
from datamodules.core.cases import read_table
from datamodules.core.files import find_volumes, stem
from datamodules.core.volume_settings import volume_spec
from datamodules.core.volumes import Content
from ssl_med.ranges import Side
from ssl_med.spec import DataSpec, SslMedError

_TURN = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1)}


@dataclass
class CandidatesConfig(CandidateConfig):
    """Where the table is and how it reads."""

    patch_size: tuple[Side, ...] = (64, 64, 64)
    table: str = "candidates.csv"
    """the CSV, relative to the root or absolute"""
    columns: tuple[str, ...] = ("uid", "x", "y", "z", "label")
    """names of its columns in this order"""
    subject_column: str = ""
    """column that names the patient; empty: each scan is a patient"""
    coordinates: Literal["LPS", "RAS"] = "LPS"
    """LPS as in ITK and DICOM, RAS as in NIfTI and 3D Slicer"""
    classes: tuple[str, ...] = ("negative", "positive")
    """names of labels 0 and 1"""


class CandidatesData(CandidateData):
    """Unlabelled crops, or cubes around candidates."""

    Config = CandidatesConfig
    layout = "candidates.csv and a volume <uid> for each of its scans"

    @classmethod
    def make_spec(cls, config: CandidatesConfig, *, labelled: bool) -> DataSpec:
        """HU window; negative or positive."""
        if len(config.columns) != 5 or len(set(config.columns)) != 5:
            raise SslMedError(f"data.columns {list(config.columns)} must be the five columns of uid, x, y, z and label")
        if len(config.classes) != 2 or len(set(config.classes)) != 2:
            raise SslMedError(f"data.classes {list(config.classes)} must be two names, of label 0 and of label 1")
        return volume_spec(
            config,
            channels=("ct",),
            intensity=config.intensity_of("window", "HU"),
            target="class" if labelled else "none",
            class_names=tuple(config.classes),
        )

    @property
    def content(self) -> Content | None:
        """All crops are taken."""
        return None

    @classmethod
    def begins(cls, folder: Path, config: CandidatesConfig) -> bool:
        """Beside the table."""
        return (folder / config.table).is_file()

    def index(self, root: Path) -> Sequence[CandidateScan]:
        """All volumes, with their rows of the table."""
        paths: dict[str, str] = {}
        for path in find_volumes(root, left_out=self.quarantined):
            uid = stem(path)
            if uid in paths and self.quarantined(path):
                continue
            if uid in paths:
                raise SslMedError(f"{path}: is a second volume '{uid}' beside {paths[uid]}; keep one")
            paths[uid] = str(path)
        table = root / self.config.table
        if not paths or not (self.labelled or table.is_file()):
            return [CandidateScan(uid, uid, (path,), "", self.voxels(path)) for uid, path in paths.items()]
        marked = self.attach(
            table, read_candidates(table, self.config.columns, turn=_TURN[self.config.coordinates]), paths
        )
        subjects = self._subjects(table)
        return [
            CandidateScan(uid, subjects.get(uid, uid), (path,), "", self.voxels(path), *mark_lesions(marked[uid]))
            for uid, path in sorted(paths.items())
        ]

    def split_group(self, case: Any) -> str:
        """A patient may have scans with and without candidates, so patients are split together."""
        return "" if self.config.subject_column else super().split_group(case)

    def _subjects(self, table: Path) -> dict[str, str]:
        """Scan -> patient, where the table says it."""
        column, uid = self.config.subject_column, self.config.columns[0]
        if not column:
            return {}
        found: dict[str, str] = {}
        for row, values in enumerate(read_table(table, (uid, column))):
            subject = values[column]
            if not subject or found.setdefault(values[uid], subject) != subject:
                raise SslMedError(f"{table}: line {row + 2} gives its scan another '{column}' or none; repair it")
        return found
