"""Brain MR in one folder a subject: <subject>/{FLAIR,T1,T1POST,T2,mask}.nii.gz, the heads of the BraTS phantom.

The mask is all that is abnormal in such a head, one lesion, where a patient with multiple sclerosis has many small ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_nifti
from datamodules.phantoms.brats import SIZE, VIEW, draw_head

NAMES = {"FLAIR": "flair", "T1": "t1", "T1POST": "t1ce", "T2": "t2"}
_OWNED = ("patient*/*.nii.gz", "patient*")


def generate(out: Path, *, subjects: int = 12, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes patient<nn>/{FLAIR,T1,T1POST,T2}.nii.gz (int16) and mask.nii.gz (uint8, 1 lesion); every fourth has no mask.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: voxels (x, y, z); the field of view of 162 x 180 x 144 mm stays, so the voxel size follows.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("ms", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    open_folder(out, "ms", seed=seed, subjects=subjects, owned=_OWNED)
    spacing = [round(view / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
    grid = Grid(size or SIZE, spacing)
    for i in range(subjects):
        images, labels = draw_head(grid, subject_rng("ms", seed, i))
        folder = out / f"patient{i + 1:02d}"
        folder.mkdir(exist_ok=True)
        arrays = {name: images[source] for name, source in NAMES.items()}
        if i % 4 != 3:
            arrays["mask"] = (labels > 0).astype(np.uint8)
        for name, array in arrays.items():
            write_nifti(folder / f"{name}.nii.gz", array, spacing=spacing, origin=(0.0, 0.0, 0.0), codes="RAS")
    return out
