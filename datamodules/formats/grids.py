"""A scan as it lies on disk: voxels, and the grid that places them in the patient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_med.spec import SslMedError

Array = np.ndarray[Any, Any]

# mm: from micro-CT to thick slices; what lies outside is a wrong unit or a damaged header
THINNEST, THICKEST, LONGEST = 0.001, 50.0, 3000.0
# degrees that two axes may miss a right angle by: over 300 mm that is half a millimetre, less than a usual voxel
_SHEARED = 0.1


@dataclass(frozen=True)
class Remark:
    """Something odd in a header that does not keep the file from being read, and how it is read.

    * kind: orientation (the header places the voxels nowhere), forms (it does so twice, differently), units (its lengths
      are not in mm), size (it gives no voxel size), shear (its axes are not at right angles).
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Header:
    """Grid of a scan. `to_world` (4, 4) maps voxel indices to millimetres in LPS (x left, y back, z up)."""

    shape: tuple[int, ...]
    to_world: Array
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class Volume:
    """A scan as it lies on disk. `array` (x, y, z) in stored units, `to_world` and `remarks` as in `Header`."""

    array: Array
    to_world: Array
    remarks: tuple[Remark, ...] = ()

    @property
    def grid(self) -> Header:
        """Where it lies."""
        return Header(self.array.shape[:3], self.to_world, self.remarks)


def spatial_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(x, y, z) of a stored shape, whose axes of one at the end are dropped; refuses what is not 3D."""
    trimmed = tuple(int(size) for size in shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    if len(trimmed) != 3 or min(trimmed) < 1:
        raise SslMedError(f"{path}: has shape {trimmed}; one 3D volume a file is needed, split it first")
    return trimmed


def make_header(path: str, shape: tuple[int, ...], to_world: Array, remarks: Iterable[Remark] = ()) -> Header:
    """A grid whose matrix is a map from voxels to millimetres; a sheared one gets a remark.

    Raises:
        SslMedError: the matrix is singular or not finite, or its voxels or axes are no size of a medical scan.
    """
    matrix = np.asarray(to_world, float)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise SslMedError(f"{path}: the header has no valid voxel size or direction; repair its affine")
    size = np.linalg.norm(matrix[:3, :3], axis=0)
    longest = float((size * shape[:3]).max())
    if size.min() < THINNEST or size.max() > THICKEST or longest > LONGEST:
        words = " x ".join(f"{s:.4g}" for s in size)
        raise SslMedError(
            f"{path}: the header has no valid voxel size: {words} mm, {longest:.4g} mm long, is no medical scan; "
            "repair the voxel size or its unit"
        )
    cosines = (matrix[:3, :3] / size).T @ (matrix[:3, :3] / size)
    off = float(np.degrees(np.arcsin(np.clip(np.abs(cosines - np.diag(np.diag(cosines))).max(), 0, 1))))
    found = tuple(remarks)
    if off > _SHEARED:
        text = f"axes miss a right angle by {off:.1f} degrees (tilted gantry?); sizes are taken along the axes"
        found += (Remark("shear", text),)
    return Header(tuple(shape), matrix, found)


def corners(shape: tuple[int, ...]) -> Array:
    """(8, 4) voxel indices of the corners of a grid, and a one; an axis of one voxel is taken as two long."""
    last = np.maximum(np.array(shape[:3]) - 1, 1)
    return np.array([[*(corner * last), 1.0] for corner in np.ndindex(2, 2, 2)])
