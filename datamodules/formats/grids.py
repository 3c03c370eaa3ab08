"""A scan as it lies on disk: voxels, and the grid that places them in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_med.spec import SslMedError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Header:
    """Grid of a scan. `to_world` (4, 4) maps voxel indices to millimetres in LPS (x left, y back, z up)."""

    shape: tuple[int, ...]
    to_world: Array


@dataclass(frozen=True)
class Volume:
    """A scan as it lies on disk. `array` (x, y, z) in stored units, `to_world` as in `Header`."""

    array: Array
    to_world: Array


def spatial_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(x, y, z) of a stored shape, whose axes of one at the end are dropped; refuses what is not 3D."""
    trimmed = tuple(int(size) for size in shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    if len(trimmed) != 3 or min(trimmed) < 1:
        raise SslMedError(f"{path}: has shape {trimmed}; one 3D volume a file is needed, split it first")
    return trimmed


def check_grid(path: str, to_world: Array) -> Array:
    """The matrix as float64; refuses one that is no map from voxels to millimetres."""
    matrix = np.asarray(to_world, float)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise SslMedError(f"{path}: the header has no valid voxel size or direction; repair its affine")
    return matrix
