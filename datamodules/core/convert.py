"""From the files of one case to its items in the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from datamodules.core.arrays import ArrayRecord, write_array
from datamodules.core.base import MedicalData
from datamodules.core.geometry import spacing_of
from datamodules.core.lazy import label_rows
from datamodules.core.store import FORMAT, Item, Record, Store, content_hash, digest
from datamodules.formats.grids import Header
from ssl_med.spec import SslMedError


def items_of(data: MedicalData, case: Any) -> list[Item]:
    """What is to be kept of a case: a label map in quarantine is left out, its image is not."""
    items = data.items(case, labels=True)
    return [item for item in items if not any(data.quarantine.find(path) for path in item.files)]


def convert(store: Store, data: MedicalData, case: Any) -> Iterator[tuple[str, Record]]:
    """Writes what the store lacks of a case; each new record with its key, also added to `store.records`.

    One array is in memory at a time, and what is derived from it is made in slabs.

    Raises:
        SslMedError: a file of the case cannot be used; what came before it is kept.
    """
    grid: Header | None = None
    for item in items_of(data, case):
        key = item.key(store.root)
        if not store.current(item):
            store.records[key] = _convert(store, data, case, item, grid)
            yield key, store.records[key]
        record = store.records[key]
        grid = Header(tuple(record.source_shape), np.array(record.source_to_world))


def _convert(store: Store, data: MedicalData, case: Any, item: Item, grid: Header | None) -> Record:
    signature = item.signature()  # before reading: a file that changes meanwhile is converted again
    before = store.records.get(item.key(store.root))
    known = {array.name: array for array in before.arrays} if before else {}
    hashes, arrays = [], []
    for source in data.contents(case, item, grid):
        hashes.append(content_hash(source))
        placed = data.place(source, nearest=item.kind == "labels")
        name = digest(FORMAT, hashes[-1], store.settings)
        arrays.append(_kept(store, known.get(name)) or write_array(store.folder, name, placed.array))
        if item.kind == "labels":
            name = digest("rows", name)
            arrays.append(_kept(store, known.get(name)) or write_array(store.folder, name, label_rows(placed.array)))
        grid, to_world, shape = source.grid, placed.to_world, placed.array.shape
        del source, placed
    if not arrays or grid is None:
        raise SslMedError(f"{item.files[0]}: holds no array")
    return Record(
        signature=signature,
        sha256=hashes,
        source_shape=list(grid.shape),
        source_to_world=grid.to_world.tolist(),
        shape=list(shape),
        spacing=list(spacing_of(to_world)),
        to_world=to_world.tolist(),
        arrays=arrays,
    )


def _kept(store: Store, array: ArrayRecord | None) -> ArrayRecord | None:
    """The array when its file is there: the source was touched, not changed."""
    return array if array is not None and store.intact(array) else None


def derive(data: MedicalData, case: Any) -> str:
    """Makes start tables and resized images of a case by taking its first training sample; why there is none, else ''."""
    dataset: Any = data.dataset([case], part="train")
    try:
        dataset[(0, 0)]
    except SslMedError as error:
        return str(error)
    return ""
