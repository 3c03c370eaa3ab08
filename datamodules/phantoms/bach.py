"""Stained breast tissue in the layout of BACH (Aresta et al. 2019): Photos/{Normal,Benign,InSitu,Invasive}/*.tif."""

from __future__ import annotations

from pathlib import Path

from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._histology import draw_tissue, tissue_grid

SIZE = (96, 128)
_LETTERS = {"Normal": "n", "Benign": "b", "InSitu": "is", "Invasive": "iv"}


def generate(out: Path, *, subjects: int = 40, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes `subjects` images, the four classes in turn.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of images.
        seed: the same seed gives the same bytes; image i does not depend on `subjects`.
        size: pixels (rows, columns); real images have 1536 x 2048.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("bach", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    owned = [f"Photos/{kind}/*.tif" for kind in _LETTERS]
    open_folder(out, "bach", seed=seed, subjects=subjects, owned=owned)
    grid = tissue_grid(size or SIZE)
    for i in range(subjects):
        kind = list(_LETTERS)[i % 4]
        image = draw_tissue(grid, subject_rng("bach", seed, i), kind)
        write_image(out / "Photos" / kind / f"{_LETTERS[kind]}{i // 4 + 1:03d}.tif", image)
    return out
