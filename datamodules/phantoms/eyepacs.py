"""Photographs of the fundus in the layout of EyePACS (Kaggle 2015): train/ and test/ with their tables."""

from __future__ import annotations

from pathlib import Path

from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._fundus import Signs, draw_eye, eye_grid

SIZE = (96, 128)
_LEVELS = (
    Signs(),
    Signs(aneurysms=6),
    Signs(aneurysms=10, bleedings=3, exudates=4),
    Signs(aneurysms=14, bleedings=12, exudates=8),
    Signs(aneurysms=14, bleedings=8, exudates=8, new_vessels=8),
)
_OWNED = ("train/*.jpeg", "test/*.jpeg", "trainLabels.csv", "retinopathy_solution.csv")


def generate(out: Path, *, subjects: int = 40, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes both eyes of `subjects` patients; every fourth patient is in test/.

    The five levels take turns; the second eye has the level of the first or a neighbour of it.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: pixels (rows, columns); real photographs have up to 3456 x 5184.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("eyepacs", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "eyepacs", seed=seed, subjects=subjects, owned=_OWNED)
    grid = eye_grid(size or SIZE)
    tables = {"train": ["image,level"], "test": ["image,level,Usage"]}
    for i in range(subjects):
        rng = subject_rng("eyepacs", seed, i)
        part, level = "test" if i % 4 == 3 else "train", i % 5
        other = min(max(level + int(rng.choice([-1, 0, 0, 0, 1])), 0), 4)
        for side, grade in (("left", level), ("right", other)):
            image = draw_eye(grid, rng, left=side == "left", signs=_LEVELS[grade])
            write_image(out / part / f"{10 + 3 * i}_{side}.jpeg", image)
            tables[part].append(f"{10 + 3 * i}_{side},{grade}{',Private' if part == 'test' else ''}")
    for part, name in (("train", "trainLabels.csv"), ("test", "retinopathy_solution.csv")):
        (out / name).write_text("".join(f"{line}\n" for line in tables[part]))
    return out
