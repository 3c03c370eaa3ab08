"""Index work of the transforms on a CPU: the functions of `_batched`, one cache-sized piece of the batch at a time.

Corruptions carry no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_med.transforms._sampling import Noise

Ints = NDArray[np.int64]
_WRITES = 2**17  # writes of one piece of `shuffle`: more than 1 MiB per array costs page faults and cache misses


def flip_rot(x: Tensor, flips: Tensor, turns: Tensor) -> Tensor:
    """See `_batched.flip_rot`."""
    parts = []
    for part, mirrored, k in zip(x, flips.tolist(), turns.tolist(), strict=True):
        part = part.flip([1 + axis for axis, chosen in enumerate(mirrored) if chosen])
        parts.append(torch.rot90(part, k, (1, 2)) if k else part)
    return torch.stack(parts)


def _boxes(start: Tensor, size: Tensor) -> list[list[tuple[slice, ...]]]:
    """Per sample the indices of its boxes, after the channel; boxes of size 0 are left out."""
    ends = (start + size).tolist()
    return [
        [(slice(None), *map(slice, a, b)) for a, b in zip(low, high, strict=True) if a < b]
        for low, high in zip(start.tolist(), ends, strict=True)
    ]


@torch.no_grad()
def fill_boxes(x: Tensor, start: Tensor, size: Tensor, value: float) -> Tensor:
    """See `_batched.fill_boxes`."""
    y = x.clone(memory_format=torch.contiguous_format)
    for part, boxes in zip(y, _boxes(start, size), strict=True):
        for box in boxes:
            part[box] = value
    return y


@torch.no_grad()
def paint(x: Tensor, start: Tensor, size: Tensor, outside: Tensor, active: Tensor, *, noise: Noise) -> Tensor:
    """See `_batched.paint`; noise is drawn only for the boxes, or for the samples that are painted outside of them."""
    y = torch.empty(x.shape, dtype=x.dtype)
    inside = []
    for mine, theirs, boxes, out, chosen in zip(
        _bits(y), _bits(x), _boxes(start, size), outside.tolist(), active.tolist(), strict=True
    ):
        if out and chosen:
            mine[...] = _bits(noise(mine.shape).to(y.dtype))
            for box in boxes:
                mine[box] = theirs[box]
            continue
        mine[...] = theirs
        if chosen:
            inside += [mine[box] for box in boxes]
    if inside:
        drawn, first = (
            _bits(noise((sum(box.size for box in inside),)).to(y.dtype)),
            0,
        )  # one call: boxes hold few voxels
        for box in inside:
            box[...] = drawn[first : first + box.size].reshape(box.shape)
            first += box.size
    return y


def _bits(x: Tensor) -> NDArray[Any]:
    """The same memory for numpy, whose indexing costs a fraction of torch's; it has no bfloat16."""
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).detach().numpy()


def _places(start: Ints, size: Ints, strides: Ints) -> tuple[Ints, Ints]:
    """Flat positions of all voxels of windows (W, D), window after window, row-major; and how many each window has."""
    limits = [int(largest) + 1 for largest in size.max(0)]
    code = np.ravel_multi_index(tuple(size.T), limits)
    present = np.zeros(math.prod(limits), dtype=bool)
    present[code] = True
    sizes = np.stack(np.unravel_index(np.flatnonzero(present), limits), 1)
    # offsets of the few sizes that occur; a window is then its corner plus a stretch of this table
    table, inner = np.zeros(len(sizes), dtype=np.int64), np.ones(len(sizes), dtype=np.int64)
    for axis, stride in enumerate(strides):
        side = np.repeat(sizes[:, axis], inner)
        inner = inner * sizes[:, axis]
        table = np.repeat(table - (np.cumsum(side) - side) * stride, side)
        table += np.arange(len(table)) * stride
    row = (np.cumsum(present) - 1)[code]
    counts = inner[row]
    at = np.arange(int(counts.sum()))
    at += np.repeat((np.cumsum(inner) - inner)[row] - (np.cumsum(counts) - counts), counts)
    places = table.take(at)
    places += np.repeat(start @ strides, counts)
    return places, counts


def _write_windows(index: NDArray[np.int32], start: Ints, size: Ints, strides: Ints, keys: NDArray[np.int32]) -> None:
    """Lets windows (W, D) overwrite, one after the other, where the voxels of `index` take their values from."""
    target, counts = _places(start, size, strides)
    value = target.astype(np.int32)
    source = np.empty_like(value)
    first = np.cumsum(counts) - counts
    order = np.argsort(counts.astype(np.min_scalar_type(counts.max())), kind="stable")  # small numbers: radix sort
    ordered, first = counts[order], first[order]
    cuts = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(order)]
    for (begin, end), volume in zip(pairwise(cuts), ordered[cuts[:-1]].tolist(), strict=True):
        # windows of equal volume: their keys are the rows of a matrix
        here = first[begin:end]
        row = _stretches(keys, volume)[here].astype(np.int64)
        row <<= 32
        row |= np.arange(volume)
        row.sort(axis=1)
        row &= 2**32 - 1
        row += here[:, None]
        _stretches(source, volume)[here] = value.take(row)
    index[target] = source  # of repeated indices numpy keeps the last value: later windows overwrite earlier ones


def _stretches(values: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    """A view whose row k is values[k : k + length]: picking rows moves whole stretches."""
    return np.ndarray((len(values) - length + 1, length), values.dtype, values, strides=values.strides * 2)


@torch.no_grad()
def shuffle(x: Tensor, start: Tensor, size: Tensor, keys: Tensor) -> Tensor:
    """See `_batched.shuffle`."""
    y = x.clone(memory_format=torch.contiguous_format)
    shape, windows = x.shape[2:], start.shape[1]
    volume = math.prod(shape)
    strides = np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
    low, high, drawn = start.numpy(), size.numpy(), keys.numpy()
    writes = high.prod(2).sum(1)
    used = np.flatnonzero(writes)
    most = int(writes.max(initial=1))
    samples, some = max(1, _WRITES // max(most, volume)), max(1, min(windows, windows * _WRITES // most))
    for part in (used[k : k + samples] for k in range(0, len(used), samples)):
        corner, side = low[part], high[part].reshape(-1, len(shape))
        corner[:, :, 0] += np.arange(len(part))[:, None] * shape[0]  # samples lie behind each other
        corner = corner.reshape(side.shape)
        index = np.arange(len(part) * volume, dtype=np.int32)
        for begin in range(0, len(side), some * len(part)):
            window = slice(begin, begin + some * len(part))
            count = int(side[window].prod(1).sum())
            _write_windows(index, corner[window], side[window], strides, drawn[:count])
            drawn = drawn[count:]
        for k, (sample, row) in enumerate(zip(part.tolist(), torch.from_numpy(index).view(len(part), -1), strict=True)):
            row -= k * volume
            torch.index_select(x[sample].flatten(1), 1, row, out=y[sample].view(x.shape[1], -1))
    return y


@torch.no_grad()
def rearrange_by(x: Tensor, maps: Tensor, chosen: Tensor) -> Tensor:
    """Sample b by row chosen[b] of `maps` (M, V), or as it is where that is negative."""
    y = torch.empty(x.shape, dtype=x.dtype)
    for mine, sample, row in zip(y.flatten(2), x.flatten(2), chosen.tolist(), strict=True):
        if row < 0:
            mine.copy_(sample)
        else:
            torch.index_select(sample, 1, maps[row], out=mine)
    return y


@torch.no_grad()
def swap(x: Tensor, starts: Tensor, patch: Sequence[int]) -> Tensor:
    """See `_batched.swap`."""
    y = x.clone(memory_format=torch.contiguous_format)
    for part, pairs in zip(y, starts.tolist(), strict=True):
        for pair in pairs:
            one, two = (part[:, *(slice(s, s + p) for s, p in zip(corner, patch, strict=True))] for corner in pair)
            kept = one.clone()
            one.copy_(two)
            two.copy_(kept)
    return y
