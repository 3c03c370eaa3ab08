"""LIDC-IDRI: 1,018 chest CTs of 1,010 patients, nodules outlined by four readers (Armato et al., Medical Physics 38, 2011).

TCIA, CC BY 3.0. Expected below the root: LIDC-IDRI-NNNN/<study>/<series>/*.dcm, and the readings' *.xml beside them or in
any other folder; a reading belongs to the series whose UID it names. Needs pydicom.

An outline runs on the first pixels outside of the nodule (the data set's own rule), so its interior is the nodule; an
outline marked as exclusion is cut out. Nodules below 3 mm are single points and do not count. The mask holds the voxels
that enough readers of the scan marked: any, half (2 of 4) or all; what hangs together in it is one nodule. Samples are
crops around nodules, as in Models Genesis' nodule segmentation (NCS).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.core.configs import VolumeConfig
from datamodules.core.crops import around, cut
from datamodules.core.dicom import Series, modality_of, read_series_header
from datamodules.core.files import find_volumes
from datamodules.core.geometry import world_to_voxel
from datamodules.core.intensity import decode
from datamodules.core.loader import Key
from datamodules.core.scans import Scan, ScanData
from datamodules.core.volume_settings import volume_spec
from datamodules.core.volumes import Cache, Content, Placed, Sample, voxel_size, world_of
from datamodules.formats.grids import Array, Header, Volume
from datamodules.formats.lidc_xml import Reading, agree, find_readings
from ssl_med.ranges import Millimetres, Range, Side
from ssl_med.spec import DataSpec, SslMedError

_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")


@dataclass
class LidcConfig(VolumeConfig):
    """1 mm voxels and HU window of Models Genesis."""

    patch_size: tuple[Side, ...] = (64, 64, 32)
    spacing_mm: tuple[Millimetres, ...] | None = (1.0, 1.0, 1.0)
    consensus: Literal["any", "half", "all"] = "half"
    """readers of a scan that must have marked a voxel"""
    shift: Annotated[int, Range(0, 2**14)] = 8
    """labelled training: largest random shift of a crop from the middle of its nodule, in voxels along each axis"""


@dataclass(frozen=True)
class Nodule:
    """What readers agree on: first voxel and mask (x, y, z) on the stored grid, middle in mm (LPS)."""

    start: tuple[int, ...]
    mask: Array
    world: tuple[float, ...]


@dataclass(frozen=True)
class LidcScan(Scan):
    """A series with its nodules. `uid`: its own, as LUNA16 names it; `outlined`: any reader outlined one."""

    uid: str = ""
    shape: tuple[int, ...] = ()
    outlined: bool = False
    nodules: tuple[Nodule, ...] = field(default=(), repr=False)


class LidcData(ScanData):
    """Unlabelled crops of the CTs, or crops around nodules with their mask."""

    Config = LidcConfig
    public_sets = ("LIDC-IDRI", "LUNA16")
    layout = "LIDC-IDRI-NNNN/<study>/<series>/*.dcm with the readings' .xml files"
    known_labels = (0, 1)
    public_names = r"LIDC-IDRI-\d{4}(/\d+)?"
    store_keys = ("orientation", "spacing_mm", "consensus")
    takes_whole = False  # crops around nodules

    @classmethod
    def make_spec(cls, config: LidcConfig, *, labelled: bool) -> DataSpec:
        """HU window; one region."""
        return volume_spec(
            config,
            channels=("ct",),
            intensity=config.intensity_of("window", "HU"),
            target="mask" if labelled else "none",
            class_names=("nodule",),
        )

    @property
    def content(self) -> Content | None:
        """All crops are taken."""
        return None

    def index(self, root: Path) -> Sequence[LidcScan]:
        """CT series of the patients' folders; radiographs of the same patients are left out."""
        found = find_volumes(root, left_out=self.quarantined, prefer=lambda path: _PATIENT.search(str(path)))
        folders = [(_PATIENT.findall(str(path))[-1:], path) for path in found if path.is_dir()]
        folders = [(patient, path) for patient, path in folders if patient]
        if not folders:
            return []
        readings = find_readings(self.find(root, lambda path: path.suffix.lower() == ".xml"))
        scans: list[LidcScan] = []
        count: dict[str, int] = {}
        for (patient,), path in folders:
            left_out = self.quarantined(path)
            if not left_out and modality_of(str(path)) != "CT":
                continue
            count[patient] = count.get(patient, 0) + 1
            name = patient if count[patient] == 1 else f"{patient}/{count[patient]}"
            try:
                series = read_series_header(str(path))
            except SslMedError:
                if not left_out:
                    raise
                scans.append(LidcScan(name, patient, (str(path),), "", 0))  # it stays in the split
                continue
            scans.append(self._scan(name, patient, path, series, readings.get(series.uid)))
        if self.labelled:
            without = sum(not scan.nodules for scan in scans)
            if without == len(scans):
                rule = f"data.consensus={self.config.consensus}"
                raise SslMedError(f"{root}: none of {len(scans)} CTs has a nodule by {rule}; are the .xml files there?")
            if without:
                self.notes.append(f"{without} of {len(scans)} CTs have no nodule of that consensus and are left out")
        return scans

    def _scan(self, name: str, patient: str, path: Path, series: Series, reading: Reading | None) -> LidcScan:
        """One CT with what its readers agree on."""
        marks = reading.marks(series.images, series.grid.shape, folder=path) if reading is not None else []
        nodules: list[Nodule] = []
        if reading is not None:
            need = {"any": 1, "half": math.ceil(reading.readers / 2), "all": reading.readers}[self.config.consensus]
            for start, mask in agree(marks, need=need):
                middle = series.grid.to_world @ [*(start + (np.array(mask.shape) - 1) / 2), 1]
                nodules.append(Nodule(tuple(start.tolist()), mask, tuple(middle[:3].tolist())))
        source = str(reading.path) if reading is not None and nodules else ""
        voxels = self.voxels_of(series.grid)
        images, shape = (str(path),), series.grid.shape
        return LidcScan(name, patient, images, source, voxels, series.uid, shape, bool(marks), tuple(nodules))

    def split_group(self, case: Any) -> str:
        """Outlined or not: the same for every consensus rule."""
        return "labelled" if case.outlined else ""

    def usable(self, case: Any) -> bool:
        """Labelled use takes the CTs with nodules."""
        return bool(case.nodules) or not self.labelled

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Nodules."""
        return {"nodule": sum(len(case.nodules) for case in cases)}

    def grid_files(self, case: Any) -> list[str]:
        """The series alone: its mask is drawn on its grid."""
        return list(case.images)

    def labels_on(self, scan: Any, grid: Header) -> Volume:
        """The consensus mask."""
        return Volume(self.stored_labels(scan), grid.to_world)

    def stored_labels(self, scan: Any) -> Array:
        """Consensus mask on the grid of the series."""
        labels = np.zeros(scan.shape, np.uint8)
        for nodule in scan.nodules:
            where = tuple(slice(s, s + n) for s, n in zip(nodule.start, nodule.mask.shape, strict=True))
            labels[where] |= nodule.mask
        return labels

    def regions(self, labels: Array, *, source: str) -> Array:
        """The nodules."""
        return labels[None]

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Crops around nodules when labelled."""
        if not self.labelled:
            return super().dataset(cases, part=part)
        read = Cache(self.load, gigabytes=self.config.cache_gb)
        shift = self.config.shift if part == "train" else 0
        return NoduleCrops(cases, read, patch=self.spec.patch_size, seed=self.seed, shift=shift)

    def eval_batch(self) -> int:
        """Crops have one size."""
        return max(1, self.batch_size // self.world)


class NoduleCrops(Dataset[Sample]):
    """A crop around each nodule with its mask, moved by up to `shift` voxels along each axis, anew each epoch."""

    def __init__(
        self, cases: Sequence[LidcScan], read: Cache, *, patch: tuple[int, ...], seed: int, shift: int
    ) -> None:
        self.cases, self.read, self.patch, self.seed, self.shift = cases, read, patch, seed, shift
        self.all = [(number, k) for number, case in enumerate(cases) for k in range(len(case.nodules))]

    def __len__(self) -> int:
        return len(self.all)

    def owners(self, epoch: int) -> Array:
        """Scan of each sample."""
        return np.array([number for number, _ in self.all])

    def __getitem__(self, key: Key) -> Sample:
        return self.placed(key)[0]

    def placed(self, key: Key, size: tuple[int, ...] | None = None) -> Placed:
        """A crop and where it lies; see `Placing`."""
        epoch, index = key
        number, k = self.all[index]
        case = self.cases[number]
        item = self.read(case)
        assert item.to_world is not None
        assert item.mask is not None
        middle = np.rint(world_to_voxel(np.array([case.nodules[k].world]), item.to_world)[0]).astype(int)
        rng = np.random.default_rng([self.seed, epoch + 1, index])
        start = middle - np.array(self.patch) // 2 + rng.integers(-self.shift, self.shift + 1, 3)
        window = around(start, self.patch, size, item.codes.shape[1:])
        sample = {
            "id": f"{case.name}/nodule{k + 1}",
            "index": index,
            "image": decode(cut(item.codes, window.start, window.size), item.norm),
            "mask": torch.from_numpy(cut(item.mask, window.start, window.size).astype(np.float32)),
            **voxel_size(item),
        }
        return sample, window, world_of(item, window)
