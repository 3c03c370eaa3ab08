"""Files of numpy arrays: read without pickles, and no larger in memory than a file of weights can be."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from ssl_med.reading import MB, UnreadableError, check_content, shown
from ssl_med.spec import first_line
from ssl_med.weights.core.archives import check_archive

_FACTOR, _SMALL = 20, 64 * MB  # weights are noise and hardly shrink; small files may, such as one of zeros
NUMBERS = "fiubc"  # kinds of arrays that are tensors
_TEXT = "US"
_WIDEST = 8  # bytes of a real number that torch has


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name: numbers in this machine's order of bytes, and text.

    Raises:
        UnreadableError: damaged, one that claims more than it holds or unpacks to much more, one with Python objects, or with
            numbers that torch does not have.
    """
    check_content(path)
    try:
        if not check_archive(path, factor=_FACTOR, least=_SMALL):
            raise UnreadableError("is no file of numpy's savez; download it again")
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                _check_claim(archive, record)
        with np.load(path, allow_pickle=False) as held:
            return {name: _native(name, held[name]) for name in held.files}
    except UnreadableError:
        raise
    except Exception as error:  # numpy and zipfile have many errors for damaged files
        if "pickle" in str(error):
            raise UnreadableError("holds Python objects, which would run code; save plain arrays of numbers") from None
        raise UnreadableError(f"is not a readable file of arrays ({first_line(error)[:120]})") from None


def _check_claim(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Compares the shape in an array's head with its size, before memory is taken for it."""
    if not record.filename.endswith(".npy"):
        raise UnreadableError(f"holds {shown(record.filename)}, which is no array")
    with archive.open(record) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > record.file_size:
        raise UnreadableError(f"array {shown(record.filename)} claims {math.prod(shape)} values, more than it holds")


def _native(name: str, array: np.ndarray) -> np.ndarray:
    """An array of numbers as torch takes it; text as it is."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind in _TEXT:
        return array
    if kind not in NUMBERS or size > _WIDEST * (1 + (kind == "c")):
        raise UnreadableError(f"array {shown(name)} is of {array.dtype}, which torch does not have; save it as float32")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
