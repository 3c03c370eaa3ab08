"""Frontal chest radiographs in the layout of ChestX-ray14 (Wang et al. 2017): images, table and two lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._findings import FINDINGS, draw_radiograph
from datamodules.phantoms._radiograph import VIEW, draw_build

SIZE = (128, 128)
# the official header: two names hold a comma without quotes, and the line ends with one
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
# how likely a sick patient has the finding, relative; ordered as in the real data, less skewed
_WEIGHTS = {
    "Infiltration": 6, "Effusion": 6, "Atelectasis": 6, "Cardiomegaly": 6, "Nodule": 4, "Mass": 4, "Pneumothorax": 4,
    "Consolidation": 4, "Pleural_Thickening": 2, "Emphysema": 2, "Edema": 2, "Fibrosis": 2, "Pneumonia": 1, "Hernia": 1,
}  # fmt: skip
_OWNED = ("images/*.png", "images", "Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt")


def generate(out: Path, *, subjects: int = 40, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes 1-5 radiographs of each of `subjects` patients (about 3) with labels and lists, as ChestX-ray14 is distributed.

    images/<8 digits>_<3 digits>.png, 8-bit grey. About a third of the patients have no finding; the others have one to three
    on most of their radiographs and now and then a new one. Every fourth patient is in test_list.txt.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: pixels (rows, columns); real radiographs have 1024 x 1024.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("chest14", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "chest14", seed=seed, subjects=subjects, owned=_OWNED)
    (out / "images").mkdir(exist_ok=True)
    rows, columns = size or SIZE
    grid = Grid((columns, rows), (VIEW / rows, VIEW / rows))
    table: list[str] = [HEADER]
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    for i in range(subjects):
        rng = subject_rng("chest14", seed, i)
        chronic = _pick(rng, int(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1])))
        build = draw_build(rng, FINDINGS)
        age = int(np.clip(rng.normal(50, 17), 3, 94))
        for follow_up in range(int(rng.integers(1, 6))):
            acute = _pick(rng, 1) if chronic and rng.random() < 0.25 else set()
            present = sorted({name for name in sorted(chronic) if rng.random() < 0.8} | acute)
            portable = bool(rng.random() < 0.35)
            image = draw_radiograph(grid, rng, build, findings=present, portable=portable)
            name = f"{i + 1:08d}_{follow_up:03d}.png"
            write_image(out / "images" / name, image)
            width, height, pixel = ((2500, 2048, 0.168), (2048, 2500, 0.171), (2992, 2991, 0.143))[rng.integers(3)]
            table.append(
                f"{name},{'|'.join(present) or 'No Finding'},{follow_up},{i + 1},{age},{'F' if build.female else 'M'},"
                f"{'AP' if portable else 'PA'},{width},{height},{pixel},{pixel},"
            )
            lists["test_list.txt" if i % 4 == 3 else "train_val_list.txt"].append(name)
            age = min(age + int(rng.integers(0, 2)), 94)
    (out / "Data_Entry_2017.csv").write_text("\n".join(table) + "\n")
    for file, names in lists.items():
        (out / file).write_text("".join(f"{name}\n" for name in names))
    return out


def _pick(rng: np.random.Generator, count: int) -> set[str]:
    """Some findings by their weights, in the official spelling."""
    weights = np.array([_WEIGHTS[name] for name in FINDINGS], float)
    return {FINDINGS[k] for k in rng.choice(len(FINDINGS), size=count, replace=False, p=weights / weights.sum())}
