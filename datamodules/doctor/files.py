"""Which files of a folder are images, masks and tables, by their names alone (DICOM without an ending: by its mark)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from datamodules.core.dicom import is_dicom
from datamodules.core.files import walk

VOLUMES = (".nii", ".nii.gz", ".mhd", ".mha", ".nrrd", ".nhdr")
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
TABLES = (".csv", ".tsv", ".txt", ".json")
_MASK = re.compile(r"(^|[/_\-.])(seg(m|mentation)?|(manual)?masks?|labels?(tr|ts)?)([/_\-.]|\d|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A file, or a folder with one DICOM series; `path` relative to the root, '/' between folders."""

    path: str
    kind: str  # volume, image, dicom, arrays
    mask: bool = False


def is_image(path: str, *, root: Path) -> bool:
    """Whether a file is of a format that `inspect` reads, or a folder."""
    known = path.lower().endswith((*VOLUMES, *IMAGES, ".npy", ".npz"))
    return known or (root / path).is_dir() or is_dicom(root / path)


def listing(root: Path, *, flat: bool) -> tuple[list[Found], list[str]]:
    """Images and masks, and tables, below a root, sorted, by the walk that training uses; each file once.

    Args:
        root: the folder.
        flat: 2D data, where each DICOM file is an image; else a folder of them is a series.

    Raises:
        SslMedError: as `walk`.
    """
    found: dict[str, tuple[bool, Found]] = {}
    tables: list[str] = []

    def add(real: str, linked: bool, item: Found) -> None:
        known = found.get(real)
        if known is None or (linked, item.path) < (known[0], known[1].path):
            found[real] = (linked, item)

    for folder in walk(root):
        where, slices = folder.path.relative_to(root).as_posix(), False
        for file in folder.files:
            path, low = file.path.relative_to(root).as_posix(), file.path.name.lower()
            if file.broken or file.special:
                continue  # the family says whether it needs it
            if low.endswith(TABLES):
                tables.append(path)
            elif low.endswith(VOLUMES) or (low.endswith(".npy") and not flat):
                add(file.real, file.linked, Found(path, "volume", bool(_MASK.search(path))))
            elif low.endswith(IMAGES):
                add(file.real, file.linked, Found(path, "image", bool(_MASK.search(path))))
            elif low.endswith(".npz"):
                add(file.real, file.linked, Found(path, "arrays"))
            elif is_dicom(file.path) and flat:
                add(file.real, file.linked, Found(path, "dicom"))
            else:
                slices = slices or is_dicom(file.path)
        if slices:
            add(folder.real, folder.linked, Found(where, "volume"))
    return sorted((item for _, item in found.values()), key=lambda item: item.path), sorted(tables)
