"""Chest CTs in the layout of LIDC-IDRI (Armato et al. 2011): DICOM series, and four readers' outlines in XML.

Readers disagree as real ones do: each misses some nodules and draws the others a little larger, smaller or beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from scipy import ndimage

from datamodules.phantoms._anatomy import Array, Grid
from datamodules.phantoms._dicom import new_uid, write_series
from datamodules.phantoms._files import check_request, open_folder, subject_rng
from datamodules.phantoms.luna import SIZE, VIEW, draw_chest

READERS = 4
_OWNED = ("LIDC-IDRI-*/*/*/*", "LIDC-IDRI-*/*/*", "LIDC-IDRI-*/*", "LIDC-IDRI-*")


def generate(out: Path, *, subjects: int = 8, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes LIDC-IDRI-<nnnn>/<study>/<series>/1-<nnn>.dcm (CT, HU) with <nnn>.xml beside, as TCIA distributes it.

    Every third patient also has a chest radiograph (DX) in a series of one image.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients, one CT each.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: voxels (x, y, z); the field of view of about 228 x 182 x 184 mm stays, so the voxel size follows.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else; pydicom is absent.
    """
    check_request("lidc", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    open_folder(out, "lidc", seed=seed, subjects=subjects, owned=_OWNED)
    spacing = [round(view / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
    grid = Grid(size or SIZE, spacing)
    for i in range(subjects):
        rng = subject_rng("lidc", seed, i)
        image, nodules, _ = draw_chest(grid, rng, padded=i % 3 == 1)
        origin = np.round(rng.uniform(-60, 60, 3) - grid.half, 3)
        patient = f"LIDC-IDRI-{i + 1:04d}"
        folder = out / patient / "01-01-2000-30178" / "3000566.000000-03192"
        series = new_uid(rng)
        images = write_series(folder, image, spacing=spacing, origin=origin, series=series, patient=patient)
        drawn = [read_nodules(grid, rng, nodules) for _ in range(READERS)]
        heights = origin[2] + np.arange(grid.size[2]) * spacing[2]
        (folder / f"{i + 1:03d}.xml").write_bytes(_message(series, images, heights, drawn))
        if i % 3 == 2:
            radiograph = np.rint(image.mean(1, keepdims=True)).astype(np.int16).transpose(0, 2, 1)[:, ::-1]
            write_series(
                out / patient / "01-01-2000-35511" / "3000923.000000-62357", radiograph,
                spacing=spacing, origin=origin, series=new_uid(rng), patient=patient, modality="DX",
            )  # fmt: skip
    return out


def read_nodules(grid: Grid, rng: np.random.Generator, nodules: Array) -> list[Array]:
    """What one reader takes for nodules, as masks (x, y, z)."""
    seen = []
    for x, y, z, diameter in nodules:
        if rng.random() < 0.2:
            continue
        center = np.array([x, y, z]) + rng.normal(0, 0.4, 3)
        mask = grid.ellipsoid(center, [diameter / 2 * rng.uniform(0.9, 1.2)] * 3) > 0
        if mask.any():
            seen.append(mask)
    return seen


def outline(mask: Array) -> list[tuple[int, int]]:
    """The first pixels outside of a round region (columns, rows), in order around it."""
    border = np.argwhere(ndimage.binary_dilation(mask) & ~mask)
    middle = np.argwhere(mask).mean(0)
    angle = np.arctan2(*(border - middle).T)
    return [(int(x), int(y)) for x, y in border[np.argsort(angle)]]


def _message(series: str, images: Sequence[str], heights: Array, readers: Sequence[Sequence[Array]]) -> bytes:
    """The readings of one series."""
    root = ElementTree.Element("LidcReadMessage", {"uid": f"{series}.9", "xmlns": "http://www.nih.gov"})
    header = ElementTree.SubElement(root, "ResponseHeader")
    ElementTree.SubElement(header, "Version").text = "1.8.1"
    ElementTree.SubElement(header, "SeriesInstanceUid").text = series
    for nodules in readers:
        session = ElementTree.SubElement(root, "readingSession")
        ElementTree.SubElement(session, "annotationVersion").text = "3.12"
        for number, mask in enumerate(nodules):
            nodule = ElementTree.SubElement(session, "unblindedReadNodule")
            ElementTree.SubElement(nodule, "noduleID").text = f"Nodule {number + 1:03d}"
            for k in np.flatnonzero(mask.any((0, 1))).tolist():
                _roi(nodule, images[k], heights[k], outline(mask[:, :, k]))
        # a nodule below 3 mm is one point
        small = ElementTree.SubElement(session, "unblindedReadNodule")
        ElementTree.SubElement(small, "noduleID").text = "small"
        _roi(small, images[0], heights[0], [(3, 3)])
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _roi(nodule: ElementTree.Element, image: str, height: float, points: Sequence[tuple[int, int]]) -> None:
    roi = ElementTree.SubElement(nodule, "roi")
    ElementTree.SubElement(roi, "imageZposition").text = f"{height:.6f}"
    ElementTree.SubElement(roi, "imageSOP_UID").text = image
    ElementTree.SubElement(roi, "inclusion").text = "TRUE"
    for x, y in points:
        edge = ElementTree.SubElement(roi, "edgeMap")
        ElementTree.SubElement(edge, "xCoord").text = str(x)
        ElementTree.SubElement(edge, "yCoord").text = str(y)
