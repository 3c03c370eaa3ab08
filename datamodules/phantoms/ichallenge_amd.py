"""Photographs of the fundus in the layout of iChallenge-AMD (Fang et al. 2022): Training400/{AMD,Non-AMD}/*.jpg."""

from __future__ import annotations

from pathlib import Path

from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._fundus import Signs, draw_eye, eye_grid

SIZE = (96, 128)
_OWNED = ("Training400/AMD/*.jpg", "Training400/Non-AMD/*.jpg")


def generate(out: Path, *, subjects: int = 40, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes `subjects` photographs; every third has drusen at the macula.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of photographs.
        seed: the same seed gives the same bytes; photograph i does not depend on `subjects`.
        size: pixels (rows, columns); real photographs have 2056 x 2124 or 1444 x 1444.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("ichallenge_amd", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "ichallenge_amd", seed=seed, subjects=subjects, owned=_OWNED)
    grid = eye_grid(size or SIZE)
    for i in range(subjects):
        rng, sick = subject_rng("ichallenge_amd", seed, i), i % 3 == 0
        signs = Signs(drusen=int(rng.integers(14, 35)) if sick else int(rng.integers(0, 3)))
        folder, name = ("AMD", f"A{i // 3 + 1:04d}") if sick else ("Non-AMD", f"N{i - i // 3:04d}")
        image = draw_eye(grid, rng, left=bool(rng.random() < 0.5), signs=signs)
        write_image(out / "Training400" / folder / f"{name}.jpg", image)
    return out
