"""An ultrasound image: layers of tissue below the probe, speckle, and what casts a shadow or lets more sound pass.

Lengths are mm, x to the right of the image, y down from the skin.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.phantoms._anatomy import Array, Grid, blob, grain

DEPTH = 50.0  # mm that the image shows


def scan_grid(size: Sequence[int]) -> Grid:
    """Grid (columns, rows) of an image of `size` rows and columns; 0 in its middle."""
    rows, columns = size
    pixel = DEPTH / rows
    return Grid((columns, rows), (pixel, pixel))


def tissue(grid: Grid, rng: np.random.Generator) -> Array:
    """(columns, rows) mean echo of fat, a bright layer and what lies below, weaker with depth."""
    depth = grid.axes[1] + DEPTH / 2
    wave = 1.5 * grid.noise(rng, 18)
    skin = rng.uniform(6, 10)
    echo = np.where(depth + wave < skin, 0.55, 0.4 + 0.05 * grid.noise(rng, 9)).astype(np.float32)
    echo += 0.3 * np.exp(-(((depth + wave - skin) / 0.8) ** 2))
    fading: Array = (echo * np.exp(-depth / 90)).astype(np.float32)
    return fading


def speckled(grid: Grid, rng: np.random.Generator, echo: Array) -> Array:
    """(columns, rows) uint8: log of a Rayleigh speckle of that mean echo."""
    first, second = grain(rng, grid.size, 0.7), grain(rng, grid.size, 0.7)
    envelope = np.clip(echo, 0.01, None) * np.hypot(first, second) / np.sqrt(np.pi / 2)
    decibels = 20 * np.log10(np.clip(envelope, 1e-4, None))
    image: Array = np.clip(255 * (decibels + 45) / 45, 0, 255).astype(np.uint8)
    return image


def add_lesion(grid: Grid, rng: np.random.Generator, echo: Array, *, malignant: bool, center: Sequence[float]) -> Array:
    """Darkens a lump in place, smooth and wide, or rough, tall and with a shadow; returns its mask (columns, rows)."""
    radius = rng.uniform(5, 8)
    where, depth = blob(grid, rng, center, radius, rough=0.5 if malignant else 0.05, stretch=0.1)
    mask = np.zeros(grid.size, bool)
    mask[where] = depth > 0
    echo[mask] *= 0.25 if malignant else 0.35
    columns = mask.any(1)
    last = np.where(columns, mask.shape[1] - 1 - mask[:, ::-1].argmax(1), mask.shape[1])
    below = np.arange(mask.shape[1])[None] > last[:, None]
    echo[below] *= 0.45 if malignant else 1.5
    return mask
