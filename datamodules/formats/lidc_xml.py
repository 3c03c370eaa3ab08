"""Readings of LIDC-IDRI: an .xml file per series with each reader's outlines, and the masks that the readers agree on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw

from datamodules.formats.grids import Array
from ssl_med.spec import SslMedError


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

    def marks(self, images: Sequence[str], shape: Sequence[int], *, folder: Path) -> list[Mark]:
        """The nodules on the grid of the series, whose images have these UIDs; those without interior are left out."""
        place = {image: k for k, image in enumerate(images)}
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
            if (low < 0).any() or (low + mask.shape > np.array(shape)).any():
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


def find_readings(files: Iterable[Path]) -> Mapping[str, Reading]:
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
