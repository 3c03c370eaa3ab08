"""Chest CTs in several file formats with one table of candidates, uid,patient,x,y,z,label: the chests of the LUNA16 phantom."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import (
    check_request,
    open_folder,
    subject_rng,
    write_metaimage,
    write_nifti,
    write_nrrd,
)
from datamodules.phantoms.luna import SIZE, VIEW, draw_chest

HEADER = "uid,patient,x,y,z,label"
_OWNED = ("scans/*", "scans", "candidates.csv")


def generate(out: Path, *, subjects: int = 12, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes scans/scan<nnn>_<k>.{nii.gz,mhd,nrrd} (int16 HU) and candidates.csv, label 1 for a nodule, mm in LPS.

    Every third patient has two scans.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: voxels (x, y, z); the field of view of about 228 x 182 x 184 mm stays, so the voxel size follows.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("candidates", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    open_folder(out, "candidates", seed=seed, subjects=subjects, owned=_OWNED)
    folder = out / "scans"
    folder.mkdir(exist_ok=True)
    spacing = [round(view / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
    grid = Grid(size or SIZE, spacing)
    table = [HEADER]
    for i in range(subjects):
        rng = subject_rng("candidates", seed, i)
        for k in range(2 if i % 3 == 2 else 1):
            uid = f"scan{i + 1:03d}_{k + 1}"
            image, nodules, negatives = draw_chest(grid, rng, padded=False)
            origin = np.round(rng.uniform(-60, 60, 3) - grid.half, 4)
            if (i + k) % 3 == 0:
                write_nifti(folder / f"{uid}.nii.gz", image, spacing=spacing, origin=origin, codes="LAS")
            elif (i + k) % 3 == 1:
                write_metaimage(folder, uid, image, spacing=spacing, origin=origin, packed=True, turned=False)
            else:
                write_nrrd(folder / f"{uid}.nrrd", image, spacing=spacing, origin=origin)
            shift = origin + (np.array(grid.size) - 1) / 2 * np.array(spacing)
            for places, label in ((nodules[:, :3], 1), (negatives, 0)):
                rows = [",".join(f"{value:.4f}" for value in place + shift) for place in places]
                table += [f"{uid},patient{i + 1:03d},{row},{label}" for row in rows]
    (out / "candidates.csv").write_text("\n".join(table) + "\n")
    return out
