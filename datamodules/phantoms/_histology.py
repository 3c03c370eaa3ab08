"""Stained breast tissue: pink stroma, purple nuclei, in the arrangements of four diagnoses.

Lengths are micrometres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.phantoms._anatomy import Array, Grid, blob, grain, paint

FIELD = 320.0  # micrometres that the shorter side shows
_STROMA, _LUMEN, _NUCLEUS, _CELL = (0.87, 0.62, 0.76), (0.95, 0.93, 0.95), (0.38, 0.22, 0.52), (0.80, 0.58, 0.78)
# glands, share of a gland that cells fill, loose cells, nuclear radius
_LOOK = {
    "Normal": (3, 0.0, 25, 5.0),
    "Benign": (8, 0.15, 45, 5.0),
    "InSitu": (3, 1.0, 25, 7.0),
    "Invasive": (0, 0.0, 230, 7.0),
}


def tissue_grid(size: Sequence[int]) -> Grid:
    """Grid (columns, rows) of an image of `size` rows and columns."""
    rows, columns = size
    pixel = FIELD / min(size)
    return Grid((columns, rows), (pixel, pixel))


def draw_tissue(grid: Grid, rng: np.random.Generator, kind: str) -> Array:
    """Red, green, blue (columns, rows, 3) uint8 of one of Normal, Benign, InSitu, Invasive."""
    glands, filled, loose, radius = _LOOK[kind]
    image = np.empty((*grid.size, 3), np.float32)
    image[:] = _STROMA
    image *= (1 + 0.05 * grid.noise(rng, 12) + 0.03 * grid.noise(rng, 5))[..., None]
    places = [rng.uniform(-np.array(grid.half), grid.half) for _ in range(round(loose * rng.uniform(0.8, 1.25)))]
    for _ in range(glands):
        center, size = rng.uniform(-0.75, 0.75, 2) * grid.half, rng.uniform(32, 50) * (0.7 if glands > 4 else 1)
        where, depth = blob(grid, rng, center, size, rough=0.08)
        paint(image[where], grid.occupancy(depth, 2), _CELL)
        paint(image[where], (1 - filled) * grid.occupancy(depth - 14, 3), _LUMEN)
        turn = rng.uniform(0, 2 * np.pi)
        for angle in turn + np.arange(0, 2 * np.pi, 13 / size):
            places.append(center + (size - 8) * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 1.5, 2))
        for _ in range(round(filled * (size / 9) ** 2)):
            way = rng.normal(size=2)
            places.append(center + way / np.linalg.norm(way) * (size - 14) * rng.random() ** 0.5)
    for place in places:
        where, depth = blob(grid, rng, place, radius * rng.uniform(0.75, 1.3), rough=0.12)
        paint(image[where], 0.9 * grid.occupancy(depth, 1.5), _NUCLEUS)
    image *= np.exp(rng.normal(0, 0.05, 3))  # batches of stain differ
    noise = np.stack([grain(rng, grid.size, 0.5) for _ in range(3)], -1)
    colors: Array = np.rint(np.clip(255 * image + 3 * noise, 0, 255)).astype(np.uint8)
    return colors
