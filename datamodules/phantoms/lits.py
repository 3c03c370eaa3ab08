"""Abdominal CTs in the layout of LiTS (Bilic et al. 2023): liver and liver tumors among organs of similar brightness.

The phase of the contrast agent differs from patient to patient, and spleen, kidneys, bowel, muscle and blood overlap with the
liver in HU: place, outline and texture tell it apart, a threshold does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from datamodules.phantoms._anatomy import Array, Grid, blend, blob, fill, grain, path, tree
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_nifti
from datamodules.phantoms._trunk import skeleton, soft_tissue, spine_at, wall

SIZE = (96, 96, 64)
VIEW = (174.0, 174.0, 128.0)  # mm; about the trunk of a small child, so that small volumes keep fine voxels
BONES = 0.66  # thickness of the skeleton, as a share of an adult's
_CODES = ("LAS", "RAS", "LPS")


def generate(out: Path, *, subjects: int = 12, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes volume-<i>.nii.gz (int16 HU) and segmentation-<i>.nii.gz (uint8: 1 liver, 2 tumor), i from 0, as LiTS does.

    Each patient has 0-4 tumors, darker than the liver. Voxels of about 1.8 x 1.8 x 2 mm, stored as LAS, RAS or LPS in turn.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of scans, one a patient.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: voxels (x, y, z); the field of view of about 174 x 174 x 128 mm stays, so the voxel size follows.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("lits", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    open_folder(out, "lits", seed=seed, subjects=subjects, owned=("volume-*.nii.gz", "segmentation-*.nii.gz"))
    for i in range(subjects):
        rng = subject_rng("lits", seed, i)
        scale = rng.uniform(0.94, 1.06)
        spacing = [round(view * scale / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
        image, labels = draw_abdomen(Grid(size or SIZE, spacing), rng)
        origin = np.round(rng.uniform(-200, 100, 3), 3)
        store = partial(write_nifti, spacing=spacing, origin=origin, codes=_CODES[i % 3])
        store(out / f"volume-{i}.nii.gz", image)
        store(out / f"segmentation-{i}.nii.gz", labels)
    return out


@dataclass
class _Patient:
    """Body size in mm and contrast phase: 0 before the agent, 1 in the portal venous phase."""

    wide: float
    deep: float
    phase: float
    lift: float  # where the domes of the diaphragm stand, mm

    def hu(self, plain: float, agent: float) -> float:
        """Brightness of a tissue that takes up `agent` HU at full phase."""
        return plain + agent * self.phase


def draw_abdomen(grid: Grid, rng: np.random.Generator) -> tuple[Array, Array]:
    """Image (x, y, z) int16 HU and labels uint8."""
    patient = _Patient(rng.uniform(72, 80), rng.uniform(54, 61), rng.uniform(0, 1), rng.uniform(-6, 6))
    skin = wall(grid, patient.wide, patient.deep)
    image, below = soft_tissue(grid, rng, skin, deep=patient.deep, fat=rng.uniform(3, 8))
    cavity = below - 11 * BONES
    inside = grid.occupancy(cavity)
    fill(image, inside, -98 + 8 * grid.noise(rng, 10))
    _bowel(grid, rng, image, patient, inside)
    _psoas(grid, rng, image, patient)
    dome = _diaphragm(grid, rng, image, patient, cavity)
    skeleton(grid, rng, image, below, deep=patient.deep, period=rng.uniform(14.5, 17), size=BONES)
    hollow = inside * grid.occupancy(dome - 1.5)
    _stomach_and_spleen(grid, rng, image, patient, hollow)
    liver, tumors = _liver(grid, rng, image, patient, depth=np.minimum(cavity - 1, dome - 2))
    others = _retroperitoneum(grid, rng, image, patient)
    labels = (liver * (1 - others) > 0.5).astype(np.uint8)
    labels[(labels == 1) & (tumors > 0.5)] = 2
    image = ndimage.gaussian_filter(image, 0.5) + rng.uniform(13, 20) * grain(rng, grid.size, 0.55)
    return np.rint(np.clip(image, -1024, 3071)).astype(np.int16), labels


def _bowel(grid: Grid, rng: np.random.Generator, image: Array, patient: _Patient, inside: Array) -> None:
    """Loops in the lower front: a wall that enhances, contents from gas over stool to oral contrast."""
    for _ in range(7):
        point = np.array([rng.uniform(-45, 45), rng.uniform(-38, 5), rng.uniform(-62, 5)])
        points = [point]
        for _ in range(5):
            points.append(points[-1] + rng.normal(0, [16, 8, 10]))
        radius = rng.uniform(6, 11)
        line = path(points, np.full(len(points), radius).tolist())
        fill(image, grid.tubes(line) * inside, patient.hu(36, 40))
        line[:, 6:] -= 2.2
        contents = rng.choice([-750.0, 12.0, 35.0, 60.0, 95.0], p=[0.2, 0.2, 0.25, 0.2, 0.15])
        fill(image, grid.tubes(line) * inside, contents + 10 * grid.noise(rng, 6))


def _psoas(grid: Grid, rng: np.random.Generator, image: Array, patient: _Patient) -> None:
    back = spine_at(patient.deep, BONES)
    lines = [path([(s * 12, back, 30), (s * 17, back + 1, -20), (s * 22, back - 4, -75)], [5, 9, 11]) for s in (-1, 1)]
    fill(image, grid.tubes(np.vstack(lines)), rng.uniform(48, 60))


def _diaphragm(grid: Grid, rng: np.random.Generator, image: Array, patient: _Patient, cavity: Array) -> Array:
    """Draws lung bases and the tip of the heart; returns the depth below the domes in mm."""
    x, y, z = grid.axes
    steep = rng.uniform(30, 42)
    domes = [
        patient.lift + top - steep * (((x - cx) / 44) ** 2 + ((y + 6) / 50) ** 2)
        for cx, top in ((-0.38 * patient.wide, 46), (0.42 * patient.wide, 40))
    ]
    height = np.maximum(np.maximum(*domes), -10) + 1.5 * grid.noise(rng, 30)
    depth = ((height - z) * 0.8).astype(np.float32)  # the dome is slanted: the distance is shorter than the height
    air = grid.occupancy(np.minimum(-depth, cavity - 1))
    lung = rng.uniform(-870, -820) + 22 * grid.noise(rng, 9)
    fill(image, air, lung)
    roots = [(s * 20, 10, 80) for s in (-1, 1)]
    vessels = [
        tree(rng, root, (rng.normal(0, 0.7), rng.normal(0, 0.7), -1), radius=3, smallest=0.8, reach=7)
        for root in roots * 4
    ]
    fill(image, grid.tubes(np.vstack(vessels)) * air, 40.0)
    heart = grid.ellipsoid((10, -18, 59 + patient.lift), (32, 25, 23), turn=0.3)
    fill(image, grid.occupancy(heart) * grid.occupancy(np.minimum(2 - depth, cavity)), patient.hu(42, 75))
    return depth


def _stomach_and_spleen(grid: Grid, rng: np.random.Generator, image: Array, patient: _Patient, hollow: Array) -> None:
    _, y, _ = grid.axes
    side = patient.wide / 76
    center = (30 * side + rng.uniform(-4, 4), -16 + rng.uniform(-4, 4), 14 + rng.uniform(-6, 8))
    radii = np.array([19, 19, 27]) * rng.uniform(0.85, 1.15, 3)
    stomach = grid.ellipsoid(center, radii) + 1.5 * grid.noise(rng, 20)
    fill(image, grid.occupancy(stomach) * hollow, patient.hu(42, 45))
    level = center[1] + rng.uniform(-14, -4)
    contents = np.where(y < level, -930.0, rng.uniform(8, 75) + 9 * grid.noise(rng, 7))
    fill(image, grid.occupancy(stomach - 3) * hollow, contents)
    center = (46 * side, 16 + rng.uniform(-4, 4), 14 + rng.uniform(-6, 8) + patient.lift)
    spleen = grid.ellipsoid(center, np.array([17, 25, 24]) * rng.uniform(0.85, 1.2), turn=-0.25) + 1.2 * grid.noise(
        rng, 16
    )
    value = patient.hu(47, 55) + rng.normal(0, 5) + 3 * grid.noise(rng, 8)
    fill(image, grid.occupancy(spleen) * hollow, value)


def _liver(
    grid: Grid, rng: np.random.Generator, image: Array, patient: _Patient, *, depth: Array
) -> tuple[Array, Array]:
    """Draws the liver below `depth` (what confines it) and its tumors; returns the occupancy of both."""
    x, _, z = grid.axes
    side = patient.wide / 76
    big = rng.uniform(0.88, 1.12)
    right = grid.ellipsoid((-32 * side, 0, 4), np.array([36, 42, 42]) * big, power=2.3)
    reach = rng.uniform(24, 38)  # the left lobe differs most between people
    left = grid.ellipsoid((2, -24 + rng.uniform(-3, 3), 16), (reach, 17 * big, 19 * big), power=2.2)
    whole = blend(right, left, 12) + 2.0 * grid.noise(rng, 24)
    # the lower edge climbs from right to left
    edge = (z - rng.uniform(-42, -28) - 0.5 * (x + 40)) * 0.85
    liver = grid.occupancy(np.minimum(np.minimum(whole, depth), edge))
    value = patient.hu(56, 46) + rng.normal(0, 5)
    fill(image, liver, value + 4 * grid.noise(rng, 7))
    gate = np.array([-8, -4, 0]) + rng.normal(0, 2, 3)
    goals = [(-1, 0.3, 0.3), (-1, -0.5, 0.8), (-0.7, 0.8, -0.4), (0.8, -1, 0.7), (-1, 0, -0.8)]
    portal = np.vstack([tree(rng, gate, goal, radius=3.0, smallest=1.0, reach=8) for goal in goals])
    fill(image, grid.tubes(portal) * liver, max(value + patient.hu(-14, 45), 30.0))
    tumors = np.zeros(grid.size, np.float32)
    inner = ndimage.distance_transform_edt(liver > 0.5, sampling=grid.spacing)
    count = 0 if rng.random() < 0.25 else int(rng.integers(1, 5))
    for _ in range(count):
        radius = float(np.exp(rng.uniform(np.log(3.5), np.log(11))))
        places = np.argwhere(inner > 0.7 * radius)
        if not len(places):
            continue
        point = (places[rng.integers(len(places))] - (np.array(grid.size) - 1) / 2) * grid.spacing
        box, lump = blob(grid, rng, point, radius, rough=rng.uniform(0.05, 0.25))
        share = grid.occupancy(lump) * liver[box]
        dark = value - rng.uniform(24, 50)
        if rng.random() < 0.3:  # an enhancing rim around the lesion, part of it
            fill(image[box], share, value + 18 * patient.phase)
            fill(image[box], grid.occupancy(lump - 1.5) * liver[box], dark)
        else:
            fill(image[box], share, dark)
        if radius > 7:
            fill(image[box], grid.occupancy(lump - 0.55 * radius) * liver[box], dark - 12)
        np.maximum(tumors[box], share, out=tumors[box])
    gall = grid.ellipsoid((-20 * side, -24, -14 + rng.uniform(-5, 3)), (7, 8, 13), turn=0.4)
    gall = grid.occupancy(np.minimum(gall, depth)) * float(rng.random() < 0.85)  # some were removed
    fill(image, gall, rng.uniform(2, 15))
    return liver * (1 - gall), tumors


def _retroperitoneum(grid: Grid, rng: np.random.Generator, image: Array, patient: _Patient) -> Array:
    """Kidneys, large vessels, pancreas; returns the occupancy of what cannot be liver, the spine included."""
    x, y, _ = grid.axes
    back = spine_at(patient.deep, BONES)
    front = back - 13
    blood = grid.tubes(path([(5, front, 80), (4, front, -80)], [6.5, 6]))
    cava = grid.tubes(path([(-9, front - 2, 80), (-9, front, -80)], [6.5, 6]))
    pancreas = path(
        [(-14, front - 16, -14), (0, front - 20, -6), (18, front - 14, 0), (36, front - 4, 8)], [7, 5, 5, 4]
    )
    tail = grid.tubes(pancreas + np.array([0] * 6 + [0.5, 0.5]) * rng.uniform(-1, 1))
    free = 1 - np.clip(image / 40, 0, 1)  # the pancreas lies in fat: it does not cover the organs around it
    fill(image, tail * free, patient.hu(38, 45))
    kidneys = np.zeros(grid.size, np.float32)
    for sign, low in ((-1, -26), (1, -18)):
        center = (sign * rng.uniform(29, 33), back - 3 + rng.uniform(-3, 2), low + rng.uniform(-5, 5))
        kidney = grid.ellipsoid(center, np.array([12, 13, 23]) * rng.uniform(0.9, 1.1), turn=sign * 0.4)
        share = grid.occupancy(kidney)
        fill(image, grid.occupancy(kidney + 3), -95.0)  # its capsule of fat
        fill(image, share, patient.hu(34, 105))
        fill(image, grid.occupancy(kidney - 5), patient.hu(28, 60))
        hilum = grid.ellipsoid((center[0] - sign * 10, center[1] - 3, center[2]), (8, 5, 9))
        fill(image, grid.occupancy(hilum) * share, -70.0)
        np.maximum(kidneys, grid.occupancy(kidney + 3), out=kidneys)
    fill(image, blood, patient.hu(42, 100))
    fill(image, cava, patient.hu(42, 75))
    column = grid.occupancy(11 - np.hypot(x, y - back) + 0 * grid.axes[2])
    taken: Array = np.maximum.reduce([kidneys, blood, cava, column])
    return taken
