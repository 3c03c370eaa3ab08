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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

from datamodules.core.configs import VolumeConfig
from datamodules.core.crops import around, cut
from datamodules.core.dicom import Series, modality_of, read_series_header
from datamodules.core.files import find_volumes
from datamodules.core.geometry import world_to_voxel
from datamodules.core.intensity import decode
from datamodules.core.loader import Key
from datamodules.core.scans import Scan, ScanData, volume_spec
from datamodules.core.volumes import Cache, Content, Placed, Sample, voxel_size, world_of
from datamodules.formats.grids import Array, Header, Volume
from ssl_med.ranges import Millimetres, Range, Side
from ssl_med.spec import DataSpec, Intensity, SslMedError

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
    layout = "LIDC-IDRI-NNNN/<study>/<series>/*.dcm with the readings' .xml files"
    known_labels = (0, 1)
    public_names = r"LIDC-IDRI-\d{4}(/\d+)?"
    store_keys = ("orientation", "spacing_mm", "consensus")

    @classmethod
    def make_spec(cls, config: LidcConfig, *, labelled: bool) -> DataSpec:
        """HU window; one region."""
        return volume_spec(
            config,
            channels=("ct",),
            intensity=Intensity("window", config.intensity_low, config.intensity_high, "HU"),
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
        readings = _readings(self.find(root, lambda path: path.suffix.lower() == ".xml"))
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
        marks = reading.marks(series, folder=path) if reading is not None else []
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
            "image": decode(cut(item.codes, window.start, window.size)),
            "mask": torch.from_numpy(cut(item.mask, window.start, window.size).astype(np.float32)),
            **voxel_size(item),
        }
        return sample, window, world_of(item, window)


# --------------------------------------------------------------------------------------------------- readings


@dataclass(frozen=True)
class Outline:
    """One outline on one image (named by SOP instance UID): pixels (column, row), inside or cut out."""

    image: str
    points: tuple[tuple[int, int], ...]
    include: bool


@dataclass(frozen=True)
class Mark:
    """What one reader took for one nodule: first voxel and mask (x, y, z)."""

    reader: int
    start: Array
    mask: Array


@dataclass(frozen=True)
class Reading:
    """One .xml: the number of readers, and (reader, outlines) of each nodule of 3 mm or more."""

    path: Path = field(compare=False)
    readers: int
    nodules: tuple[tuple[int, tuple[Outline, ...]], ...]

    def marks(self, series: Series, *, folder: Path) -> list[Mark]:
        """The nodules on the grid of the series; those without interior are left out."""
        place = {image: k for k, image in enumerate(series.images)}
        found = []
        for reader, outlines in self.nodules:
            layers: list[tuple[int, tuple[int, int], Array, bool]] = []
            for outline in outlines:
                if outline.image not in place:
                    raise SslMedError(f"{self.path}: outlines an image that is not in {folder}; complete the series")
                first, inside = interior(outline.points)
                if inside.any():
                    layers.append((place[outline.image], first, inside, outline.include))
            if not any(include for *_, include in layers):
                continue
            low = np.array([min(corner) for corner in zip(*((*first, k) for k, first, _, _ in layers), strict=True)])
            ends = [(*np.add(first, inside.shape).tolist(), k + 1) for k, first, inside, _ in layers]
            mask = np.zeros(np.max(ends, axis=0) - low, bool)
            for k, first, inside, include in sorted(layers, key=lambda layer: not layer[3]):  # exclusions last
                x, y = np.array(first) - low[:2]
                part = mask[x : x + inside.shape[0], y : y + inside.shape[1], k - low[2]]
                part[...] = (part | inside) if include else (part & ~inside)
            if (low < 0).any() or (low + mask.shape > series.grid.shape).any():
                raise SslMedError(f"{self.path}: an outline leaves the images in {folder}; is it their reading?")
            found.append(Mark(reader, low, mask))
        return found


def interior(points: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], Array]:
    """First pixel and mask (columns, rows) of what a closed chain of border pixels encloses, the chain left out."""
    first = (min(x for x, _ in points), min(y for _, y in points))
    chain = [(x - first[0], y - first[1]) for x, y in points]
    canvas = Image.new("L", (max(x for x, _ in chain) + 1, max(y for _, y in chain) + 1))
    if len(chain) > 2:
        draw = ImageDraw.Draw(canvas)
        draw.polygon(chain, fill=1)
        draw.line([*chain, chain[0]], fill=0)
    return first, np.asarray(canvas).T.astype(bool)


def agree(marks: Sequence[Mark], *, need: int) -> Iterator[tuple[Array, Array]]:
    """First voxel and mask (x, y, z) of each connected set (26 neighbours) of voxels that `need` readers marked."""
    from scipy import ndimage

    for group in _touching(marks):
        low = np.min([mark.start for mark in group], axis=0)
        high = np.max([mark.start + mark.mask.shape for mark in group], axis=0)
        votes = np.zeros(high - low, np.uint8)
        for reader in sorted({mark.reader for mark in group}):
            seen = np.zeros(votes.shape, bool)
            for mark in group:
                if mark.reader == reader:
                    where = tuple(slice(a, a + n) for a, n in zip(mark.start - low, mark.mask.shape, strict=True))
                    seen[where] |= mark.mask
            votes += seen
        parts, _ = ndimage.label(votes >= need, structure=np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            yield low + [side.start for side in box], parts[box] == number


def _touching(marks: Sequence[Mark]) -> list[list[Mark]]:
    """Marks whose boxes overlap or touch, directly or through others."""
    groups: list[list[Mark]] = []
    for mark in marks:
        near = [group for group in groups if any(_touch(mark, other) for other in group)]
        groups = [group for group in groups if not any(group is other for other in near)]
        groups.append([mark, *(other for group in near for other in group)])
    return groups


def _touch(a: Mark, b: Mark) -> bool:
    return bool(((a.start <= b.start + b.mask.shape) & (b.start <= a.start + a.mask.shape)).all())


def _readings(files: Iterable[Path]) -> Mapping[str, Reading]:
    """Series UID -> its reading; .xml files of another kind (readings of radiographs) are passed over."""
    found: dict[str, Reading] = {}
    for path in files:
        try:
            tree = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError, ValueError) as error:
            raise SslMedError(f"{path}: is no readable XML ({type(error).__name__}); download it again") from None
        uid = tree.findtext("{*}ResponseHeader/{*}SeriesInstanceUid", "").strip()
        if not tree.tag.endswith("LidcReadMessage") or not uid:
            continue
        reading = _reading(path, tree)
        if uid in found and found[uid] != reading:
            raise SslMedError(f"{path}: reads the same series as {found[uid].path}, with another result; keep one")
        found[uid] = reading
    return found


def _reading(path: Path, tree: ElementTree.Element) -> Reading:
    sessions = tree.findall("{*}readingSession")
    nodules = []
    for reader, session in enumerate(sessions):
        for nodule in session.iterfind("{*}unblindedReadNodule"):
            outlines = tuple(_outline(path, roi) for roi in nodule.iterfind("{*}roi"))
            if any(len(outline.points) > 1 for outline in outlines):
                nodules.append((reader, outlines))
    return Reading(path, len(sessions), tuple(nodules))


def _outline(path: Path, roi: ElementTree.Element) -> Outline:
    try:
        points = tuple(
            (int(edge.findtext("{*}xCoord", "")), int(edge.findtext("{*}yCoord", "")))
            for edge in roi.iterfind("{*}edgeMap")
        )
    except ValueError:
        points = ()
    if not points:
        raise SslMedError(f"{path}: an outline has no pixels or one that is no whole number; download it again")
    include = roi.findtext("{*}inclusion", "TRUE").strip().upper() != "FALSE"
    return Outline(roi.findtext("{*}imageSOP_UID", "").strip(), points, include)
