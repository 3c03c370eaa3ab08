"""The prepared store: oriented raw voxels in compressed chunks, and a manifest that says of what they were made.

    manifest.json              format, data set, settings, and one record per item
    arrays/ab/<content>.b2nd   one array per channel, label map or image
    derived/ab/<key>.npy       what training computes from them once: start tables, resized images

An item is what one case reads together: the channels of a scan, its label map, an image. Its key hashes the paths of its
files below data.root, so that no name of a patient is in the store; arrays are named by the hash of what they hold and of
the settings, so that a changed source or setting never finds an old array.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.core.arrays import ArrayRecord, StoredArray
from datamodules.core.checked import checked, read_checked, write_atomic
from datamodules.core.content import sampled
from datamodules.core.readers import source_files
from datamodules.formats.grids import Array, Volume
from ssl_med.reading import MB, UnreadableError, mismatch, parse_json, read_json, read_text
from ssl_med.spec import SslMedError, first_line

FORMAT = 2  # 2: channels and masks on one grid, images with their own numbers
MANIFEST, JOURNAL, LOCK = "manifest.json", "journal.jsonl", ".lock"
_LARGEST = 1024 * MB  # of a manifest or journal
_OPEN = 256  # files open at a time, well below the usual limit of 1024


@dataclass(frozen=True)
class Item:
    """Files that are read together: the channels of a scan; a label map and the image that it lies on; an image."""

    kind: Literal["image", "labels", "film"]  # film: any 2D image; the word is part of the keys of existing stores
    files: tuple[str, ...]

    def key(self, root: str) -> str:
        """Name in the manifest; the same wherever the root lies."""
        return digest(self.kind, *(os.path.relpath(path, root) for path in self.files))

    def signature(self) -> list[list[int]]:
        """Size, time and a digest of samples of every file: what a changed source betrays itself by."""
        found = []
        for path in (file for name in self.files for file in source_files(name)):
            try:
                status = path.stat()
                found.append([status.st_size, status.st_mtime_ns, sampled(path, status.st_size)])
            except OSError as error:
                raise SslMedError(f"{path}: cannot be read ({error.strerror})") from None
        return found


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
        """Inverse of `asdict`.

        Raises:
            UnreadableError: the tree has other keys or types.
        """
        if wrong := mismatch(cls, tree, "record"):
            raise UnreadableError(wrong)
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
        # loader processes open files of their own: positions of a shared descriptor would move under each other's feet
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
            tree = read_json(path, limit=_LARGEST)
            self._check(tree, path)
            self.records = {key: Record.of(record) for key, record in tree["items"].items()}
            self.derived_for = list(tree["derived_for"])
        except SslMedError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SslMedError(
                f"{path}: is no manifest ({first_line(error)}); remove the folder and prepare it again"
            ) from None

    def write_manifest(self) -> None:
        """All records at once, by rename."""
        items = {key: asdict(record) for key, record in sorted(self.records.items())}
        tree = {**self.header(), "derived_for": self.derived_for, "items": items}
        write_atomic(self.folder / MANIFEST, json.dumps(tree).encode())

    def read_journal(self) -> None:
        """Takes over what an interrupted `prepare` had finished; a line that was cut off is left out."""
        path = self.folder / JOURNAL
        try:
            lines = read_text(path, limit=_LARGEST).split("\n")[:-1] if path.exists() else []
            trees = [parse_json(line) for line in lines]
            if trees:
                self._check(trees[0], path)
            for tree in trees[1:]:
                self.records.update({key: Record.of(record) for key, record in tree.items()})
        except SslMedError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SslMedError(f"{path}: is damaged ({first_line(error)}); remove it and prepare again") from None

    def current(self, item: Item) -> bool:
        """Whether the item is here, made from the files as they are now, with arrays of the recorded size."""
        record = self.records.get(item.key(self.root))
        return (
            record is not None
            and _same(record.signature, item.signature())
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
        """What `opener` makes, remembered while it is among the last `_OPEN` used: a system lends a process few open files."""
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
        found: Array | None = self._opened(key, lambda: read_checked(self._derived_path(key)))
        if found is None:
            del self._open[key]
            found = compute()
            try:
                write_atomic(self._derived_path(key), checked(found))
            except (OSError, SslMedError):
                self._kept[key] = found
        return found

    def _derived_path(self, key: str) -> Path:
        return self.folder / "derived" / key[:2] / f"{key}.npy"


def content_hash(volume: Volume) -> str:
    """sha256 of the voxels (first axis fastest, little-endian), their type and shape, and the geometry."""
    array = volume.array
    dtype = array.dtype.newbyteorder("<")
    code = hashlib.sha256(f"{dtype.str}{array.shape}".encode())
    code.update(np.ascontiguousarray(volume.to_world, "<f8").tobytes())
    for plane in np.moveaxis(array, -1, 0):  # files store the first axis fastest: no copy of the volume
        code.update(np.ascontiguousarray(plane.T).astype(dtype, copy=False).data)
    return code.hexdigest()


def _same(recorded: list[list[int]], now: list[list[int]]) -> bool:
    """Whether files are as recorded; stores of version 0.1 recorded size and time alone."""
    return len(recorded) == len(now) and all(old == new[: len(old)] for old, new in zip(recorded, now, strict=True))


def digest(*parts: Any) -> str:
    """32 hex digits that name what the parts (plain JSON types) say."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
