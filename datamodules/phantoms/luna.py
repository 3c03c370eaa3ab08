"""Chest CTs in the layout of LUNA16 (Setio et al. 2017): lungs with vessel trees, scars and nodules.

What makes the candidates hard: a nodule (30-60 HU before partial volume) is as bright as a vessel or a piece of pleura of the
same width, so that the brightness of a cube says little and the round shape much.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from datamodules.phantoms._anatomy import Array, Grid, blob, fill, grain, path, tree
from datamodules.phantoms._files import check_request, open_folder, subject_rng, write_metaimage
from datamodules.phantoms._trunk import skeleton, soft_tissue, spine_at, wall

SIZE = (120, 96, 80)
VIEW = (228.0, 182.0, 184.0)  # mm; a small slim adult
NEGATIVES = 30
_OWNED = ("subset*/*.mhd", "subset*/*.zraw", "subset*/*.raw", "subset*", "annotations.csv", "candidates_V2.csv")


def generate(out: Path, *, subjects: int = 12, seed: int = 0, size: tuple[int, ...] | None = None) -> Path:
    """Writes `subjects` synthetic chest CTs with annotations.csv and candidates_V2.csv, as LUNA16 is distributed.

    int16 HU. Subject i lies in subset i % 10; every third is a .raw, the others .zraw; some are stored turned by 180 degrees or
    padded with -2000 outside the scanner's circle, as real ones are. About one patient in eight has no nodule.

    Args:
        out: new or empty folder, or an earlier phantom of this kind, which is replaced.
        subjects: number of scans, one a patient.
        seed: the same seed gives the same bytes; subject i does not depend on `subjects`.
        size: voxels (x, y, z); the field of view of about 228 x 182 x 184 mm stays, so the voxel size follows.

    Returns:
        `out`.

    Raises:
        SslMedError: bad `subjects`, `seed` or `size`, or `out` holds something else.
    """
    check_request("luna", subjects=subjects, seed=seed, size=size, dims=3, min_side=24)
    open_folder(out, "luna", seed=seed, subjects=subjects, owned=_OWNED)
    for subset in range(10):
        (out / f"subset{subset}").mkdir(exist_ok=True)
    annotations = ["seriesuid,coordX,coordY,coordZ,diameter_mm"]
    candidates = ["seriesuid,coordX,coordY,coordZ,class"]
    for i in range(subjects):
        rng = subject_rng("luna", seed, i)
        uid = f"2.25.{int.from_bytes(rng.bytes(16), 'big')}"
        scale = rng.uniform(0.96, 1.04)
        spacing = [round(view * scale / n, 4) for view, n in zip(VIEW, size or SIZE, strict=True)]
        grid = Grid(size or SIZE, spacing)
        image, nodules, negatives = draw_chest(grid, rng, padded=i % 3 == 1)
        origin = np.round(rng.uniform(-60, 60, 3) - grid.half - np.array([0, 0, 150]), 4)
        write_metaimage(
            out / f"subset{i % 10}", uid, image,
            spacing=spacing, origin=origin, packed=i % 3 != 2, turned=i % 6 == 5,
        )  # fmt: skip
        # anatomy is laid out around the center of the view, world coordinates count from the center of voxel 0
        shift = origin + (np.array(grid.size) - 1) / 2 * np.array(spacing)
        annotations += [_row(uid, row[:3] + shift, f"{row[3]:.6f}") for row in nodules]
        # a candidate detector does not hit the center exactly
        rows = [(row[:3] + rng.normal(0, 0.5, 3), 1) for row in nodules] + [(row, 0) for row in negatives]
        candidates += [_row(uid, place + shift, str(label)) for place, label in rows]
    (out / "annotations.csv").write_text("\n".join(annotations) + "\n")
    (out / "candidates_V2.csv").write_text("\n".join(candidates) + "\n")
    return out


def _row(uid: str, place: Array, last: str) -> str:
    return ",".join([uid, *(f"{v:.6f}" for v in place), last])


def draw_chest(grid: Grid, rng: np.random.Generator, *, padded: bool) -> tuple[Array, Array, Array]:
    """Image (x, y, z) int16 HU, nodules (n, 4) as position and diameter, negatives (m, 3), in mm around the center."""
    x, y, _ = grid.axes
    wide, deep = rng.uniform(95, 104), rng.uniform(69, 76)
    skin = wall(grid, wide, deep, narrowing=0.12)
    image, below = soft_tissue(grid, rng, skin, deep=deep, fat=rng.uniform(4, 9))
    lungs, middles = _lungs(grid, rng, wide, deep)
    air = grid.occupancy(np.minimum(lungs, below - 11))
    _between_and_below(grid, rng, image, below, wide)
    skeleton(grid, rng, image, below, deep=deep, period=rng.uniform(21, 25))
    _shoulders(grid, image, below, deep)
    heart, great, airways = _mediastinum(grid, rng, deep)
    air *= (1 - np.maximum(heart, great)) * (1 - grid.occupancy(14 * np.float32(1) - np.hypot(x, y - spine_at(deep))))
    fill(image, heart, rng.uniform(38, 55))
    fill(image, great, rng.uniform(42, 65))
    texture = 18 * grid.noise(rng, 9) + 14 * grid.noise(rng, 26)
    fill(image, air, rng.uniform(-875, -835) + texture + 0.6 * np.clip(y, -60, 60))
    _scars(grid, rng, image, air, middles)
    vessels, forks = _vessels(grid, rng, middles)
    vessels *= air
    fill(image, vessels, rng.uniform(25, 60))
    fill(image, grid.tubes(airways + np.array([0] * 6 + [1.6, 1.6])), 20.0)
    fill(image, grid.tubes(airways), -975.0)

    inner = ndimage.distance_transform_edt(air > 0.5, sampling=grid.spacing).astype(np.float32)
    nodules = _nodules(grid, rng, image, inner=inner)
    negatives = _negatives(grid, rng, forks, vessels=vessels, inner=inner, nodules=nodules)
    image = ndimage.gaussian_filter(image, 0.5) + rng.uniform(14, 26) * grain(rng, grid.size, 0.6)
    image = np.clip(image, -1024, 3071)
    if padded:
        image[np.broadcast_to(x**2 + y**2 > grid.half[0] ** 2, image.shape)] = -2000
    return np.rint(image).astype(np.int16), nodules, negatives


def _lungs(grid: Grid, rng: np.random.Generator, wide: float, deep: float) -> tuple[Array, list[tuple[float, float]]]:
    """Depth of both lungs, and the (x, y) middle of each, the patient's right first."""
    x, y, z = grid.axes
    sides, middles = [], []
    top, base = rng.uniform(76, 90), rng.uniform(-82, -70)
    wobble = 1.5 * grid.noise(rng, 30)
    for sign in (-1, 1):
        cx, cy = sign * 0.45 * wide, rng.uniform(-3, 2)
        rx, ry = 0.37 * wide, 0.72 * deep
        height = np.clip((z - base) / (top - base), 0, 1)
        cone = np.sqrt(np.clip(1 - height**3.4, 0, 1))
        rho = (np.abs((x - cx) / rx) ** 2.3 + np.abs((y - cy) / ry) ** 2.3) ** (1 / 2.3)
        lift = rng.uniform(24, 36) + (9 if sign < 0 else 0)  # the right dome stands higher
        dome = base + lift * (1 - ((x - 0.8 * cx) / (1.2 * rx)) ** 2 - ((y - cy + 8) / (1.25 * ry)) ** 2)
        sides.append(np.minimum((cone - rho) * 0.5 * (rx + ry) + wobble, z - np.maximum(dome, base - 25)))
        middles.append((cx, cy))
    return np.maximum(*sides).astype(np.float32), middles


def _between_and_below(grid: Grid, rng: np.random.Generator, image: Array, below: Array, wide: float) -> None:
    """Liver, stomach and spleen under the domes (the lungs are drawn over them), fat in the mediastinum."""
    x, y, z = grid.axes
    cavity = grid.occupancy(below - 11)
    fill(image, cavity, -90.0)
    low = cavity * grid.occupancy(8 - z)
    fill(image, low * grid.occupancy(0.25 * wide - x + 0.3 * y), rng.uniform(50, 85) + 3 * grid.noise(rng, 12))
    spleen = grid.ellipsoid((0.62 * wide, 30, -grid.half[2] + 20), (24, 26, 40))
    fill(image, low * grid.occupancy(spleen), rng.uniform(45, 70))
    stomach = grid.ellipsoid((0.45 * wide, -14, -grid.half[2] + 12), (26, 24, 36))
    fill(image, low * grid.occupancy(stomach + 3), 40.0)
    fill(image, low * grid.occupancy(stomach), np.where(y < -14, -900.0, 15.0))  # gas over fluid
    middle = cavity * grid.occupancy(0.3 * wide - np.abs(x)) * grid.occupancy(z + 55 + 6 * grid.noise(rng, 30))
    fill(image, middle, np.where(grid.noise(rng, 15) > 0.2, 35.0, -85.0))


def _shoulders(grid: Grid, image: Array, below: Array, deep: float) -> None:
    """Sternum and shoulder blades."""
    sternum = grid.ellipsoid((0, -deep + 12, 15), (13, 5, 60), power=3)
    fill(image, grid.occupancy(sternum), 400.0)
    fill(image, grid.occupancy(sternum - 2), 170.0)
    for sign in (-1, 1):
        blade = grid.ellipsoid((sign * 66, 0.62 * deep, 45), (26, 2.4, 42), turn=-sign * 0.6)
        fill(image, grid.occupancy(blade) * grid.occupancy(below - 1) * grid.occupancy(6 - below), 420.0)


def _mediastinum(grid: Grid, rng: np.random.Generator, deep: float) -> tuple[Array, Array, Array]:
    """Occupancy of the heart and of the great vessels, and the airways as tubes."""
    size, shift = rng.uniform(0.88, 1.1), rng.uniform(-3, 3)
    low = -42 + shift
    heart = grid.ellipsoid((16, -16, low), (39 * size, 32 * size, 33 * size), turn=0.35)
    heart = np.maximum(heart, grid.ellipsoid((-14, -12, low + 6), (26 * size, 26 * size, 31 * size)))
    back = spine_at(deep) - 10
    arch = [(6, -12, low), (4, -16, 12), (10, -4, 32), (19, 14, 34), (22, back, 20), (17, back, -95)]
    trunk = [(14, -20, low), (16, -14, 8), (2, -4, 10), (-24, 2, 4)]
    cava = [(-15, -10, low), (-15, -12, 40), (-12, -14, 90)]
    tubes = [path(arch, [11, 12, 11, 10, 9.5, 9]), path(trunk, [11, 10, 8, 6]), path(cava, [7, 7, 6])]
    tubes += [path([(10, -4, 32), (s * 9 + 4, -6, 60), (s * 14 + 2, -8, 95)], [5, 4, 3.5]) for s in (-1, 1)]
    fork = 18 + shift
    bronchi = [path([(0, 6, fork), (-26, 8, fork - 16), (-38, 10, fork - 34)], [5.5, 5, 2.5])]
    bronchi += [path([(0, 6, fork), (30, 10, fork - 20), (40, 12, fork - 38)], [5.5, 4.5, 2.2])]
    airways = np.vstack([path([(0, 2, 110), (0, 6, fork)], [7.5, 7]), *bronchi])
    return grid.occupancy(heart), grid.tubes(np.vstack(tubes)), airways


def _scars(grid: Grid, rng: np.random.Generator, image: Array, air: Array, middles: list[tuple[float, float]]) -> None:
    """Fissures and flat scars: dense but thin, so they are no nodules."""
    x, y, z = grid.axes
    for sign, (cx, cy) in zip((-1, 1), middles, strict=True):
        plane = (z + 8) * 0.75 - (y - cy) * 0.65 + 3 * grid.noise(rng, 35)
        fill(image, 0.2 * grid.occupancy(0.6 - np.abs(plane)) * air * (x * sign > 0), -300.0)
        for _ in range(int(rng.integers(1, 4))):
            center = (cx + rng.uniform(-20, 20), cy + rng.uniform(-30, 30), rng.uniform(-30, 50))
            radii = (rng.uniform(6, 12), rng.uniform(0.9, 1.5), rng.uniform(5, 9))
            flat = grid.ellipsoid(center, radii, turn=rng.uniform(0, np.pi))
            fill(image, grid.occupancy(flat) * air, rng.uniform(-250, 20))


def _vessels(grid: Grid, rng: np.random.Generator, middles: list[tuple[float, float]]) -> tuple[Array, Array]:
    """Occupancy of the pulmonary vessels, and the (n, 4) ends of their pieces with the radius there."""
    pieces = []
    for sign, (cx, cy) in zip((-1, 1), middles, strict=True):
        hilum = np.array([sign * 24, 2, -4])
        for _ in range(9):
            goal = np.array([cx + sign * rng.uniform(-8, 25), cy + rng.uniform(-45, 45), rng.uniform(-75, 75)])
            radius = rng.uniform(2.6, 4.6)
            pieces.append(tree(rng, hilum, goal - hilum, radius=radius, smallest=0.95, reach=9.5))
    segments = np.vstack(pieces)
    return grid.tubes(segments), segments[:, [3, 4, 5, 7]]


def _nodules(grid: Grid, rng: np.random.Generator, image: Array, *, inner: Array) -> Array:
    """Draws the nodules; rows of x, y, z and diameter in mm. Some are smooth, some lobulated, some touch the pleura."""
    count = 0 if rng.random() < 0.125 else int(rng.integers(1, 5))
    found: list[list[float]] = []
    for _ in range(count):
        radius = rng.uniform(2.2, 7)
        depth = 0.7 * radius if rng.random() < 0.35 else radius + 3
        where = np.argwhere((inner > depth) & (inner < (depth + 3 if depth < radius else np.inf)))
        for place in rng.permutation(where)[:50]:
            point = (place - (np.array(grid.size) - 1) / 2) * grid.spacing + rng.uniform(-0.5, 0.5, 3)
            if all(np.linalg.norm(point - other[:3]) > 15 + radius for other in found):
                box, lump = blob(grid, rng, point, radius, rough=rng.uniform(0, 0.22), stretch=0.15)
                share = grid.occupancy(lump) * np.clip(inner[box] / grid.voxel, 0, 1)
                fill(image[box], share, np.maximum(image[box], rng.uniform(30, 60)))
                found.append([*point, 2 * radius])
                break
    return np.array(found).reshape(-1, 4)


def _negatives(
    grid: Grid, rng: np.random.Generator, forks: Array, *, vessels: Array, inner: Array, nodules: Array
) -> Array:
    """Positions (m, 3) that a candidate detector takes for nodules: forks and thick vessels, and spots at the pleura."""
    at = tuple(grid.index(forks[:, :3]).T)
    seen = (inner[at] > 2) & (vessels[at] > 0.6) & (forks[:, 3] > 1.0)
    # thick vessels first, as a detector ranks them
    order = np.argsort(-forks[:, 3] * rng.uniform(0.3, 1.0, len(forks)))
    choice = forks[order[seen[order]], :3]
    edge = rng.permutation(np.argwhere((inner > 0) & (inner < 3)))[:200]
    spots = (edge - (np.array(grid.size) - 1) / 2) * grid.spacing
    taken: list[Array] = []
    for points, limit in ((choice, 5 * NEGATIVES // 6), (spots, NEGATIVES)):
        for point in points:
            if len(taken) == limit:
                break
            apart = all(np.linalg.norm(point - other) > 9 for other in taken)
            if apart and all(np.linalg.norm(point - row[:3]) > row[3] + 10 for row in nodules):
                taken.append(point)
    return np.array(taken).reshape(-1, 3)
