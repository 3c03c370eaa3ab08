"""Arrays of an .npz file, checked against what the file can hold before memory is taken for them."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.grids import Array
from ssl_med.spec import SslMedError

_DEFLATE = 1032  # bytes that one byte of a zip file stands for at most


def npz_keys(path: Path) -> set[str]:
    """Names of the arrays of a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None


def npz_header(path: Path, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array without decoding it."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            entry = archive.getinfo(f"{key}.npy")
            need, holds = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
            # numpy takes the memory first; the sum of an array that is longer than its header says would not be compared
            if need != holds or entry.file_size > _DEFLATE * max(entry.compress_size, 1) + 1024:
                raise ValueError(f"the header of {key} asks for {need} bytes, {holds} are there")
    except KeyError:
        raise SslMedError(f"{path}: holds no {key}; is it in the layout of MedMNIST?") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from None
    return shape, dtype


def npz_array(path: Path, key: str) -> Array:
    """One array of the file, decoded."""
    npz_header(path, key)
    try:
        with np.load(path) as arrays:
            array: Array = arrays[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from None
    return array


def _damaged(path: Path, error: Exception) -> SslMedError:
    return SslMedError(f"{path}: is truncated or no .npz file ({error}); download it again")
