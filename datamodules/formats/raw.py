"""Voxels that lie one after the other in a file that a header of text describes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.grids import Header, Volume
from ssl_med.spec import SslMedError


def count_bytes(grid: Header, dtype: np.dtype[Any]) -> int:
    """Bytes of the voxels of a grid."""
    return math.prod(grid.shape) * dtype.itemsize


def data_bytes(data: Path, *, skip: int, packed: bool, need: int) -> bytes:
    """What follows the first `skip` bytes of a file; -1: its last `need` bytes."""
    with open(data, "rb") as file:
        if skip >= 0:
            file.seek(skip)
        elif not packed:
            file.seek(max(0, data.stat().st_size - need))
        return file.read()


def volume_of(content: bytes, grid: Header, dtype: np.dtype[Any], *, path: str, data: Path) -> Volume:
    """Bytes of the file `data`, whose header is `path`, as a volume; refuses another number of them than the header says."""
    need = count_bytes(grid, dtype)
    if len(content) != need:
        raise SslMedError(
            f"{data}: holds {len(content)} bytes but {Path(path).name} says {need} "
            f"({'x'.join(map(str, grid.shape))} of {dtype.itemsize} bytes); download it again"
        )
    # the first axis runs fastest on disk
    array = np.frombuffer(content, dtype).reshape(grid.shape, order="F")
    return Volume(array.astype(dtype.newbyteorder("="), copy=False), grid.to_world)
