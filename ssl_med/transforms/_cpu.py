"""Index work of the transforms on a CPU: the functions of `_batched`, one cache-sized piece of the batch at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_med.transforms._sampling import Noise

Ints = NDArray[np.int32]
_WRITES = 2**18  # writes of one piece of `shuffle`: its arrays of 1 to 2 MiB stay in the second-level cache


def flip_rot(x: Tensor, flips: Tensor, turns: Tensor) -> Tensor:
    """See `_batched.flip_rot`."""
    y = torch.empty(x.shape, dtype=x.dtype)
    for mine, theirs, mirrored, k in zip(y, x, flips.tolist(), turns.tolist(), strict=True):
        part = theirs.flip([1 + axis for axis, chosen in enumerate(mirrored) if chosen])
        mine.copy_(torch.rot90(part, k, (1, 2)) if k else part)
    return y


def _boxes(start: Tensor, size: Tensor) -> list[list[tuple[slice, ...]]]:
    """Per sample the indices of its boxes, after the channel; boxes of size 0 are left out."""
    ends = (start + size).tolist()
    return [
        [(slice(None), *map(slice, a, b)) for a, b in zip(low, high, strict=True) if a < b]
        for low, high in zip(start.tolist(), ends, strict=True)
    ]


def fill_boxes(x: Tensor, start: Tensor, size: Tensor, value: float) -> Tensor:
    """See `_batched.fill_boxes`."""
    y = x.clone(memory_format=torch.contiguous_format)
    for part, boxes in zip(y, _boxes(start, size), strict=True):
        for box in boxes:
            part[box] = value
    return y


def paint(x: Tensor, start: Tensor, size: Tensor, outside: Tensor, active: Tensor, *, noise: Noise) -> Tensor:
    """See `_batched.paint`; noise is drawn only for the boxes, or for the samples that are painted outside of them."""
    y = torch.empty(x.shape, dtype=x.dtype)
    for mine, theirs, boxes, out, chosen in zip(
        y, x, _boxes(start, size), outside.tolist(), active.tolist(), strict=True
    ):
        mine.copy_(noise(mine.shape) if out and chosen else theirs)
        for box in boxes if chosen else ():
            mine[box] = theirs[box] if out else noise(mine[box].shape)
    return y


def _places(start: Ints, size: Ints, strides: Ints) -> Ints:
    """Flat positions of all voxels of windows (W, D), window after window, row-major."""
    limits = size.max(0, initial=1) + 1
    code = np.ravel_multi_index(tuple(size.T), tuple(limits))
    present = np.zeros(math.prod(limits), dtype=bool)
    present[code] = True
    sizes = np.stack(np.unravel_index(np.flatnonzero(present), tuple(limits)), 1).astype(np.int32)
    # offsets of the few sizes that occur; a window is then its corner plus a stretch of this table
    table = np.zeros(len(sizes), dtype=np.int32)
    inner = np.ones(len(sizes), dtype=np.int32)
    for axis, stride in enumerate(strides):
        side = np.repeat(sizes[:, axis], inner)
        inner = inner * sizes[:, axis]
        table = np.repeat(table - (np.cumsum(side, dtype=np.int32) - side) * stride, side)
        table += np.arange(len(table), dtype=np.int32) * stride
    row = np.cumsum(present)[code] - 1
    counts = inner[row]
    skip = (np.cumsum(inner) - inner)[row] - (np.cumsum(counts) - counts)
    at = np.repeat(skip, counts) + np.arange(counts.sum())
    corner = np.repeat((start * strides).sum(1, dtype=np.int32), counts)
    corner += table.take(at)
    return corner


def _shuffle_index(start: Ints, size: Ints, keys: Ints, shape: Sequence[int]) -> Ints:
    """Where each voxel (b, *S), b samples of w windows each, takes its value from, as (b, volume) of 0..volume - 1."""
    batch, windows, dims = start.shape
    volume = math.prod(shape)
    strides = np.array([math.prod(shape[axis + 1 :]) for axis in range(dims)], dtype=np.int32)
    size = size.reshape(-1, dims)
    target = _places(start.reshape(-1, dims), size, strides)
    source = np.empty_like(target)
    counts = size.prod(1, dtype=np.int32)
    first = np.cumsum(counts, dtype=np.int32) - counts
    order = np.argsort(counts, kind="stable")
    ordered = counts[order]
    cuts = [*np.flatnonzero(np.diff(ordered, prepend=0)), len(ordered)]
    for begin, end in zip(cuts[:-1], cuts[1:], strict=True):  # windows of equal volume: their keys are rows of a matrix
        here = first[order[begin:end], None]
        local = np.arange(ordered[begin], dtype=np.int32)
        at = here + local
        row = keys.take(at).astype(np.int64)
        row <<= 32
        row |= local
        row.sort(axis=1)
        row &= 2**32 - 1
        row += here
        source[at] = target.take(row)
    index = np.tile(np.arange(volume, dtype=np.int32), (batch, 1))
    lengths = counts.reshape(batch, windows).sum(1)
    edges = [0, *np.cumsum(lengths)]
    for sample, (begin, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        # of repeated indices numpy keeps the last value: later windows overwrite earlier ones
        index[sample][target[begin:end]] = source[begin:end]
    return index


def shuffle(x: Tensor, start: Tensor, size: Tensor, keys: Tensor) -> Tensor:
    """See `_batched.shuffle`."""
    y = x.clone(memory_format=torch.contiguous_format)
    writes = size.prod(-1).sum(1)
    used = torch.nonzero(writes).flatten()
    if len(used) == 0:
        return y
    step = max(1, int(_WRITES // writes[used].double().mean()))
    low, high, drawn = (value.numpy() for value in (start.int(), size.int(), keys))
    done = 0
    for some in used.split(step):
        count = int(writes[some].sum())
        index = _shuffle_index(low[some], high[some], drawn[done : done + count], x.shape[2:])
        done += count
        for sample, row in zip(some.tolist(), torch.from_numpy(index), strict=True):
            torch.index_select(x[sample].flatten(1), 1, row, out=y[sample].view(x.shape[1], -1))
    return y


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
