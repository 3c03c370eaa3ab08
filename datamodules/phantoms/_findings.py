"""The 14 findings of ChestX-ray14 as changes to a drawn xray.

Findings that move an outline (Cardiomegaly, Emphysema, the raised dome of Atelectasis) are part of the radiograph's geometry;
the rest adds attenuation here. `seen` is the share of the lung markings that stays visible.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datamodules.phantoms._anatomy import Array, Grid, blob, path
from datamodules.phantoms._radiograph import Build, Radiograph, draw_build

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip


def draw_radiograph(
    grid: Grid, rng: np.random.Generator, build: Build, *, findings: list[str], portable: bool
) -> Array:
    """Grey levels (columns, rows) 0..255, uint8; `portable` is the AP view, taken in bed."""
    return draw_lungs(grid, rng, build, findings=findings, portable=portable)[0]


def draw_lungs(
    grid: Grid, rng: np.random.Generator, build: Build, *, findings: list[str], portable: bool
) -> tuple[Array, Array]:
    """A radiograph as `draw_radiograph` draws it, and where its aerated lungs lie (columns, rows) bool, both in one."""
    xray = Radiograph(grid, rng, build, findings, portable=portable)
    xray.body()
    marks, seen = xray.marks()
    for name in sorted(xray.findings & _DRAW.keys()):
        seen = _DRAW[name](xray, build.side[name], seen)
    xray.density += marks * seen
    xray.bones()
    return xray.expose(portable=portable), xray.lung > 0


def _spot(
    xray: Radiograph, side: int, *, rows: tuple[float, float], out: tuple[float, float] = (50, 100)
) -> tuple[float, float]:
    """A place in one lung, in the patient's own mm."""
    return side * xray.rng.uniform(*out), xray.rng.uniform(*rows)


def _round(xray: Radiograph, side: int, seen: Array, *, radius: tuple[float, float], power: float) -> Array:
    """A round opacity, thicker in its middle as a ball is."""
    size = float(np.exp(xray.rng.uniform(*np.log(radius))))
    x, y = _spot(xray, side, rows=(-75, 40))
    center = (x * xray.build.wide, y * xray.build.tall)
    where, depth = blob(xray.grid, xray.rng, center, size, rough=xray.rng.uniform(0.02, 0.15), stretch=0.12)
    xray.density[where] += power * np.clip(2 * depth / size, 0, 1) ** 0.5
    return seen


def _mass(xray: Radiograph, side: int, seen: Array) -> Array:
    return _round(xray, side, seen, radius=(17, 28), power=xray.rng.uniform(0.2, 0.25))


def _nodule(xray: Radiograph, side: int, seen: Array) -> Array:
    for _ in range(int(xray.rng.integers(1, 4))):
        seen = _round(xray, side, seen, radius=(8, 13), power=xray.rng.uniform(0.17, 0.22))
    return seen


def _effusion(xray: Radiograph, side: int, seen: Array) -> Array:
    """Fluid at the base: the angle is blunt, the surface climbs along the chest wall."""
    height = xray.rng.uniform(32, 85)
    away = xray.x * side  # from the midline to the sick side
    surface = 84 - height - 42 * np.clip((away - 70) / 60, 0, 1) ** 2 + 10 * np.clip((70 - away) / 60, 0, 1)
    fluid = np.clip((xray.y - surface) / 14, 0, 1) * (away > 0) * np.clip((xray.outline[(side + 1) // 2] + 2) / 6, 0, 1)
    xray.density += fluid * (0.32 * xray.air + 0.03)
    return seen * (1 - 0.9 * fluid)


def _atelectasis(xray: Radiograph, side: int, seen: Array) -> Array:
    """Plates of collapsed lung above a raised dome."""
    for _ in range(int(xray.rng.integers(2, 4))):
        x, y = _spot(xray, side, rows=(8, 45), out=(48, 75))
        tilt = xray.rng.uniform(-12, 12)
        plate = path([(x - side * 26, y - side * tilt), (x + side * 28, y + side * tilt)], [3.2, 1.6])
        xray.density += xray.rng.uniform(0.09, 0.13) * xray.strands(plate, soft=1.5) * np.clip(xray.lung / 6, 0, 1)
    return seen


def _patches(xray: Radiograph, center: tuple[float, float], reach: float, *, cell: float, power: float) -> Array:
    """Adds a patchy opacity around a point of the lung and returns how much of the markings it veils."""
    x, y = center
    share = np.exp(-(((xray.x - x) ** 2 + (xray.y - y) ** 2) / reach**2)) * np.clip(xray.lung / 8, 0, 1)
    cloud = share * np.clip(0.65 + 0.7 * xray.grid.noise(xray.rng, cell), 0, 1.6)
    xray.density += power * cloud
    veil: Array = np.clip(cloud, 0, 1)
    return veil


def _infiltration(xray: Radiograph, side: int, seen: Array) -> Array:
    veil = _patches(xray, _spot(xray, side, rows=(-40, 50)), xray.rng.uniform(36, 52), cell=11, power=0.18)
    return seen * (1 - 0.4 * veil)


def _consolidation(xray: Radiograph, side: int, seen: Array) -> Array:
    """A dense, even opacity of part of a lobe, sharp on one side."""
    x, y = _spot(xray, side, rows=(-60, 40), out=(60, 85))
    lobe = xray.own.ellipsoid((x, y), (xray.rng.uniform(30, 42), xray.rng.uniform(26, 38)), power=2.8)
    lobe = np.minimum(lobe + 4 * xray.grid.noise(xray.rng, 22), (xray.y - y + 16) * 1.5)
    share: Array = np.clip(lobe / 8, 0, 1) * np.clip(xray.lung / 5, 0, 1)
    xray.density += 0.24 * share * xray.air
    return seen * (1 - 0.9 * share)


def _pneumonia(xray: Radiograph, side: int, seen: Array) -> Array:
    center = _spot(xray, side, rows=(0, 50))
    veil = _patches(xray, center, xray.rng.uniform(28, 40), cell=24, power=0.2)
    return seen * (1 - 0.6 * veil)


def _edema(xray: Radiograph, side: int, seen: Array) -> Array:
    """Both lungs around the hila, like the wings of a bat, and horizontal lines at the bases."""
    for s in (-1, 1):
        _patches(xray, (s * 48, 8), xray.rng.uniform(46, 58), cell=16, power=0.14)
        for k in range(5):
            line = path([(s * 112, 30 + 7 * k), (s * 124, 30 + 7 * k)], [0.8, 0.8])
            xray.density += 0.07 * xray.strands(line, soft=0.8)
    return seen


def _fibrosis(xray: Radiograph, side: int, seen: Array) -> Array:
    """A net of lines in the lower zones."""
    net = np.clip(1 - np.abs(xray.grid.noise(xray.rng, 7)) / 0.3, 0, 1)
    xray.density += 0.11 * net * np.clip((xray.y + 40) / 70, 0, 1) * np.clip(xray.lung / 8, 0, 1)
    return seen


def _thickening(xray: Radiograph, side: int, seen: Array) -> Array:
    """A band along the chest wall."""
    width = xray.rng.uniform(10, 16) + 2 * xray.grid.noise(xray.rng, 25)
    rim = np.clip((width - xray.outline[(side + 1) // 2]) / 4, 0, 1) * np.clip((xray.lung + 3) / 5, 0, 1)
    upright = np.clip((xray.x * side - 70) / 30, 0, 1) * np.clip((xray.y + 115) / 30, 0, 1)
    xray.density += 0.15 * rim * upright
    return seen


def _pneumothorax(xray: Radiograph, side: int, seen: Array) -> Array:
    """Air between chest wall and lung: darker, without markings, and the fine line of the pleura."""
    gap = xray.rng.uniform(22, 36) * np.clip((50 - xray.y) / 130, 0, 1.2)
    behind = xray.outline[(side + 1) // 2] - gap
    free = np.clip(-behind / 2, 0, 1) * np.clip(xray.lung / 4, 0, 1) * (xray.x * side > 0)
    xray.density -= 0.055 * free
    xray.density += 0.07 * np.clip(1.6 - np.abs(behind), 0, 1) * (gap > 4) * (xray.lung > 4) * (xray.x * side > 0)
    return seen * (1 - free)


def _hernia(xray: Radiograph, side: int, seen: Array) -> Array:
    """A part of the stomach behind the heart, with gas over fluid."""
    sac = xray.own.ellipsoid((10 * side, 66), (30, 25))
    xray.density += 0.10 * np.clip(sac / 4, 0, 1) - 0.2 * np.clip((sac - 5) / 4, 0, 1) * (xray.y < 64)
    return seen


_DRAW: dict[str, Callable[[Radiograph, int, Array], Array]] = {
    "Atelectasis": _atelectasis,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Effusion": _effusion,
    "Fibrosis": _fibrosis,
    "Hernia": _hernia,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pleural_Thickening": _thickening,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
}


def draw_tuberculosis(grid: Grid, rng: np.random.Generator, *, sick: bool) -> tuple[Array, Array]:
    """A radiograph with or without signs of tuberculosis: one or two of infiltrate, consolidation, effusion, thick pleura.

    Returns:
        Radiograph and lungs as of `draw_lungs`.
    """
    signs = ("Infiltration", "Consolidation", "Effusion", "Pleural_Thickening")
    build = draw_build(rng, FINDINGS)
    drawn = rng.choice(len(signs), size=int(rng.integers(1, 3)), replace=False)
    return draw_lungs(grid, rng, build, findings=sorted(signs[k] for k in drawn) if sick else [], portable=False)
