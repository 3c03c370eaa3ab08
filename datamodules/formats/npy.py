"""Arrays of numpy (.npy), which have no geometry: 1 mm, axes L, P, S."""

from __future__ import annotations

import numpy as np

from datamodules.formats.grids import Array, Header, Remark, Volume, make_header, spatial_shape
from ssl_med.spec import SslMedError, first_line

_NOWHERE = (Remark("orientation", "a .npy file gives neither voxel size nor orientation"),)


def _open_npy(path: str) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError) as error:
        raise SslMedError(f"{path}: is no readable .npy array ({first_line(error)}); save it again") from None
    if array.dtype.kind not in "iufb" or array.dtype.itemsize > 8:
        raise SslMedError(f"{path}: holds {array.dtype} values; numbers are needed")
    return array


def npy_header(path: str) -> Header:
    """Grid of a volume."""
    return make_header(path, spatial_shape(path, _open_npy(path).shape), np.eye(4), _NOWHERE)


def read_npy(path: str) -> Volume:
    """Reads a volume; bits become uint8."""
    array = _open_npy(path)
    grid = make_header(path, spatial_shape(path, array.shape), np.eye(4), _NOWHERE)
    native = np.uint8 if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    return Volume(np.array(array.reshape(grid.shape), dtype=native), grid.to_world, grid.remarks)
