"""Chest radiographs in the layout of CheXpert (Irvin et al. 2019): train.csv, valid.csv, train/patientNNNNN/studyN/*.jpg."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._findings import FINDINGS, draw_radiograph
from datamodules.phantoms._radiograph import VIEW, draw_build

SIZE = (96, 96)
OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
_DRAWN = {
    "Cardiomegaly": "Cardiomegaly", "Edema": "Edema", "Consolidation": "Consolidation", "Atelectasis": "Atelectasis",
    "Pleural Effusion": "Effusion", "Lung Lesion": "Mass", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax",
}  # fmt: skip
_OWNED = ("*/patient*/study*/*.jpg", "*/patient*/study*", "*/patient*", "train.csv", "valid.csv")


def generate(out: Path, *, subjects: int = 40, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes one or two studies of each of `subjects` patients; every fifth is in valid.csv, without uncertain labels.

    A study has a frontal radiograph and now and then a second one called lateral, which is a stand-in: the frontal drawing seen
    narrow.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: pixels (rows, columns); CheXpert-v1.0-small has about 320 x 390.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("chexpert", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "chexpert", seed=seed, subjects=subjects, owned=_OWNED)
    rows, columns = size or SIZE
    pixel = VIEW / rows
    grids = {"frontal": Grid((columns, rows), (pixel, pixel)), "lateral": Grid((columns, rows), (1.6 * pixel, pixel))}
    header = ",".join(("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS))
    tables = {"train": [header], "valid": [header]}
    for i in range(subjects):
        rng = subject_rng("chexpert", seed, i)
        build, age, part = draw_build(rng, FINDINGS), int(rng.integers(18, 91)), "valid" if i % 5 == 4 else "train"
        for study in range(1, int(rng.integers(1, 3)) + 1):
            present = sorted(rng.choice(list(_DRAWN), size=int(rng.integers(0, 4)), replace=False).tolist())
            labels = ",".join(_labels(rng, present, certain=part == "valid"))
            views = ["frontal", "lateral"] if rng.random() < 0.3 else ["frontal"]
            for number, view in enumerate(views, 1):
                drawn = sorted(_DRAWN[name] for name in present)
                image = draw_radiograph(grids[view], rng, build, findings=drawn, portable=False)
                inner = f"{part}/patient{i + 1:05d}/study{study}/view{number}_{view}.jpg"
                write_image(out / inner, image)
                about = (
                    f"{'Female' if build.female else 'Male'},{age},{view.title()},{'PA' if view == 'frontal' else ''}"
                )
                tables[part].append(f"CheXpert-v1.0-small/{inner},{about},{labels}")
    for part, lines in tables.items():
        (out / f"{part}.csv").write_text("".join(f"{line}\n" for line in lines))
    return out


def _labels(rng: np.random.Generator, present: list[str], *, certain: bool) -> list[str]:
    """One cell an observation, as the official tables have them: 1.0, 0.0, -1.0 or blank."""
    cells = []
    for name in OBSERVATIONS:
        found = name in present or (name == "No Finding" and not present)
        if certain:
            cells.append("1.0" if found else "0.0")
        elif name in _DRAWN and rng.random() < 0.15:
            cells.append("-1.0")
        else:
            cells.append("1.0" if found else rng.choice(["", "0.0"]))
    return cells
