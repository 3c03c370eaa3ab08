"""Frontal chest radiographs in the layout of Montgomery (Jaeger et al. 2014): CXR_png/ and ManualMask/{leftMask,rightMask}/."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._findings import draw_tuberculosis
from datamodules.phantoms._radiograph import VIEW

SIZE = (96, 96)
_OWNED = ("CXR_png/*.png", "ManualMask/leftMask/*.png", "ManualMask/rightMask/*.png")


def generate(out: Path, *, subjects: int = 30, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes one radiograph of each of `subjects` patients with masks of both lungs; every second has signs of tuberculosis.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of patients.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: pixels (rows, columns); real radiographs have 4020 x 4892 or 4892 x 4020.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("montgomery", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "montgomery", seed=seed, subjects=subjects, owned=_OWNED)
    rows, columns = size or SIZE
    grid = Grid((columns, rows), (VIEW / rows, VIEW / rows))
    for i in range(subjects):
        name = f"MCUCXR_{i + 1:04d}_{i % 2}.png"
        image, lungs = draw_tuberculosis(grid, subject_rng("montgomery", seed, i), sick=i % 2 == 1)
        write_image(out / "CXR_png" / name, image)
        # the patient faces us: his left lung lies on the right of the radiograph
        for side, half in (("leftMask", grid.axes[0] > 0), ("rightMask", grid.axes[0] < 0)):
            write_image(out / "ManualMask" / side / name, np.where(lungs & half, 255, 0).astype(np.uint8))
    return out
