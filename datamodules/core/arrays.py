"""One array of the store: compressed chunks, each with its sum, so that a window is read without the rest."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.core.checked import word_sum
from datamodules.core.intensity import is_small
from datamodules.formats.grids import Array
from ssl_med.files import CannotWriteError, new_file
from ssl_med.spec import SslMedError, first_line

# measured in docs/data_engine.md: small blocks, because a crop decodes each block that it touches as a whole
_CHUNK = {3: (64, 64, 32), 2: (256, 256)}
_BLOCK = {3: (32, 32, 16), 2: (64, 64)}
_LEVELS = 1 << 16  # distinct values that 16-bit indices name


@dataclass(frozen=True)
class ArrayRecord:
    """One array file.

    * name, nbytes: the file. * dtype: of the stored numbers. * meta: checksum of what the file holds beside them.
    * low, high, mean: of the raw values.
    """

    name: str
    nbytes: int
    dtype: str
    meta: int
    low: float
    high: float
    mean: float


class StoredArray:
    """An array file: windows of it, each chunk checked against its sum when it is first touched.

    * palette: the values that the stored numbers encode; None: they are the values.
    * values, counts: histogram of the raw values, when there are few enough of them; else None.
    """

    def __init__(self, path: Path, record: ArrayRecord, *, source: str) -> None:
        import blosc2

        self.path, self.name, self.source = path, record.name, source
        try:
            self._array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
            meta = self._array.schunk.vlmeta["ssl_med"]
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            raise self._damaged(f"cannot be opened ({first_line(error)})") from None
        if zlib.crc32(b"".join(meta)) != record.meta:
            raise self._damaged("has a damaged description")
        sums, values, counts, palette = meta
        self._sums = np.frombuffer(sums, np.uint64)
        self.shape, self.dtype = tuple(self._array.shape), self._array.dtype
        self.values = np.frombuffer(values, np.float64) if values else None
        self.counts = np.frombuffer(counts, np.int64) if values else None
        self.palette = self.values if palette else None
        self._chunks = tuple(self._array.chunks)
        self._grid = tuple(-(-n // c) for n, c in zip(self.shape, self._chunks, strict=True))
        self._good = np.zeros(self._grid, bool)

    def read(self, low: Sequence[int], high: Sequence[int]) -> Array:
        """Stored numbers of the box [low, high), which lies inside and is not empty."""
        first = [a // c for a, c in zip(low, self._chunks, strict=True)]
        last = [-(-b // c) for b, c in zip(high, self._chunks, strict=True)]
        touched = self._good[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
        if not touched.all():
            for place in np.argwhere(~touched):
                self._check(int(np.ravel_multi_index(tuple(place + first), self._grid)))
            touched[...] = True
        try:
            window: Array = self._array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        except RuntimeError as error:
            raise self._damaged(f"cannot be decompressed ({first_line(error)})") from None
        return window

    def touched(self, low: Sequence[int], high: Sequence[int]) -> int:
        """File bytes of the chunks that the box [low, high) lies in."""
        first = [a // c for a, c in zip(low, self._chunks, strict=True)]
        ends = [-(-b // c) for b, c in zip(high, self._chunks, strict=True)]
        places = np.indices([b - a for a, b in zip(first, ends, strict=True)]).reshape(len(first), -1)
        numbers = np.ravel_multi_index(tuple(places + np.array(first)[:, None]), self._grid)
        return sum(len(self._array.schunk.get_chunk(int(number))) for number in numbers)

    def slabs(self) -> Iterator[Array]:
        """All of it, a chunk's rows at a time."""
        rows, *rest = self.shape
        for row in range(0, rows, self._chunks[0]):
            yield self.read([row, *(0 for _ in rest)], [min(row + self._chunks[0], rows), *rest])

    def _check(self, number: int) -> None:
        try:
            good = word_sum(self._array.schunk.get_chunk(number)) == int(self._sums[number])
        except (RuntimeError, IndexError) as error:
            raise self._damaged(f"chunk {number} cannot be read ({first_line(error)})") from None
        if not good:
            raise self._damaged(f"chunk {number} is damaged")

    def _damaged(self, what: str) -> SslMedError:
        return SslMedError(
            f"{self.path}: {what}, it holds {self.source}; remove the file and run `ssl-med prepare` again"
        )


_LARGE = 1 << 24  # bytes that show whether there is room


def write_array(folder: Path, name: str, array: Array) -> ArrayRecord:
    """Compresses an array, a chunk's rows at a time, into arrays/ab/<name>.b2nd; whole numbers as such, others exactly.

    Other numbers become places in a list of up to 65,536 values, else float32 when that holds them, else float64.

    Raises:
        SslMedError: it cannot be written.
    """
    path = folder / "arrays" / name[:2] / f"{name}.b2nd"
    with new_file(path) as part:
        try:
            record = _write(part, name, array)
        except RuntimeError as error:  # blosc2 does not say what the system said; whoever writes plainly hears it
            part.write_bytes(bytes(min(array.nbytes, _LARGE)))
            raise CannotWriteError(
                f"cannot write {path}: {error}; free space there, or raise the limit of file sizes (ulimit -f), and the same "
                "command goes on"
            ) from None
    return record


def _write(part: Path, name: str, array: Array) -> ArrayRecord:
    """Writes an array to the file `part`."""
    import blosc2

    blosc2.set_nthreads(1)
    dtype, palette = _stored_as(array)
    dims = array.ndim
    chunks = tuple(min(n, c) for n, c in zip(array.shape, _CHUNK[dims], strict=True))
    blocks = tuple(min(n, b) for n, b in zip(chunks, _BLOCK[dims], strict=True))
    wide = dtype.itemsize > 1
    settings = blosc2.CParams(
        codec=blosc2.Codec.LZ4HC,
        clevel=6,
        filters=[blosc2.Filter.SHUFFLE if wide else blosc2.Filter.NOFILTER],
        filters_meta=[0],
        nthreads=1,
        typesize=dtype.itemsize,
    )
    stored = blosc2.empty(
        array.shape, dtype, chunks=chunks, blocks=blocks, cparams=settings, urlpath=str(part), mode="w", contiguous=True
    )
    small = is_small(dtype)
    counts = np.zeros(1 << 8 * dtype.itemsize, np.int64) if small else None
    total, low, high = 0.0, math.inf, -math.inf
    for row in range(0, array.shape[0], chunks[0]):
        slab = np.ascontiguousarray(array[row : row + chunks[0]])
        total += float(slab.sum(dtype=np.float64))
        low, high = min(low, float(slab.min())), max(high, float(slab.max()))
        numbers = _indices(slab, palette) if palette is not None else slab.astype(dtype, copy=False)
        if counts is not None:
            for plane in numbers:  # plane by plane, because counting widens its input to eight bytes
                counts += np.bincount(plane.ravel().view(f"u{dtype.itemsize}"), minlength=counts.size)
        stored[row : row + chunks[0]] = numbers
    sums = np.array([word_sum(stored.schunk.get_chunk(k)) for k in range(stored.schunk.nchunks)], np.uint64)
    meta = [sums.tobytes(), *_levels(counts, dtype, palette)]
    stored.schunk.vlmeta["ssl_med"] = meta
    del stored
    mean = total / array.size
    return ArrayRecord(name, part.stat().st_size, dtype.str, zlib.crc32(b"".join(meta)), low, high, mean)


def _levels(counts: Array | None, dtype: np.dtype[Any], palette: Array | None) -> list[bytes]:
    if counts is None:
        return [b"", b"", b""]
    if palette is not None:
        return [palette.tobytes(), counts[: palette.size].tobytes(), b"1"]
    found = np.flatnonzero(counts)
    values = found.astype(f"u{dtype.itemsize}").view(dtype)
    order = np.argsort(values)
    return [values[order].astype(np.float64).tobytes(), counts[found[order]].tobytes(), b""]


def _stored_as(array: Array) -> tuple[np.dtype[Any], Array | None]:
    """Narrowest exact type, and the list of values when places in it are stored."""
    if array.dtype.kind in "iub":
        return _whole(int(array.min()), int(array.max())), None
    parts = [array[row : row + 1] for row in range(array.shape[0])]
    if all(bool((part == np.rint(part)).all()) for part in parts):
        low, high = float(array.min()), float(array.max())
        found = _whole(int(low), int(high))
        if found.itemsize <= 2:
            return found, None
    palette: Array = np.zeros(0, array.dtype)
    for part in parts:
        palette = np.union1d(palette, part)
        if palette.size > _LEVELS:
            break
    else:
        return np.dtype(np.uint16), palette.astype(np.float64)
    exact = array.dtype.itemsize <= 4 or all(np.array_equal(part.astype(np.float32), part) for part in parts)
    return np.dtype(np.float32 if exact else np.float64), None


def _whole(low: int, high: int) -> np.dtype[Any]:
    for name in ("u1", "i2", "u2", "i4", "u4", "i8"):
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return np.dtype(name)
    return np.dtype("u8")


def _indices(slab: Array, palette: Array) -> Array:
    return np.stack([np.searchsorted(palette, plane).astype(np.uint16) for plane in slab])
