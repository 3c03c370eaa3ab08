"""A photograph of the fundus: retina, optic disc, vessels and what diseases leave on it, in colour.

Lengths are mm on the retina, x to the right of the image, y down, 0 in the middle; the macula lies there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.phantoms._anatomy import Array, Grid, blob, grain, paint, tree

FIELD = 17.0  # mm that the shorter side shows
Color = tuple[float, float, float]
_DARK_RED, _YELLOW, _PALE, _SCAR = (0.42, 0.10, 0.06), (0.97, 0.86, 0.52), (0.95, 0.72, 0.42), (0.93, 0.80, 0.62)


@dataclass(frozen=True)
class Signs:
    """How many of each sign: numbers of lesions, and atrophy beside the disc as a share of its width."""

    aneurysms: int = 0
    bleedings: int = 0
    exudates: int = 0
    new_vessels: int = 0
    drusen: int = 0
    crescent: float = 0.0
    patches: int = 0
    tessellated: bool = False


def eye_grid(size: Sequence[int]) -> Grid:
    """Grid (columns, rows) of a photograph of `size` rows and columns."""
    rows, columns = size
    pixel = FIELD / min(size)
    return Grid((columns, rows), (pixel, pixel))


def draw_eye(grid: Grid, rng: np.random.Generator, *, left: bool, signs: Signs) -> Array:
    """Red, green, blue (columns, rows, 3) uint8; the optic disc lies on the nose's side, right in a right eye."""
    x, y = grid.axes
    red = rng.uniform(0.68, 0.82)
    base = (red, red * rng.uniform(0.44, 0.54), red * rng.uniform(0.18, 0.26))
    image = np.empty((*grid.size, 3), np.float32)
    image[:] = base
    image *= (1 + 0.04 * grid.noise(rng, 4))[..., None]
    disc = np.array([(-4.3 if left else 4.3) + rng.uniform(-0.3, 0.3), rng.uniform(-0.5, 0.3)])
    if signs.tessellated:  # vessels of the choroid shine through thin retina
        net = np.clip(1 - np.abs(grid.noise(rng, 1.6)) / 0.35, 0, 1)
        paint(image, 0.35 * net, (0.9, 0.5, 0.3))
    paint(image, 0.55 * np.exp(-(x**2 + y**2) / 1.4), (0.45, 0.2, 0.1))  # macula
    if signs.crescent:
        away = -np.sign(disc[0]) * 0.5 * signs.crescent
        ring = grid.ellipsoid(disc + np.array([away, 0]), (0.95 + signs.crescent, 1.05 + 0.8 * signs.crescent))
        paint(image, 0.85 * grid.occupancy(ring, 2), _SCAR)
    paint(image, grid.occupancy(grid.ellipsoid(disc, (0.85, 0.95)), 2), (0.96, 0.78, 0.5))
    paint(image, 0.7 * grid.occupancy(grid.ellipsoid(disc, (0.35, 0.4)), 2), (1.0, 0.93, 0.75))
    paint(image, 0.75 * grid.tubes(_vessels(rng, disc)), _DARK_RED)
    if signs.new_vessels:
        starts = [disc + rng.normal(0, 0.6, 2) for _ in range(signs.new_vessels)]
        fine = [tree(rng, s, rng.normal(size=2), radius=0.07, smallest=0.045, reach=3.5) for s in starts]
        paint(image, 0.8 * grid.tubes(np.vstack(fine)), _DARK_RED)
    _dots(image, grid, rng, signs.aneurysms, radius=(0.12, 0.2), spread=4.0, color=_DARK_RED)
    _dots(image, grid, rng, signs.bleedings, radius=(0.3, 0.65), spread=4.5, color=_DARK_RED)
    _dots(image, grid, rng, signs.exudates, radius=(0.16, 0.35), spread=2.5, color=_YELLOW)
    _dots(image, grid, rng, signs.drusen, radius=(0.14, 0.38), spread=1.3, color=_PALE)
    _dots(image, grid, rng, signs.patches, radius=(0.7, 1.5), spread=2.5, color=_SCAR)
    far = np.sqrt(x**2 + y**2) / (FIELD / 2)
    image *= (rng.uniform(0.85, 1.05) * (1 - 0.35 * far**2))[..., None]
    image *= np.clip((0.97 - far) * 40, 0, 1)[..., None]  # the camera's aperture
    noise = np.stack([grain(rng, grid.size, 0.5) for _ in range(3)], -1)
    colors: Array = np.rint(np.clip(255 * image + 2.5 * noise, 0, 255)).astype(np.uint8)
    return colors


def _vessels(rng: np.random.Generator, disc: Array) -> Array:
    """Four arcades and two short branches out of the disc."""
    nose = np.sign(disc[0])
    ways = [(-nose, 1.3), (-nose, -1.3), (nose, 0.9), (nose, -0.9), (-nose, 2.5), (-nose, -2.5)]
    rows = []
    for across, down in ways:
        toward = np.array([across * rng.uniform(0.7, 1.2), down])
        rows.append(tree(rng, disc, toward, radius=rng.uniform(0.13, 0.18), smallest=0.06, reach=9))
    return np.vstack(rows)


def _dots(
    image: Array,
    grid: Grid,
    rng: np.random.Generator,
    count: int,
    *,
    radius: tuple[float, float],
    spread: float,
    color: Color,
) -> None:
    for _ in range(count):
        where, depth = blob(grid, rng, rng.normal(0, spread, 2), rng.uniform(*radius), rough=0.3)
        paint(image[where], 0.85 * grid.occupancy(depth, 1.5), color)
