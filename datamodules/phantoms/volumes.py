"""Chest CTs in a tree of folders and every format that is read: NIfTI, MetaImage, NRRD, .npy and DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Array, Grid
from datamodules.phantoms._dicom import new_uid, write_series
from datamodules.phantoms._files import (
    check_request,
    open_folder,
    subject_rng,
    write_metaimage,
    write_nifti,
    write_nrrd,
)
from datamodules.phantoms.luna import SIZE, VIEW, draw_chest

FORMATS = ("nifti", "metaimage", "nrrd", "dicom", "npy")
_OWNED = ("subject*/*/*", "subject*/*", "subject*")


def generate(out: Path, *, subjects: int = 10, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes subject<nnn>/ct.{nii.gz,mhd,nrrd,npy} or subject<nnn>/ct/*.dcm (HU), formats in turn.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients, one scan each.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: voxels (x, y, z); the field of view of about 228 x 182 x 184 mm stays, so the voxel size follows.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else; pydicom is absent.
    """
    check_request("volumes", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    open_folder(out, "volumes", seed=seed, subjects=subjects, owned=_OWNED)
    spacing = [round(view / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
    grid = Grid(size or SIZE, spacing)
    for i in range(subjects):
        rng = subject_rng("volumes", seed, i)
        image, _, _ = draw_chest(grid, rng, padded=False)
        origin = np.round(rng.uniform(-60, 60, 3) - grid.half, 4)
        folder = out / f"subject{i + 1:03d}"
        folder.mkdir(exist_ok=True)
        _write(folder, FORMATS[i % len(FORMATS)], image, spacing=spacing, origin=origin, uid=new_uid(rng))
    return out


def _write(folder: Path, form: str, image: Array, *, spacing: list[float], origin: Array, uid: str) -> None:
    if form == "nifti":
        write_nifti(folder / "ct.nii.gz", image, spacing=spacing, origin=origin, codes="LAS")
    elif form == "metaimage":
        write_metaimage(folder, "ct", image, spacing=spacing, origin=origin, packed=True, turned=True)
    elif form == "nrrd":
        write_nrrd(folder / "ct.nrrd", image, spacing=spacing, origin=origin)
    elif form == "dicom":
        write_series(folder / "ct", image, spacing=spacing, origin=origin, series=uid, patient=folder.name)
    else:
        np.save(folder / "ct.npy", image)
