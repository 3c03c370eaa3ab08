"""A task of the Medical Segmentation Decathlon (Antonelli et al. 2022): heads of the BraTS phantom, one 4D file a case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_nifti
from datamodules.phantoms.brats import MODALITIES, SIZE, VIEW, draw_head

# as Task01_BrainTumour names and numbers them
CHANNELS = ("FLAIR", "T1w", "t1gd", "T2w")
LABELS = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
_OWNED = ("images??/*.nii.gz", "labels??/*.nii.gz", "dataset.json", "images??", "labels??")


def generate(out: Path, *, subjects: int = 12, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes dataset.json, imagesTr/ and labelsTr/ with BRATS_<nnn>.nii.gz, and imagesTs/ without labels.

    Images (x, y, z, 4) int16: FLAIR, T1w, t1gd, T2w; labels uint8: 1 oedema, 2 non-enhancing, 3 enhancing. Every fourth
    case is in imagesTs.

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
    check_request("msd", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    open_folder(out, "msd", seed=seed, subjects=subjects, owned=_OWNED)
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (out / folder).mkdir(exist_ok=True)
    spacing = [round(view / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
    grid = Grid(size or SIZE, spacing)
    training, test = [], []
    for i in range(subjects):
        images, drawn = draw_head(grid, subject_rng("msd", seed, i))
        labels = np.select([drawn == 2, drawn == 1, drawn == 4], [1, 2, 3]).astype(np.uint8)
        stacked = np.stack([images[name] for name in MODALITIES], axis=-1)
        name = f"BRATS_{i + 1:03d}.nii.gz"
        place = {"spacing": spacing, "origin": (0.0, 0.0, 0.0)}
        if i % 4 == 3:
            write_nifti(out / "imagesTs" / name, stacked, codes="RAS", **place)
            test.append(f"./imagesTs/{name}")
        else:
            write_nifti(out / "imagesTr" / name, stacked, codes="RAS", **place)
            write_nifti(out / "labelsTr" / name, labels, codes="RAS", **place)
            training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    table = {
        "name": "BRATS",
        "description": "Synthetic gliomas",
        "tensorImageSize": "4D",
        "modality": {str(k): name for k, name in enumerate(CHANNELS)},
        "labels": {str(k): name for k, name in enumerate(LABELS)},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
    (out / "dataset.json").write_text(json.dumps(table, indent=1) + "\n")
    return out
