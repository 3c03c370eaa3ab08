"""Scans in a store as the datasets see them: windows of codes and masks are read on demand, as if all were in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datamodules.core.arrays import ArrayRecord, StoredArray
from datamodules.core.crops import Size
from datamodules.core.intensity import (
    TOP,
    Norm,
    Scale,
    bits,
    code_counts,
    is_small,
    norm_of_counts,
    percentile_scale,
    scale_of_counts,
    scale_of_values,
    window_scale,
)
from datamodules.core.starts import Starts, TiledStarts, tile_starts, tissue_weight
from datamodules.core.store import FORMAT, Item, Store, digest
from datamodules.core.volumes import Content
from datamodules.formats.grids import Array
from ssl_med.spec import Intensity


class Lazy(ABC):
    """An array (C, *S) that reads what is sliced from it; grown to `size` with zeros where it is smaller.

    Args:
        channels: C.
        inner: S as stored.
        size: least S.
        dtype: of what slicing yields.
    """

    def __init__(self, channels: int, inner: Size, size: Size, dtype: type[np.generic]) -> None:
        self.inner, self.dtype = inner, np.dtype(dtype)
        self.before = tuple(max(0, p - n) // 2 for n, p in zip(inner, size, strict=True))
        self.shape = (channels, *(max(n, p) for n, p in zip(inner, size, strict=True)))
        self.ndim = len(self.shape)

    @property
    def nbytes(self) -> int:
        """Memory held: tables only."""
        return 0

    @abstractmethod
    def part(self, low: Sequence[int], high: Sequence[int]) -> Array:
        """All channels of the box [low, high) of what is stored."""

    # A window is given in the grown array; `before` voxels of zeros precede what is stored. So a window is clipped to what is
    # stored, that box is read, and where it is smaller than the window it is laid into zeros. Steps and lists are not taken:
    # crops never ask for them.

    def __getitem__(self, window: Any) -> Array:
        words = list(window) if isinstance(window, tuple) else [window]
        if Ellipsis in words:
            place = words.index(Ellipsis)
            words[place : place + 1] = [slice(None)] * (self.ndim - len(words) + 1)
        words += [slice(None)] * (self.ndim - len(words))
        channels, space = words[0], words[1:]
        ends = [word.indices(n)[:2] for word, n in zip(space, self.shape[1:], strict=True)]
        low = [max(a - o, 0) for (a, _), o in zip(ends, self.before, strict=True)]
        high = [min(b - o, n) for (_, b), o, n in zip(ends, self.before, self.inner, strict=True)]
        size = tuple(b - a for a, b in ends)
        if any(b <= a for a, b in zip(low, high, strict=True)):
            return np.array(np.zeros((self.shape[0], *size), self.dtype)[channels])
        found = self.part(low, high)
        if found.shape[1:] != size:
            whole = np.zeros((self.shape[0], *size), self.dtype)
            start = [a + o - e for a, o, (e, _) in zip(low, self.before, ends, strict=True)]
            target = (slice(s, s + n) for s, n in zip(start, found.shape[1:], strict=True))
            whole[(slice(None), *target)] = found
            found = whole
        chosen: Array = found[channels]
        return chosen


class LazyCodes(Lazy):
    """Intensity codes (C, *S) uint16 of stored channels.

    Args:
        channels: open the arrays.
        scales: of their raw values.
        size: least S.
    """

    def __init__(self, channels: Sequence[Callable[[], StoredArray]], scales: Sequence[Scale], size: Size) -> None:
        super().__init__(len(channels), channels[0]().shape, size, np.uint16)
        # channels are callables, not arrays: a mapped file cannot travel to a worker process, the way to open it can
        self._channels, self.scales = channels, scales
        self._tables = [_table(channel(), scale) for channel, scale in zip(channels, scales, strict=True)]

    def part(self, low: Sequence[int], high: Sequence[int]) -> Array:
        """Codes of a box."""
        out = np.empty((len(self._channels), *(b - a for a, b in zip(low, high, strict=True))), np.uint16)
        for channel, table, scale, target in zip(self._channels, self._tables, self.scales, out, strict=True):
            _encode(channel().read(low, high), table, scale, target)
        return out

    def counts(self, number: int) -> Array:
        """How often each code occurs in what is stored of a channel, (65536,)."""
        array, scale = self._channels[number](), self.scales[number]
        found = np.zeros(TOP + 1, np.int64)
        if array.values is not None and array.counts is not None:
            np.add.at(found, scale(array.values), array.counts)
            return found
        for slab in array.slabs():
            codes = np.empty(slab.shape, np.uint16)
            _encode(slab, self._tables[number], scale, codes)
            found += code_counts(codes)
        return found

    def planes(self) -> Iterator[Array]:
        """The first channel, one x (y, z) after the other."""
        before, after = self.before[0], self.shape[1] - self.inner[0] - self.before[0]
        blank = np.zeros(self.shape[2:], np.uint16)
        inside = tuple(slice(o, o + n) for o, n in zip(self.before[1:], self.inner[1:], strict=True))
        part = np.zeros(self.inner[1:], np.uint16)
        yield from (blank for _ in range(before))
        for slab in self._channels[0]().slabs():
            for numbers in slab:
                _encode(numbers, self._tables[0], self.scales[0], part)
                plane = blank.copy()
                plane[inside] = part
                yield plane
        yield from (blank for _ in range(after))


def _table(array: StoredArray, scale: Scale) -> Array | None:
    """The code of every raw value, so that a window costs a lookup; None where there are too many values for a table."""
    if array.palette is not None:
        return scale(array.palette)
    return scale.table(array.dtype) if is_small(array.dtype) else None


def _encode(numbers: Array, table: Array | None, scale: Scale, out: Array) -> None:
    if table is None:
        out[...] = scale(numbers)
    else:
        np.take(table, bits(numbers), out=out, mode="clip")  # the other modes fill a buffer first


def lazy_codes(
    store: Store, channels: Sequence[Callable[[], StoredArray]], intensity: Intensity, size: Size
) -> LazyCodes:
    """Codes of stored channels; limits of percentiles come from the whole of each channel."""
    return LazyCodes(channels, [_scale(store, channel(), intensity) for channel in channels], size)


def image_codes(
    store: Store, item: Item, intensity: Intensity
) -> tuple[LazyCodes, Callable[[int, Callable[[Array], Array]], Array]]:
    """Codes (C, rows, columns) of an image, and `kept(size, resize)`: the resized image, computed once."""
    records = store.record(item).arrays

    def opener(record: ArrayRecord) -> Callable[[], StoredArray]:
        return lambda: store.array(record, item.files[0])

    channels = [opener(record) for record in records]
    codes = lazy_codes(store, channels, intensity, (0, 0))

    def kept(size: int, resize: Callable[[Array], Array]) -> Array:
        limits = [limits_of(scale) for scale in codes.scales]
        key = digest(FORMAT, "resized", [record.name for record in records], limits, size)
        return np.array(store.derived(key, lambda: resize(codes[...])))

    return codes, kept


def limits_of(scale: Scale) -> tuple[float, ...]:
    """What a key of the store says of a scale."""
    return scale.low, scale.high, *([1.0] if scale.mark_zero else [])


def stored_norm(store: Store, codes: LazyCodes, names: Sequence[str], intensity: Intensity) -> Norm | None:
    """What standardises a stored image, `norm_of`; counted once and kept in the store.

    Args:
        store: where it is kept.
        codes: the image.
        names: of its channels' arrays.
        intensity: that says how.
    """
    if intensity.normalisation in ("unit", "dataset"):
        return norm_of_counts(np.zeros((len(names), 0)), intensity)

    def measured() -> Array:
        norm = norm_of_counts(np.stack([codes.counts(number) for number in range(len(names))]), intensity)
        assert norm is not None
        return np.array([norm.mean, norm.sd])

    key = digest(FORMAT, "norm", list(names), [limits_of(scale) for scale in codes.scales], intensity.normalisation)
    mean, sd = store.derived(key, measured).tolist()
    return Norm(tuple(mean), tuple(sd), intensity.normalisation == "zscore_nonzero")


def _scale(store: Store, array: StoredArray, intensity: Intensity) -> Scale:
    if intensity.kind == "window":
        return window_scale(intensity)
    if array.values is not None and array.counts is not None:
        return scale_of_counts(array.values, array.counts, intensity, source=array.source)

    def limits() -> Array:
        whole = np.concatenate(list(array.slabs()))
        scale = scale_of_values(whole, replace(intensity, normalisation="unit"), source=array.source)
        return np.array([scale.low, scale.high])

    key = digest(FORMAT, "limits", array.name, intensity.low, intensity.high)
    low, high = store.derived(key, limits).tolist()
    return percentile_scale(low, high, intensity)


class LazyMask(Lazy):
    """Region masks (K, *S) uint8 of a stored label map.

    Args:
        labels: opens the map.
        table: (K, 256) 0/1, the regions that each label belongs to.
        size: least S.
    """

    def __init__(self, labels: Callable[[], StoredArray], table: Array, size: Size) -> None:
        super().__init__(len(table), labels().shape, size, np.uint8)
        self._labels, self._table = labels, table

    def part(self, low: Sequence[int], high: Sequence[int]) -> Array:
        """Masks of a box."""
        return np.take(self._table, self._labels().read(low, high), axis=1)

    def foreground(self, rows: Array) -> list[Voxels]:
        """The voxels of every region that has some.

        Args:
            rows: (labels, x, y) how often each label occurs along z.
        """
        counts = np.tensordot(self._table[:, : len(rows)].astype(np.int64), rows.astype(np.int64), axes=1)
        return [Voxels(self, k, count) for k, count in enumerate(counts) if count.any()]


class Voxels:
    """The flat indices of a region's voxels in ascending order, as `np.flatnonzero` lists them, without the list.

    Args:
        mask: the masks.
        region: which one.
        rows: (x, y) voxels of the region along z.
    """

    def __init__(self, mask: LazyMask, region: int, rows: Array) -> None:
        self._mask, self._region = mask, region
        self._ends = np.cumsum(rows.ravel(), dtype=np.int64)
        self.size = int(self._ends[-1])

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self._ends.nbytes)

    def __getitem__(self, number: int) -> int:
        # the n-th voxel of a region: `_ends` counts its voxels up to each row along z, which finds the row in log time; only
        # that row is read, 512 bytes in place of a list of millions of indices
        row = int(np.searchsorted(self._ends, number, "right"))
        x, y = divmod(row, self._mask.inner[1])
        line = self._mask.part([x, y, 0], [x + 1, y + 1, self._mask.inner[2]])[self._region, 0, 0]
        z = int(np.flatnonzero(line)[number - (self._ends[row - 1] if row else 0)])
        place = tuple(at + before for at, before in zip((x, y, z), self._mask.before, strict=True))
        return int(np.ravel_multi_index(place, self._mask.shape[1:]))


def label_rows(labels: Array) -> Array:
    """(x, y, z) uint8 labels -> (highest label + 1, x, y) int32: how often each label occurs along z."""
    rows = np.zeros((int(labels.max()) + 1, *labels.shape[:2]), np.int32)
    for x, plane in enumerate(labels):
        for label in np.unique(plane):
            rows[label, x] = (plane == label).sum(axis=1)
    return rows


def stored_starts(
    store: Store,
    codes: LazyCodes,
    name: str,
    sizes: Sequence[Size],
    content: Content,
    margin: Size | None,
) -> dict[Size, Starts]:
    """`find_starts` for each size, from tables that are computed once and kept in the store.

    Args:
        store: where they are kept.
        codes: the scan.
        name: of its first channel's array.
        sizes: of the windows.
        content: the filter.
        margin: voxels at each end that no window touches.
    """
    shape, scale = codes.shape[1:], codes.scales[0]
    threshold, low, high = content.threshold, content.low, content.high
    found: dict[Size, Starts] = {}
    for size in sizes:
        key = digest(FORMAT, "starts", name, *limits_of(scale), threshold, low, high, shape, size, margin)

        def compute(size: Size = size) -> Array:
            planes = (tissue_weight(plane, threshold) for plane in codes.planes())
            return tile_starts(planes, shape, size, low=low, high=high, margin=margin)

        def table(key: str = key, compute: Callable[[], Array] = compute) -> Array:
            return store.derived(key, compute)

        found[size] = TiledStarts.of(size, shape, margin, table)
    return found
