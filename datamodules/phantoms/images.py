"""Chest images as a hospital might keep them: {train,val,test}/<person>/film_N.png and labels.csv."""

from __future__ import annotations

from pathlib import Path

from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_image
from datamodules.phantoms._findings import FINDINGS, draw_radiograph
from datamodules.phantoms._radiograph import VIEW, draw_build

SIZE = (96, 96)
_PARTS = ("train", "val", "train", "test", "train")
_OWNED = ("*/person_*/*.png", "*/person_*", "labels.csv")


def generate(out: Path, *, subjects: int = 40, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes one to three images of each of `subjects` persons.

    labels.csv: file, person, verdict (normal or sick), cardiomegaly and effusion (0, 1, or blank for not known). Every
    second person is sick.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of persons.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: pixels (rows, columns).

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("images", subjects=subjects, seed=seed, size=size, dims=2, min_side=32)
    open_folder(out, "images", seed=seed, subjects=subjects, owned=_OWNED)
    rows, columns = size or SIZE
    grid = Grid((columns, rows), (VIEW / rows, VIEW / rows))
    table = ["file,person,verdict,cardiomegaly,effusion"]
    for i in range(subjects):
        rng = subject_rng("images", seed, i)
        build, person, part = draw_build(rng, FINDINGS), f"person_{i + 1:04d}", _PARTS[i // 2 % len(_PARTS)]
        found = [["Cardiomegaly"], ["Effusion"], ["Cardiomegaly", "Effusion"]][rng.integers(3)] if i % 2 else []
        for number in range(1, int(rng.integers(1, 4)) + 1):
            name = f"{part}/{person}/film_{number}.png"
            write_image(out / name, draw_radiograph(grid, rng, build, findings=found, portable=False))
            cells = [str(int(finding in found)) for finding in ("Cardiomegaly", "Effusion")]
            cells[1] = "" if rng.random() < 0.1 else cells[1]
            table.append(f"{name},{person},{'sick' if found else 'normal'},{','.join(cells)}")
    (out / "labels.csv").write_text("".join(f"{line}\n" for line in table))
    return out
