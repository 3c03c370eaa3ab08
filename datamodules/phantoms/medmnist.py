"""Small pictures in the layout of MedMNIST (Yang et al. 2023): one .npz of train, val and test images and labels."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from datamodules.phantoms._anatomy import Array, Grid, blob, fill, grain, paint, path
from datamodules.phantoms._files import check_request, open_folder, subject_rng
from ssl_med.spec import SslMedError

SIDE = 28
LAYOUTS = ("nodule", "findings", "cells", "nodule3d")
_PARTS = ("train", "train", "val", "train", "test", "train", "train", "val", "train", "test")


def generate(
    out: Path, *, subjects: int = 200, seed: int = 0, size: tuple[int, ...] | None = None, layout: str = "nodule"
) -> Path:
    """Writes <layout>mnist.npz with `subjects` samples, 60 % train, 20 % val, 20 % test.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of samples.
        seed: the same seed gives the same bytes; sample i does not depend on `subjects`.
        size: pixels of an image, one number for each dimension.
        layout: nodule (a lump against a vessel), findings (three that may coincide), cells (colour; one to four lobes of
            the nucleus) or nodule3d.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed`, `size` or `layout`, or `out` holds something else.
    """
    dims = 3 if layout == "nodule3d" else 2
    check_request("medmnist", subjects=subjects, seed=seed, size=size, dims=dims, min_side=16)
    if layout not in LAYOUTS:
        raise SslMedError(f"phantom medmnist: layout '{layout}' is unknown; there are: {', '.join(LAYOUTS)}")
    open_folder(out, "medmnist", seed=seed, subjects=subjects, owned=("*mnist.npz",))
    shape = size or (SIDE,) * dims
    grid = Grid(shape, [SIDE / min(shape)] * dims)
    images: dict[str, list[Array]] = {part: [] for part in ("train", "val", "test")}
    labels: dict[str, list[list[int]]] = {part: [] for part in images}
    for i in range(subjects):
        rng, part = subject_rng(f"medmnist {layout}", seed, i), _PARTS[i % len(_PARTS)]
        image, label = _cells(grid, rng) if layout == "cells" else _marks(grid, rng, several=layout == "findings")
        images[part].append(image)
        labels[part].append(label)
    columns = 3 if layout == "findings" else 1
    channels = (3,) if layout == "cells" else ()
    with zipfile.ZipFile(out / f"{layout}mnist.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for part in images:
            _store(archive, f"{part}_images", np.array(images[part], np.uint8).reshape(-1, *shape, *channels))
            _store(archive, f"{part}_labels", np.array(labels[part], np.uint8).reshape(-1, columns))
    return out


def _store(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    # a fixed date, so that equal content gives equal bytes
    archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), buffer.getvalue(), zipfile.ZIP_DEFLATED)


def _marks(grid: Grid, rng: np.random.Generator, *, several: bool) -> tuple[Array, list[int]]:
    """Grey tissue with a lump or a vessel; or with any of lump, vessel and a dark cyst."""
    dims = len(grid.size)
    image = 0.35 + 0.05 * grid.noise(rng, 7)
    label = [int(rng.random() < 0.4) for _ in range(3)] if several else [int(rng.random() < 0.4)]
    lump, vessel, cyst = label if several else (label[0], 1 - label[0], 0)
    if lump:
        where, depth = blob(grid, rng, rng.uniform(-5, 5, dims), rng.uniform(3, 5.5), rough=0.15)
        fill(image[where], grid.occupancy(depth, 2), rng.uniform(0.65, 0.85))
    if cyst:
        where, depth = blob(grid, rng, rng.uniform(-8, 8, dims), rng.uniform(3, 5), rough=0.05)
        fill(image[where], grid.occupancy(depth, 2), 0.1)
    if vessel:
        way, middle = rng.normal(size=dims), rng.uniform(-5, 5, dims)
        way *= 20 / np.linalg.norm(way)
        bend = middle + rng.normal(0, 2.5, dims)
        tube = grid.tubes(path([middle - way, bend, middle + way], rng.uniform(1.5, 3.2, 3).tolist()))
        fill(image, tube, rng.uniform(0.65, 0.85))
    return _levels(image + 0.05 * grain(rng, grid.size, 0.5)), label


def _cells(grid: Grid, rng: np.random.Generator) -> tuple[Array, list[int]]:
    """A cell on a pale ground in colour; the label is the number of lobes of its nucleus, less one."""
    lobes = int(rng.integers(1, 5))
    image = np.full((*grid.size, 3), (0.93, 0.86, 0.84), np.float32)
    image *= (1 + 0.02 * grid.noise(rng, 9))[..., None]
    where, depth = blob(grid, rng, rng.uniform(-1.5, 1.5, 2), rng.uniform(9, 11), rough=0.03, stretch=0.08)
    paint(image[where], grid.occupancy(depth, 2), (0.82, 0.68, 0.80))
    turn = rng.uniform(0, 2 * np.pi)
    for k in range(lobes):
        angle = turn + 2 * np.pi * k / lobes
        center = (0 if lobes == 1 else 5.0) * np.array([np.cos(angle), np.sin(angle)])
        where, depth = blob(grid, rng, center, 5.5 / lobes**0.4, rough=0.1, stretch=0.1)
        paint(image[where], 0.9 * grid.occupancy(depth, 1.5), (0.42, 0.25, 0.60))
    noise = np.stack([grain(rng, grid.size, 0.5) for _ in range(3)], -1)
    return _levels(image + 0.02 * noise), [lobes - 1]


def _levels(image: Array) -> Array:
    levels: Array = np.rint(np.clip(255 * image, 0, 255)).astype(np.uint8)
    return levels
