"""Four-modality brain MR in the layouts of BraTS (Menze et al. 2015; Bakas et al. 2017): brain only, three-part tumors.

Units are arbitrary and differ between cases and sequences, a bias field runs through each image, and healthy structures look
like parts of a tumor: choroid plexus and veins enhance, caps of the ventricles and spots of ageing white matter are bright in
FLAIR, CSF is bright in T2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from datamodules.phantoms._anatomy import Array, Grid, Point, blend, blob, fill, grain, path, unit
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_nifti
from ssl_med.spec import SslMedError

SIZE = (72, 80, 64)
VIEW = (162.0, 180.0, 144.0)  # mm
Layout = Literal["brats18", "brats20", "brats21"]
MODALITIES = ("flair", "t1", "t1ce", "t2")
# relative brightness of CSF, grey matter, white matter, oedema, necrotic core, enhancing rim
_CONTRAST = {
    "flair": (0.14, 0.60, 0.48, 0.84, 0.50, 0.76),
    "t1": (0.22, 0.58, 0.80, 0.52, 0.36, 0.52),
    "t1ce": (0.22, 0.60, 0.80, 0.54, 0.36, 1.15),
    "t2": (1.12, 0.64, 0.45, 0.92, 0.98, 0.72),
}
_OWNED = (
    *(f"{top}B[Rr]*/*_{end}.nii.gz" for top in ("", "HGG/", "LGG/") for end in (*MODALITIES, "seg")),
    *("HGG/B*", "LGG/B*", "B[Rr]*", "HGG", "LGG"),
)


def generate(
    out: Path, *, subjects: int = 12, seed: int = 0, size: tuple[int, ...] | None = None, layout: Layout = "brats20"
) -> Path:
    """Writes one folder a case with <case>_{flair,t1,t1ce,t2}.nii.gz (int16) and <case>_seg.nii.gz (uint8), as BraTS does.

    Labels: 0 background, 1 necrotic core, 2 oedema, 4 enhancing rim. About one case in six has a tumor that does not enhance.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of cases, one a patient.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: voxels (x, y, z); the field of view of 162 x 180 x 144 mm stays, so the voxel size follows.
        layout: "brats18" (HGG/ and LGG/ with Brats18_* cases), "brats20" (BraTS20_Training_<nnn>) or "brats21"
            (BraTS2021_<nnnnn>).

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed`, `size` or `layout`, or `out` holds something else.
    """
    check_request("brats", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    if layout not in get_args(Layout):
        raise SslMedError(f"phantom brats: layout '{layout}' is unknown; there are: {', '.join(get_args(Layout))}")
    open_folder(out, "brats", seed=seed, subjects=subjects, owned=_OWNED)
    spacing = [round(view / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
    grid = Grid(size or SIZE, spacing)
    # all cases lie in one atlas frame, as in BraTS
    origin = (0.0, -(grid.size[1] - 1) * spacing[1], 0.0)
    store = partial(write_nifti, spacing=spacing, origin=origin, codes="LPS")
    for i in range(subjects):
        rng = subject_rng("brats", seed, i)
        images, labels = draw_head(grid, rng)
        case = {
            "brats18": f"{'HGG' if (labels == 4).any() else 'LGG'}/Brats18_SIM{i + 1:03d}_1",
            "brats20": f"BraTS20_Training_{i + 1:03d}",
            "brats21": f"BraTS2021_{i:05d}",
        }[layout]
        folder = out / case
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in {**images, "seg": labels}.items():
            store(folder / f"{folder.name}_{name}.nii.gz", array)
    return out


@dataclass
class _Tumor:
    """Where and how large: position and radius of the core in mm; `grade` "high" enhances."""

    center: Array
    radius: float
    enhances: bool


@dataclass
class _Tissue:
    """Fractions (x, y, z) of CSF, grey and white matter; extra brightness per sequence; the brain mask."""

    csf: Array
    grey: Array
    white: Array
    extra: dict[str, Array]
    brain: Array


def draw_head(grid: Grid, rng: np.random.Generator) -> tuple[dict[str, Array], Array]:
    """Sequences (x, y, z) int16, zero outside the brain, and labels uint8."""
    body = rng.uniform(0.94, 1.04, 3)  # size of this head along x, y, z
    tumor = _draw_tumor(rng, body)
    tissue = _tissue(grid, rng, body, tumor)
    core, rim, oedema = _parts(grid, rng, tumor, tissue)
    labels = np.zeros(grid.size, np.uint8)
    labels[(oedema > 0.5) & tissue.brain] = 2
    labels[(core > 0.5) & tissue.brain] = 1
    labels[(rim > 0.5) & tissue.brain] = 4
    images = {}
    for name in MODALITIES:
        csf, grey, white, wet, dead, lit = (v * rng.uniform(0.94, 1.06) for v in _CONTRAST[name])
        image = csf * tissue.csf + grey * tissue.grey + white * tissue.white + tissue.extra[name]
        # oedema thins out, so that its border is soft
        fill(image, 0.9 * oedema, wet + 0.06 * grid.noise(rng, 8))
        fill(image, core, dead + 0.06 * grid.noise(rng, 6))
        fill(image, rim, lit * (1 + 0.15 * grid.noise(rng, 7)))
        image = ndimage.gaussian_filter(image, 0.45)
        image *= np.exp(0.16 * grid.noise(rng, 90))
        image += rng.uniform(0.03, 0.055) * grain(rng, grid.size, 0.4)
        scale = np.exp(rng.uniform(np.log(150), np.log(1800)))
        images[name] = np.where(tissue.brain, np.maximum(np.rint(scale * image), 1), 0).astype(np.int16)
    return images, labels


def _draw_tumor(rng: np.random.Generator, body: Array) -> _Tumor:
    radius = float(np.exp(rng.uniform(np.log(9), np.log(18))))
    side = rng.choice([-1, 1])
    while True:
        center = np.array([side * rng.uniform(20, 44), rng.uniform(-50, 50), rng.uniform(-8, 44)])
        if np.linalg.norm(center / (body * [66, 82, 60])) < 0.72:
            return _Tumor(center, radius, bool(rng.random() > 0.16))


def _strand(axes: list[Array], points: Sequence[Point], radii: Sequence[float]) -> Array:
    """Depth of a bent tube in any (warped) coordinates."""
    best: Array | None = None
    for row in path(points, radii):
        start, along, (r0, r1) = row[:3], row[3:6] - row[:3], row[6:]
        offsets = [axis - np.float32(s) for axis, s in zip(axes, start, strict=True)]
        t = sum(o * np.float32(a) for o, a in zip(offsets, along, strict=True)) / np.float32(along @ along)
        t = np.clip(t, 0, 1)
        distance = np.sqrt(sum((o - t * np.float32(a)) ** 2 for o, a in zip(offsets, along, strict=True)))
        depth = r0 + t * np.float32(r1 - r0) - distance
        best = depth if best is None else np.maximum(best, depth)
    assert best is not None
    return best


def _outline(head: Grid) -> tuple[Array, Array, Array]:
    """Depth of the whole brain, of the cerebrum and of the cerebellum."""
    x, _, z = head.axes
    dome = head.ellipsoid((0, 0, 4), (66, 83, 62), power=2.25)
    cerebrum = np.minimum(dome, z + 24 + 0 * x)
    for sign in (-1, 1):
        temporal = head.ellipsoid((sign * 42, -8, -22), (20, 38, 21))
        cerebrum = blend(cerebrum, temporal, 6)
    cerebellum = head.ellipsoid((0, 46, -35), (46, 31, 23), power=2.3)
    stem = _strand(head.axes, [(0, 8, -14), (0, 14, -36), (0, 26, -90)], [13, 12, 9])
    return np.maximum(np.maximum(cerebrum, cerebellum), stem), cerebrum, cerebellum


def _tissue(grid: Grid, rng: np.random.Generator, body: Array, tumor: _Tumor) -> _Tissue:
    """Healthy anatomy, pushed aside by the tumor."""
    head = Grid(grid.size, grid.spacing)
    head.axes = [axis / np.float32(s) for axis, s in zip(np.broadcast_arrays(*grid.axes), body, strict=True)]
    whole, _, _ = _outline(head)
    brain = whole > 0
    # the mass effect: what is seen at p lay nearer to the center before
    offsets = [axis - np.float32(c / s) for axis, c, s in zip(head.axes, tumor.center, body, strict=True)]
    square = sum(o**2 for o in offsets)
    pull = np.float32(rng.uniform(0.25, 0.5)) * np.exp(-square / np.float32((2.0 * tumor.radius) ** 2))
    head.axes = [axis - o * pull for axis, o in zip(head.axes, offsets, strict=True)]
    _, cerebrum, cerebellum = _outline(head)
    x, y, z = head.axes
    age = rng.uniform(0.6, 1.5)  # wide ventricles and sulci with age
    folds = _folds(head, rng)
    deep = np.maximum(cerebrum, 0)
    sulci = np.clip(1.1 - np.abs(folds) / (0.13 * age), 0, 1) * np.clip((15 - deep) / 5, 0, 1)
    cleft = grid.occupancy(1.3 * age - np.abs(x)) * np.clip((27 - deep) / 4, 0, 1) * (z > -14)
    ventricles, plexus = _ventricles(head, age)
    sylvian = [
        _strand(head.axes, [(s * 66, -16, -10), (s * 40, -6, -2), (s * 37, 22, 6)], [2.6, 2.2, 0.8]) for s in (-1, 1)
    ]
    csf = grid.occupancy(np.maximum(ventricles, np.maximum(*sylvian) + age - 1))
    in_cerebrum = (cerebrum > cerebellum) & (cerebrum > 0)
    csf = np.maximum(csf, np.where(in_cerebrum, np.maximum(sulci, cleft), 0))
    csf = np.maximum(csf, grid.occupancy(1.4 - np.abs(cerebellum + 1.5)) * (cerebrum < 8))
    ribbon = np.clip(1.5 - np.abs(folds) / 0.4, 0, 1) * np.clip((21 - deep) / 5, 0, 1)
    grey = np.maximum(grid.occupancy(4.2 - deep), ribbon) * in_cerebrum
    folia = np.clip(0.75 + 0.5 * np.sin(2 * np.pi * (z + 0.3 * y) / 8), 0, 1) * grid.occupancy(cerebellum)
    grey = np.maximum(grey, folia * np.clip((17 - cerebellum) / 5, 0, 1) * ~in_cerebrum)
    for sign in (-1, 1):
        for center, radii in (((12, -14, 12), (5, 13, 8)), ((25, -2, 4), (5, 16, 9)), ((10, 13, 7), (8, 12, 8))):
            nucleus = head.ellipsoid((sign * center[0], *center[1:]), radii)
            grey = np.maximum(grey, 0.85 * grid.occupancy(nucleus))
    grey = grey * (1 - csf)
    extra: dict[str, Array] = {name: np.zeros(grid.size, np.float32) for name in MODALITIES}
    veins = _veins(grid, rng, whole)
    extra["t1ce"] = 0.5 * np.maximum(veins, grid.occupancy(plexus))
    caps = np.exp(-((np.maximum(-ventricles, 0) / 4) ** 2)) * (np.abs(y - 4) > 26) * (1 - csf)
    # small bright spots of ageing white matter, which nobody labels as tumor
    spots = np.clip(3 * (grid.noise(rng, 7) - 2.3 + 0.3 * age), 0, 1) * (1 - csf - grey) * (deep > 8)
    extra["flair"] = np.float32(rng.uniform(0.1, 0.4)) * np.maximum(caps, spots)
    extra["t2"] = 0.25 * spots
    return _Tissue(csf, grey, 1 - csf - grey, extra, brain)


def _folds(head: Grid, rng: np.random.Generator) -> Array:
    """Random field whose zero sheets stand upright on the cortex: the walls between the gyri."""
    distance = np.sqrt(sum((axis / r) ** 2 for axis, r in zip(head.axes, (0.92, 1.16, 0.86), strict=True)))
    stretch = (70 / np.maximum(distance, 12)) ** np.float32(0.85)  # nearly the same along a ray
    cell = 8.5
    lattice = rng.standard_normal((44, 44, 44)).astype(np.float32)
    places = [np.clip(axis * stretch / cell + 21.5, 0, 43) for axis in head.axes]
    field: Array = ndimage.map_coordinates(lattice, places, order=3, prefilter=False, mode="nearest")
    return field / np.float32(0.33)


def _ventricles(head: Grid, age: float) -> tuple[Array, Array]:
    """Depth of the ventricles and of the choroid plexus in them."""
    wide = 0.75 + 0.55 * age
    parts = [head.ellipsoid((0, 6, 2), (1.6 * wide, 11, 9)), head.ellipsoid((0, 35, -34), (5, 4, 9))]
    plexus = []
    for s in (-1, 1):
        body = [(s * 8, -34, 8), (s * 9, -8, 19), (s * 17, 26, 13), (s * 19, 46, 4)]
        parts.append(_strand(head.axes, body, [4.0 * wide, 5.0 * wide, 6.5 * wide, 2.0 * wide]))
        horn = [(s * 17, 26, 13), (s * 32, 16, -10), (s * 33, -6, -17)]
        parts.append(_strand(head.axes, horn, [5.0 * wide, 2.5 * wide, 1.5 * wide]))
        plexus.append(head.ellipsoid((s * 17, 26, 12), (2.6, 4.5, 3.2)))
    return np.maximum.reduce(parts), np.maximum(*plexus)


def _veins(grid: Grid, rng: np.random.Generator, whole: Array) -> Array:
    """Occupancy of superficial veins, which enhance as the tumor does."""
    rows = []
    for _ in range(14):
        start = unit(rng.normal(size=3)) * [60, 76, 56]
        start[2] = abs(start[2]) + 4
        rows.append(
            path([start, start * 0.9 + rng.normal(0, 5, 3), start * 0.72 + rng.normal(0, 7, 3)], [1.4, 1.2, 0.7])
        )
    return grid.tubes(np.vstack(rows)) * (whole > 0)


def _parts(grid: Grid, rng: np.random.Generator, tumor: _Tumor, tissue: _Tissue) -> tuple[Array, Array, Array]:
    """Occupancy of necrotic core, enhancing rim and oedema."""
    core, rim, oedema = (np.zeros(grid.size, np.float32) for _ in range(3))
    free = 1 - np.clip(2 * tissue.csf - 0.6, 0, 1)
    box, wide = blob(grid, rng, tumor.center, tumor.radius * rng.uniform(1.5, 2.0), rough=0.3)
    # oedema follows white matter and stops at CSF
    oedema[box] = grid.occupancy(wide + 7 * (tissue.white[box] - 0.8), 1.5) * free[box]
    box, mass = blob(grid, rng, tumor.center, tumor.radius, rough=0.22)
    whole = grid.occupancy(mass)
    if tumor.enhances:
        thickness = rng.uniform(2.5, 4.5) * (1 + 0.35 * grid.noise(rng, 9)[box])
        inside = grid.occupancy(mass - np.maximum(thickness, 1.2))
        rim[box] = whole - inside
        core[box] = inside
    else:
        core[box] = whole
    np.maximum(oedema[box], whole, out=oedema[box])
    return core, rim, oedema
