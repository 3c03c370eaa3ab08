"""Finding volumes in a folder tree, whatever their format."""

from __future__ import annotations

import os
from pathlib import Path

from datamodules.core.dicom import holds_series
from datamodules.core.readers import VOLUME_ENDINGS


def find_volumes(root: Path) -> list[Path]:
    """Volume files and folders that hold a DICOM series, sorted; the root may be one; hidden files are left out."""
    found: list[Path] = []
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link back to a parent
            inner.clear()
            continue
        seen.add(os.path.realpath(folder))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        # ._name is what macOS leaves beside name in an archive
        names = sorted(name for name in names if not name.startswith("."))
        found += [Path(folder, name) for name in names if name.lower().endswith(VOLUME_ENDINGS)]
        if holds_series(folder, names):
            found.append(Path(folder))
    return sorted(found)


def stem(path: Path) -> str:
    """File name without the ending of its format; the whole name of a folder."""
    if path.is_dir():
        return path.name
    ending = max((e for e in VOLUME_ENDINGS if path.name.lower().endswith(e)), key=len, default="")
    return path.name[: len(path.name) - len(ending)]
