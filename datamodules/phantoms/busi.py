"""Breast ultrasound in the layout of BUSI (Al-Dhabyani et al. 2020): {benign,malignant,normal}/NAME (N).png with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._ultrasound import add_lesion, scan_grid, speckled, tissue

SIZE = (96, 112)


def generate(out: Path, *, subjects: int = 36, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes `subjects` images: every third normal, benign or malignant; every second benign one has two lesions.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of images.
        seed: the same seed gives the same bytes; image i does not depend on `subjects`.
        size: pixels (rows, columns); real images have about 500 x 500.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("busi", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "busi", seed=seed, subjects=subjects, owned=("*/*.png",))
    grid = scan_grid(size or SIZE)
    for i in range(subjects):
        rng, kind = subject_rng("busi", seed, i), ("normal", "benign", "malignant")[i % 3]
        name, echo = f"{kind} ({i // 3 + 1})", tissue(grid, rng)
        middle = rng.uniform(-4, 4)
        places = [] if kind == "normal" else [(middle, rng.uniform(-2, 8))]
        if kind == "benign" and i % 2:
            places = [(-0.5 * grid.half[0], 2.0), (0.5 * grid.half[0], 5.0)]
        masks = [add_lesion(grid, rng, echo, malignant=kind == "malignant", center=place) for place in places]
        write_image(out / kind / f"{name}.png", speckled(grid, rng, echo))
        for number, mask in enumerate(masks or [np.zeros(grid.size, bool)]):
            ending = f"_mask_{number}" if number else "_mask"
            write_image(out / kind / f"{name}{ending}.png", np.where(mask, 255, 0).astype(np.uint8))
    return out
