"""Photographs of the fundus in the layout of iChallenge-PM (Fang et al. 2024): PALM-Training400/{P,H,N}NNNN.jpg."""

from __future__ import annotations

from pathlib import Path

from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._fundus import Signs, draw_eye, eye_grid

SIZE = (96, 128)


def generate(out: Path, *, subjects: int = 40, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes `subjects` photographs: half pathological (P), the others normal (N) or highly myopic only (H).

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
    check_request("ichallenge_pm", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "ichallenge_pm", seed=seed, subjects=subjects, owned=("PALM-Training400/*.jpg",))
    grid = eye_grid(size or SIZE)
    for i in range(subjects):
        rng, kind = subject_rng("ichallenge_pm", seed, i), "PNPH"[i % 4]
        signs = {
            "P": Signs(crescent=rng.uniform(0.7, 1.4), patches=int(rng.integers(1, 4)), tessellated=True),
            "H": Signs(crescent=rng.uniform(0.2, 0.4), tessellated=True),
            "N": Signs(),
        }[kind]
        image = draw_eye(grid, rng, left=bool(rng.random() < 0.5), signs=signs)
        write_image(out / "PALM-Training400" / f"{kind}{i + 1:04d}.jpg", image)
    return out
