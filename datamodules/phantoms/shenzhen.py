"""Frontal chest radiographs in the layout of Shenzhen (Jaeger et al. 2014): CXR_png/CHNCXR_NNNN_K.png."""

from __future__ import annotations

from pathlib import Path

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._findings import draw_tuberculosis
from datamodules.phantoms._radiograph import VIEW

SIZE = (96, 96)


def generate(out: Path, *, subjects: int = 40, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes one radiograph of each of `subjects` patients; every second has signs of tuberculosis.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: pixels (rows, columns); real radiographs have about 3000 x 3000.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("shenzhen", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "shenzhen", seed=seed, subjects=subjects, owned=("CXR_png/*.png",))
    rows, columns = size or SIZE
    grid = Grid((columns, rows), (VIEW / rows, VIEW / rows))
    for i in range(subjects):
        image, _ = draw_tuberculosis(grid, subject_rng("shenzhen", seed, i), sick=i % 2 == 1)
        write_image(out / "CXR_png" / f"CHNCXR_{i + 1:04d}_{i % 2}.png", image)
    return out
