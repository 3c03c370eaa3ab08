"""The prepared store: oriented raw voxels in compressed chunks, and a manifest that says of what they were made.

    manifest.json              format, data set, settings, and one record per item
    arrays/ab/<content>.b2nd   one array per channel, label map or film
    derived/ab/<key>.npy       what training computes from them once: start tables, resized films

An item is what one case reads together: the channels of a scan, its label map, a film. Its key hashes the paths of its
files below data.root, so that no name of a patient is in the store; arrays are named by the hash of what they hold and of
the settings, so that a changed source or setting never finds an old array.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.core.intensity import is_small
from datamodules.core.readers import Array, Volume, source_files
from ssl_med.spec import SslMedError

FORMAT = 1
MANIFEST, JOURNAL, LOCK = "manifest.json", "journal.jsonl", ".lock"
# measured in docs/data_engine.md: small blocks, because a crop decodes each block that it touches as a whole
_CHUNK = {3: (64, 64, 32), 2: (256, 256)}
_BLOCK = {3: (32, 32, 16), 2: (64, 64)}
_OPEN = 256  # files open at a time, well below the usual limit of 1024
_LEVELS = 1 << 16  # distinct values that 16-bit indices name


@dataclass(frozen=True)
class Item:
    """Files that are read together: the channels of a scan; a label map and the image that it lies on; a film."""

    kind: Literal["image", "labels", "film"]
    files: tuple[str, ...]

    def key(self, root: str) -> str:
        """Name in the manifest; the same wherever the root lies."""
        return digest(self.kind, *(os.path.relpath(path, root) for path in self.files))

    def signature(self) -> list[list[int]]:
        """Size and time of every file: what a changed source betrays itself by."""
        found = []
        for path in (file for name in self.files for file in source_files(name)):
            try:
                status = path.stat()
            except OSError as error:
                raise SslMedError(f"{path}: cannot be read ({error.strerror})") from None
            found.append([status.st_size, status.st_mtime_ns])
        return found


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


@dataclass(frozen=True)
class Record:
    """What the store holds of an item.

    * signature: of the source files. * sha256: of voxels and geometry of each array of the source.
    * source_shape, source_to_world: its grid. * shape, spacing, to_world: after orientation and resampling (LPS, mm).
    """

    signature: list[list[int]]
    sha256: list[str]
    source_shape: list[int]
    source_to_world: list[list[float]]
    shape: list[int]
    spacing: list[float]
    to_world: list[list[float]]
    arrays: list[ArrayRecord]

    @classmethod
    def of(cls, tree: dict[str, Any]) -> Record:
        """Inverse of `asdict`."""
        return cls(**{**tree, "arrays": [ArrayRecord(**array) for array in tree["arrays"]]})


class Store:
    """A folder with prepared items.

    Args:
        folder: where.
        root: data.root, the folder of the sources.
        data: name of the data set.
        settings: what the arrays depend on besides the sources.
    """

    def __init__(self, folder: Path, *, root: str, data: str, settings: dict[str, Any]) -> None:
        self.folder, self.root, self.data, self.settings = folder, root, data, settings
        self.records: dict[str, Record] = {}
        self.derived_for: list[str] = []
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._kept: dict[str, Array] = {}

    @classmethod
    def open(cls, folder: Path, *, root: str, data: str, settings: dict[str, Any]) -> Store:
        """For reading; refuses a folder that is no finished store of this data set with these settings."""
        store = cls(folder, root=root, data=data, settings=settings)
        if not (folder / MANIFEST).is_file():
            if (folder / JOURNAL).is_file():
                raise SslMedError(f"data.store={folder}: is not finished; run the same `ssl-med prepare` again")
            raise SslMedError(
                f"data.store={folder}: is no store; make one: ssl-med prepare data={data} data.root={root} store={folder}"
            )
        store.read_manifest()
        return store

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    # --- manifest ------------------------------------------------------------------------------------------------

    def header(self) -> dict[str, Any]:
        """What all items share."""
        return {"format": FORMAT, "data": self.data, "settings": self.settings}

    def _check(self, tree: dict[str, Any], path: Path) -> None:
        """Refuses another format, data set or settings."""
        if tree["format"] != FORMAT:
            raise SslMedError(f"{path}: has format {tree['format']}, this version reads {FORMAT}; prepare a new store")
        if tree["data"] != self.data:
            raise SslMedError(f"{path}: was prepared for data={tree['data']}, not {self.data}; choose another folder")
        for key, value in self.settings.items():
            if tree["settings"].get(key) != value:
                raise SslMedError(
                    f"{path}: was prepared with data.{key}={json.dumps(tree['settings'].get(key))}, now it is "
                    f"{json.dumps(value)}; set it alike, or prepare another store"
                )

    def read_manifest(self) -> None:
        """Takes over the records on disk; refuses another format, data set or settings."""
        path = self.folder / MANIFEST
        try:
            tree = json.loads(path.read_text())
            self._check(tree, path)
            self.records = {key: Record.of(record) for key, record in tree["items"].items()}
            self.derived_for = list(tree["derived_for"])
        except SslMedError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SslMedError(
                f"{path}: is no manifest ({_line(error)}); remove the folder and prepare it again"
            ) from None

    def write_manifest(self) -> None:
        """All records at once, by rename."""
        items = {key: asdict(record) for key, record in sorted(self.records.items())}
        tree = {**self.header(), "derived_for": self.derived_for, "items": items}
        write_atomic(self.folder / MANIFEST, json.dumps(tree).encode())

    def read_journal(self) -> None:
        """Takes over what an interrupted `prepare` had finished; a line that was cut off is left out."""
        path = self.folder / JOURNAL
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        try:
            trees = [json.loads(line) for line in lines]
            if trees:
                self._check(trees[0], path)
            for tree in trees[1:]:
                self.records.update({key: Record.of(record) for key, record in tree.items()})
        except SslMedError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SslMedError(f"{path}: is damaged ({_line(error)}); remove it and prepare again") from None

    def current(self, item: Item) -> bool:
        """Whether the item is here, made from the files as they are now, with arrays of the recorded size."""
        record = self.records.get(item.key(self.root))
        return (
            record is not None
            and record.signature == item.signature()
            and all(self.intact(array) for array in record.arrays)
        )

    def intact(self, array: ArrayRecord) -> bool:
        """Whether the array's file is there with its recorded size."""
        return _size(self.array_path(array)) == array.nbytes

    def require(self, items: Sequence[Item]) -> None:
        """Refuses to read when an item is missing or its source was changed since."""
        missing = [item for item in items if item.key(self.root) not in self.records]
        remedy = f"run `ssl-med prepare data={self.data} data.root={self.root} store={self.folder}` again"
        if missing:
            raise SslMedError(
                f"data.store={self.folder}: does not hold {missing[0].files[0]} ({len(missing)} of {len(items)} are missing); "
                f"{remedy}"
            )
        stale = [item for item in items if not self.current(item)]
        if stale:
            raise SslMedError(
                f"data.store={self.folder}: is stale, {stale[0].files[0]} or its array was changed since "
                f"({len(stale)} of {len(items)}); {remedy}"
            )

    # --- arrays --------------------------------------------------------------------------------------------------

    def array_path(self, array: ArrayRecord) -> Path:
        """File of an array."""
        return self.folder / "arrays" / array.name[:2] / f"{array.name}.b2nd"

    def record(self, item: Item) -> Record:
        """What is held of an item that `require` found."""
        return self.records[item.key(self.root)]

    def array(self, record: ArrayRecord, source: str) -> StoredArray:
        """An array, its file kept open; `source` names it in messages."""
        opened: StoredArray = self._opened(
            record.name, lambda: StoredArray(self.array_path(record), record, source=source)
        )
        return opened

    def whole(self, item: Item) -> Array:
        """The first array of an item, decompressed."""
        stored = self.array(self.record(item).arrays[0], item.files[0])
        numbers = np.concatenate(list(stored.slabs()))
        return numbers if stored.palette is None else stored.palette[numbers]

    def drop_damaged(self, item: Item) -> None:
        """Decompresses all arrays of an item; forgets the item when one is damaged."""
        record = self.records.get(item.key(self.root))
        try:
            for array in record.arrays if record else []:
                for _ in StoredArray(self.array_path(array), array, source=item.files[0]).slabs():
                    pass
        except SslMedError:
            self.array_path(array).unlink(missing_ok=True)
            del self.records[item.key(self.root)]

    def _opened(self, name: str, opener: Callable[[], Any]) -> Any:
        if name not in self._open:
            self._open[name] = opener()
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]

    # --- what is computed once -----------------------------------------------------------------------------------

    def derived(self, key: str, compute: Callable[[], Array]) -> Array:
        """An array mapped from disk, or computed and kept there for all later runs; `key` digests what it depends on.

        Where the folder cannot be written it is kept in memory. A damaged file is made anew.
        """
        if key in self._kept:
            return self._kept[key]
        found: Array | None = self._opened(key, lambda: _read_checked(self._derived_path(key)))
        if found is None:
            del self._open[key]
            found = compute()
            try:
                write_atomic(self._derived_path(key), _checked(found))
            except OSError:
                self._kept[key] = found
        return found

    def _derived_path(self, key: str) -> Path:
        return self.folder / "derived" / key[:2] / f"{key}.npy"


class StoredArray:
    """An array file: windows of it, each chunk checked against its sum when it is first touched.

    * palette: the values that the stored numbers stand for; None: they are the values.
    * values, counts: histogram of the raw values, when there are few enough of them; else None.
    """

    def __init__(self, path: Path, record: ArrayRecord, *, source: str) -> None:
        import blosc2

        self.path, self.name, self.source = path, record.name, source
        try:
            self._array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
            meta = self._array.schunk.vlmeta["ssl_med"]
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            raise self._damaged(f"cannot be opened ({_line(error)})") from None
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
            raise self._damaged(f"cannot be decompressed ({_line(error)})") from None
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
            good = _word_sum(self._array.schunk.get_chunk(number)) == int(self._sums[number])
        except (RuntimeError, IndexError) as error:
            raise self._damaged(f"chunk {number} cannot be read ({_line(error)})") from None
        if not good:
            raise self._damaged(f"chunk {number} is damaged")

    def _damaged(self, what: str) -> SslMedError:
        return SslMedError(
            f"{self.path}: {what}, it holds {self.source}; remove the file and run `ssl-med prepare` again"
        )


def write_array(folder: Path, name: str, array: Array) -> ArrayRecord:
    """Compresses an array, a chunk's rows at a time, into arrays/ab/<name>.b2nd; whole numbers as such, others exactly.

    Other numbers become places in a list of up to 65,536 values, else float32 when that holds them, else float64.
    """
    import blosc2

    blosc2.set_nthreads(1)
    dtype, palette = _stored_as(array)
    dims = array.ndim
    path = folder / "arrays" / name[:2] / f"{name}.b2nd"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
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
    sums = np.array([_word_sum(stored.schunk.get_chunk(k)) for k in range(stored.schunk.nchunks)], np.uint64)
    meta = [sums.tobytes(), *_levels(counts, dtype, palette)]
    stored.schunk.vlmeta["ssl_med"] = meta
    del stored
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    mean = total / array.size
    return ArrayRecord(name, path.stat().st_size, dtype.str, zlib.crc32(b"".join(meta)), low, high, mean)


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


def content_hash(volume: Volume) -> str:
    """sha256 of the voxels (first axis fastest, little-endian), their type and shape, and the geometry."""
    array = volume.array
    dtype = array.dtype.newbyteorder("<")
    code = hashlib.sha256(f"{dtype.str}{array.shape}".encode())
    code.update(np.ascontiguousarray(volume.to_world, "<f8").tobytes())
    for plane in np.moveaxis(array, -1, 0):  # files store the first axis fastest: no copy of the volume
        code.update(np.ascontiguousarray(plane.T).astype(dtype, copy=False).data)
    return code.hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """A file that is there as a whole or not at all, whatever kills the process or the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _checked(array: Array) -> bytes:
    """As .npy, and the sum of all before as the last eight bytes."""
    import io

    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    content = file.getvalue()
    return content + _word_sum(content).to_bytes(8, "little")


def _read_checked(path: Path) -> Array | None:
    try:
        content = np.memmap(path, np.uint8, mode="r")
        if _word_sum(content[:-8]) != int(content[-8:].view(np.uint64)[0]):
            return None
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return array


def _word_sum(content: Any) -> int:
    """Sum of the 64-bit words modulo 2^64: finds a changed word at the speed of memory, some ten times that of a CRC."""
    octets = np.frombuffer(content, np.uint8)
    whole = octets.size // 8 * 8
    rest = int.from_bytes(octets[whole:].tobytes(), "little")
    return (int(octets[:whole].view(np.uint64).sum(dtype=np.uint64)) + rest) & 0xFFFFFFFFFFFFFFFF


def digest(*parts: Any) -> str:
    """32 hex digits that name what the parts (plain JSON types) say."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
