"""What a plan needs to know of a scan with its mask: its grid, the box that is not empty, and intensities of the foreground."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.core.base import MedicalData
from datamodules.core.geometry import reorient, spacing_of
from datamodules.core.store import Item, digest
from datamodules.doctor.pool import spread
from datamodules.formats.grids import Array, Header, Volume
from ssl_med.spec import SslMedError

_SAMPLED = 10_000  # foreground voxels of a scan and channel


@dataclass(frozen=True)
class Extent:
    """Of one scan, axes in the order of the data: voxel size in mm, voxels, and (C, n) intensities of the foreground.

    Where zeros are background, as in MR, `shape` is that of the box that is not 0, which has the `share` of the scan's volume;
    else of the whole scan.
    """

    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    foreground: Array
    share: float = 1.0


def extents(data: MedicalData, cases: Sequence[Any], *, workers: int) -> Iterator[tuple[Any, Extent]]:
    """(case, extent) of each case, in any order; from a store in this process.

    Args:
        data: after `setup`.
        cases: of it.
        workers: processes that read files.

    Raises:
        SslMedError: a file cannot be read.
    """
    light = copy.copy(data)  # what a process needs of it: lists of cases stay here
    light.parts, light.unused, light.unbudgeted = {}, {}, []
    tasks = ((light, case) for case in cases)
    for (_, case), found in spread(_safely, tasks, workers=0 if workers == 1 or data.store is not None else workers):
        if found is None:
            raise SslMedError("plan: a process was killed, perhaps for want of memory; give fewer workers=N")
        if isinstance(found, str):
            raise SslMedError(found)
        yield case, found


def _safely(data: MedicalData, case: Any) -> Extent | str:
    try:
        return extent(data, case)
    except (SslMedError, OSError) as error:
        return str(error)


def extent(data: MedicalData, case: Any) -> Extent:
    """Of one case, from the store where there is one; there the voxels are sampled once and for all."""
    image, *masks = data.items(case, labels=True)
    if data.store is None:
        volumes = list(data.contents(case, image, None))
        native = volumes[0].grid
        arrays = [data.place(volume).array for volume in volumes]
        found = _measured(data, arrays, lambda: _foreground(data, case, masks, native))
    else:
        record = data.store.record(image)
        native = Header(tuple(record.source_shape), np.array(record.source_to_world))
        names = [array.name for item in (image, *masks) for array in data.store.record(item).arrays]
        store = data.store

        def read() -> Array:
            arrays = [np.concatenate(list(store.array(array, image.files[0]).slabs())) for array in record.arrays]
            return _measured(data, arrays, lambda: _foreground(data, case, masks, native))

        found = store.derived(digest("extent", _SAMPLED, data.spec.class_names, names), read)
    dims, channels = data.spec.spatial_dims, data.spec.in_channels
    shares, values = found[:dims], found[dims:].reshape(channels, (len(found) - dims) // channels)
    grid = native if dims == 2 else _oriented(native, data.config.orientation)
    shape = tuple(max(1, round(side * share)) for side, share in zip(grid.shape, shares.tolist(), strict=True))
    return Extent(spacing_of(grid.to_world)[:dims], shape, values, float(np.prod(shares)))


def _oriented(grid: Header, codes: str) -> Header:
    """The grid with its axes in the order of the data."""
    return reorient(Volume(np.broadcast_to(np.uint8(0), tuple(grid.shape)), grid.to_world), codes).grid


def _measured(data: MedicalData, arrays: list[Array], foreground: Callable[[], Array]) -> Array:
    """Share of each axis that is not empty, then sampled foreground intensities of each channel, in one row (float64)."""
    shares = np.ones(data.spec.spatial_dims)
    if data.spec.intensity.kind == "percentile":  # zeros are background
        some = np.any([array != 0 for array in arrays], axis=0)
        for axis in range(some.ndim):
            used = np.flatnonzero(some.any(axis=tuple(a for a in range(some.ndim) if a != axis)))
            shares[axis] = (used[-1] - used[0] + 1) / some.shape[axis] if used.size else 1.0
        return shares
    if data.spec.intensity.unit != "HU":
        return shares
    places = np.flatnonzero(foreground())
    if places.size > _SAMPLED:
        places = np.sort(np.random.default_rng(places.size).choice(places, _SAMPLED, replace=False))
    return np.concatenate([shares, *(array.ravel()[places].astype(np.float64) for array in arrays)])


def _foreground(data: Any, case: Any, masks: list[Item], native: Header) -> Array:
    """Whether a voxel belongs to any class of the task."""
    if not masks:
        return np.zeros(0, bool)
    if data.store is not None:
        labels = data.store.whole(masks[0])
    else:
        (volume,) = data.contents(case, masks[0], native)
        labels = data.place(volume, nearest=True).array
    region: Array = data.regions(labels.astype(np.uint8), source=case.mask).any(0)
    return region
