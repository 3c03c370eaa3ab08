"""What chest and abdomen share on CT: the body wall, fat and muscle, ribs, spine, table. Values are HU, lengths mm."""

from __future__ import annotations

import numpy as np

from datamodules.phantoms._anatomy import Array, Grid, fill

_SPINE_TO_BACK = 27  # from the middle of a vertebral body to the skin of the back


def wall(grid: Grid, wide: float, deep: float, *, narrowing: float = 0.0) -> Array:
    """Depth below the skin of a trunk with half-axes `wide` (x) and `deep` (y), flat at the back.

    `narrowing` is the share of width lost at 90 mm above the middle.
    """
    x, y, z = grid.axes
    shrink = 1 - narrowing * np.clip(z / 90, 0, 1.5) ** 2
    flat = np.where(y > 0, 1.05, 1.0)
    rho = (np.abs(x / (wide * shrink)) ** 2.5 + np.abs(y * flat / (deep * shrink)) ** 2.5) ** 0.4
    depth: Array = ((1 - rho) * 0.5 * (wide + deep)).astype(np.float32)
    return depth


def soft_tissue(grid: Grid, rng: np.random.Generator, skin: Array, *, deep: float, fat: float) -> tuple[Array, Array]:
    """A new image with air, table, fat rim of about `fat` mm and marbled muscle, and the depth below the fat."""
    x, y, _ = grid.axes
    image = np.full(grid.size, -1000, np.float32)
    table = grid.occupancy(2.2 - np.abs(y - deep - 6 + (x / 60) ** 2 * 2)) * (np.abs(x) < 0.9 * grid.half[0])
    fill(image, table, -350.0)
    below = skin - (fat * (1 + 0.35 * np.clip(-y / deep, -0.6, 1)) + grid.noise(rng, 40))
    fill(image, grid.occupancy(skin), -102 + 8 * grid.noise(rng, 12))
    fill(image, grid.occupancy(skin) - grid.occupancy(skin - 1.5), 10.0)
    muscle = grid.occupancy(below)
    fill(image, muscle, rng.uniform(48, 60) + 6 * grid.noise(rng, 10))
    fill(image, muscle * grid.occupancy(2 * grid.noise(rng, 13) - 2.2, 0.8), -85.0)
    return image, below.astype(np.float32)


def skeleton(
    grid: Grid, rng: np.random.Generator, image: Array, below: Array, *, deep: float, period: float, size: float = 1.0
) -> None:
    """Ribs in the wall and a vertebral column, drawn into `image`; `period` is the height of a vertebra with its disc.

    `below` is the depth below the fat; `size` scales the thickness of all bones.
    """
    x, y, z = grid.axes
    slope, phase = rng.uniform(0.35, 0.5), rng.uniform(0, 1)
    # a rib runs from high at the back to low in front, inside the muscle shell
    turns = (z - slope * y) / period + phase
    off = np.abs(turns - np.rint(turns)) * period
    ribs = np.minimum(4.4 * size - off, 3.0 * size - np.abs(below - 6.0 * size))
    ribs = np.minimum(ribs, np.abs(x) - 10 * size).astype(np.float32)
    cartilage = (y < -0.6 * deep) & (np.abs(x) < 45 * size)
    fill(image, grid.occupancy(ribs), np.where(cartilage, 115.0, 520.0))
    fill(image, grid.occupancy(ribs - 1.6 * size), np.where(cartilage, 105.0, 230.0))

    middle = spine_at(deep, size)
    off = off_level(z, period, phase)
    disc = grid.occupancy(2.8 * size - off)
    rho = (np.abs(x / (16 * size)) ** 2.4 + np.abs((y - middle) / (12.5 * size)) ** 2.4) ** (1 / 2.4)
    column = ((1 - rho) * 14 * size + 0 * z).astype(np.float32)
    # the process behind and the wings beside each vertebra
    process = np.minimum(3.5 * size - np.abs(x), 11 * size - np.abs(y - middle - 25 * size))
    wings = np.minimum(32 * size - np.abs(x), 4.2 * size - np.abs(y - middle - 13 * size))
    behind = np.minimum(np.maximum(process, wings), (off - 5 * size)).astype(np.float32)
    fill(image, grid.occupancy(behind) * grid.occupancy(below + 2), 400.0)
    whole = grid.occupancy(column)
    fill(image, whole, 460.0)
    fill(image, grid.occupancy(column - 2 * size), rng.uniform(150, 220) + 30 * grid.noise(rng, 5))
    fill(image, whole * disc, 85.0)
    canal = 7 * size - np.sqrt(x**2 + (y - middle - 17 * size) ** 2) + 0 * z
    fill(image, grid.occupancy(canal), 25.0)


def off_level(z: Array, period: float, phase: float) -> Array:
    """Distance in mm from the nearest disc."""
    level = z / period + phase + 0.5
    distance: Array = np.abs(level - np.rint(level)) * period
    return distance


def spine_at(deep: float, size: float = 1.0) -> float:
    """The y of the middle of the vertebral bodies."""
    return deep - (_SPINE_TO_BACK + 11) * size
