"""Fetal ultrasound in the layout of FETAL_PLANES_DB (Burgos-Artizzu et al. 2020): a table and Images/*.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.fetal_planes import PLANES, TABLE
from datamodules.phantoms._anatomy import Array, Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._ultrasound import scan_grid, speckled, tissue

SIZE = (96, 112)
HEADER = "Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train "


def generate(out: Path, *, subjects: int = 30, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes three images of different planes of each of `subjects` women; every second one is of the training part.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of women.
        seed: the same seed gives the same bytes; woman i does not depend on `subjects`.
        size: pixels (rows, columns); real images have about 650 x 900.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("fetal_planes", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "fetal_planes", seed=seed, subjects=subjects, owned=("Images/*.png", TABLE))
    grid, lines = scan_grid(size or SIZE), [HEADER]
    for i in range(subjects):
        rng = subject_rng("fetal_planes", seed, i)
        for k in range(3):
            plane = PLANES[(i + k) % len(PLANES)]
            name = f"Patient{i + 1:05d}_Plane{PLANES.index(plane) + 1}_{k + 1}_of_3"
            write_image(out / "Images" / f"{name}.png", speckled(grid, rng, _echo(grid, rng, plane)))
            lines.append(f"{name};{i + 1};{plane};Not A Brain;Op. 1;Voluson E6;{i % 2}")
    (out / TABLE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


def _echo(grid: Grid, rng: np.random.Generator, plane: str) -> Array:
    """What a plane shows: a skull with its midline, a round belly or chest with what is in it, a bone, a canal, or nothing."""
    echo = tissue(grid, rng)
    center = rng.uniform(-3, 3, 2) + np.array([0.0, 4.0])
    turn = float(rng.uniform(-0.5, 0.5))

    def paint(depth: Array, value: float) -> None:
        share = grid.occupancy(depth)
        echo[:] = echo * (1 - share) + value * share

    if plane == "Fetal brain":
        head = grid.ellipsoid(center, (15, 11), turn=turn)
        paint(head, 0.12)
        paint(1 - np.abs(head), 0.9)
        paint(0.6 - np.abs(grid.ellipsoid(center, (13, 0.8), turn=turn)), 0.6)
    elif plane in ("Fetal abdomen", "Fetal thorax"):
        paint(grid.ellipsoid(center, (13, 12)), 0.3)
        if plane == "Fetal abdomen":
            paint(grid.ellipsoid(_moved(center, 4, 2), (3.5, 2.5)), 0.01)  # stomach
        else:
            for side in (-1, 1):
                paint(grid.ellipsoid(_moved(center, 2.2 * side, 1), (1.8, 3.5), turn=0.4), 0.02)  # ventricles
    elif plane == "Fetal femur":
        paint(grid.ellipsoid(center, (11, 1.3), turn=turn), 1.0)
    elif plane == "Maternal cervix":
        paint(grid.ellipsoid(_moved(center, -6, 0), (9, 6)), 0.02)
        paint(grid.ellipsoid(_moved(center, 8, 0), (8, 1.0), turn=turn / 2), 0.05)
    return echo


def _moved(center: Array, right: float, down: float) -> tuple[float, float]:
    return float(center[0] + right), float(center[1] + down)
