"""Which files of a folder are images, masks and tables, by their names alone."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

VOLUMES = (".nii", ".nii.gz", ".mhd", ".mha", ".nrrd", ".nhdr")
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM = (".dcm", ".dicom", ".ima")
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
    return path.lower().endswith((*VOLUMES, *IMAGES, *DICOM, ".npy", ".npz")) or (root / path).is_dir()


def walk(root: Path, *, flat: bool) -> tuple[list[Found], list[str]]:
    """Images and masks, and tables, below a root, sorted; hidden files are left out.

    Args:
        root: the folder.
        flat: 2D data, where each DICOM file is an image; else a folder of them is a series.
    """
    found, tables = [], []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        where = Path(folder).relative_to(root).as_posix()
        slices = []
        for name in sorted(name for name in names if not name.startswith(".")):
            path, low = (name if where == "." else f"{where}/{name}"), name.lower()
            if low.endswith(TABLES):
                tables.append(path)
            elif low.endswith(DICOM) and flat:
                found.append(Found(path, "dicom"))
            elif low.endswith(DICOM):
                slices.append(name)
            elif low.endswith(VOLUMES) or (low.endswith(".npy") and not flat):
                found.append(Found(path, "volume", bool(_MASK.search(path))))
            elif low.endswith(IMAGES):
                found.append(Found(path, "image", bool(_MASK.search(path))))
            elif low.endswith(".npz"):
                found.append(Found(path, "arrays"))
        if slices:
            found.append(Found(where, "volume"))
    return sorted(found, key=lambda item: item.path), sorted(tables)
