"""A data set that a datalist of MONAI names: FLAIR images of the BraTS phantom, in lists training, validation and test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_nifti
from datamodules.phantoms.brats import SIZE, VIEW, draw_head

_OWNED = ("images/*.nii.gz", "labels/*.nii.gz", "datalist.json", "images", "labels")
_LISTS = ("training", "training", "training", "validation", "test")


def generate(out: Path, *, subjects: int = 10, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes images/, labels/ and datalist.json: of five cases three train, one validates and one tests.

    Files are case_<nnn>.nii.gz; images (x, y, z) int16; labels uint8: 1 oedema, 2 core.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of cases, one a patient.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: voxels (x, y, z); the field of view of 162 x 180 x 144 mm stays, so the voxel size follows.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("monai", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    open_folder(out, "monai", seed=seed, subjects=subjects, owned=_OWNED)
    spacing = [round(view / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
    grid, place = Grid(size or SIZE, spacing), {"spacing": spacing, "origin": (0.0, 0.0, 0.0)}
    lists: dict[str, list[dict[str, str]]] = {name: [] for name in dict.fromkeys(_LISTS)}
    for folder in ("images", "labels"):
        (out / folder).mkdir(exist_ok=True)
    for i in range(subjects):
        images, drawn = draw_head(grid, subject_rng("monai", seed, i))
        name = f"case_{i + 1:03d}.nii.gz"
        write_nifti(out / "images" / name, images["flair"], codes="RAS", **place)
        labels = np.select([drawn == 2, drawn > 0], [1, 2]).astype(np.uint8)
        write_nifti(out / "labels" / name, labels, codes="RAS", **place)
        lists[_LISTS[i % len(_LISTS)]].append({"image": f"images/{name}", "label": f"labels/{name}"})
    table = {"modality": {"0": "FLAIR"}, "labels": {"0": "background", "1": "oedema", "2": "core"}, **lists}
    (out / "datalist.json").write_text(json.dumps(table, indent=1) + "\n")
    return out
