"""Local shuffling on a CPU: finds for each voxel the last window that writes it, and from where.

Two forms with bit-identical results: numpy and torch calls over windows of equal volume, and a compiled loop over windows,
which runs when numba is installed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_med.transforms import _compiled

Ints = NDArray[np.int64]
_WRITES = 2**18  # writes of one piece of a batch, of which one crop of 64x64x32 voxels has nearly as many
_PART = 2**14  # writes of one call on windows of equal volume: 128 KiB per array stay in cache
_HIGH = slice(int(sys.byteorder == "little"), None, 2)  # upper halves of 64-bit numbers, seen as 32-bit ones


class _Sizes(NamedTuple):
    """Sizes of windows by rising volume, and the voxels of each."""

    rank: Ints  # (product of the limits,): which size has this code
    volume: Ints  # (sizes,)
    first: Ints  # (sizes,): where a size's voxels begin in `offset`
    offset: Ints  # flat positions relative to the corner, row-major


@lru_cache(maxsize=4)
def _sizes(limits: tuple[int, ...], strides: tuple[int, ...], present: bytes) -> _Sizes:
    """Of all sizes below `limits` those present; windows of small crops have few sizes, the same in each batch."""
    codes = np.flatnonzero(np.frombuffer(present, dtype=bool))
    sides = np.stack(np.unravel_index(codes, limits), 1)
    order = np.argsort(sides.prod(1), kind="stable")
    rank, sides = np.zeros(len(present), dtype=np.int64), sides[order]
    rank[codes[order]] = np.arange(len(order))
    offset, volume = np.zeros(len(sides), dtype=np.int64), np.ones(len(sides), dtype=np.int64)
    for axis, stride in enumerate(strides):
        side = np.repeat(sides[:, axis], volume)
        volume = volume * sides[:, axis]
        offset = np.repeat(offset - (np.cumsum(side) - side) * stride, side)
        offset += np.arange(len(offset)) * stride
    return _Sizes(rank, volume, np.cumsum(volume) - volume, offset)


@torch.no_grad()
def shuffle(x: Tensor, start: Tensor, size: Tensor, keys: Tensor) -> Tensor:
    """See `_batched.shuffle`."""
    y = x.clone(memory_format=torch.contiguous_format)
    shape = x.shape[2:]
    voxels, dims = math.prod(shape), len(shape)
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(dims))
    low, high = (v.movedim(-1, 0).numpy() for v in (start, size))  # (D, B, W)
    volumes = math.prod(high[1:], start=high[0])
    writes = volumes.sum(1)
    used = np.flatnonzero(writes)
    step = max(1, _WRITES // max(int(writes.max(initial=1)), voxels))
    per_volume = np.bincount(volumes.ravel()) * np.arange(volumes.max(initial=0) + 1)
    begin = np.cumsum(per_volume) - per_volume  # of each volume the keys that come next
    compiled = _compiled.last_writes()
    for part in (used[k : k + step] for k in range(0, len(used), step)):
        corner, code = low[0, part] * strides[0], high[0, part]
        limits = tuple(int(high[axis, part].max()) + 1 for axis in range(dims))
        for axis in range(1, dims):
            corner += low[axis, part] * strides[axis]
            code = code * limits[axis] + high[axis, part]
        present = np.zeros(math.prod(limits), dtype=bool)
        present[code] = True
        sizes = _sizes(limits, strides, present.tobytes())
        rank = sizes.rank.take(code)
        if compiled:
            index = torch.arange(voxels, dtype=torch.int32).repeat(len(part), 1)
            owned = np.zeros(index.numel(), dtype=np.uint8)
            compiled(index.view(-1).numpy(), owned, corner.ravel(), rank.ravel(), *sizes[1:], begin, keys.numpy(), corner.shape[1], voxels)
        else:
            index = _sources(corner, rank, *sizes[1:], begin, keys.numpy(), voxels)
        for sample, row in zip(part.tolist(), index, strict=True):
            torch.index_select(x[sample].flatten(1), 1, row, out=y[sample].view(x.shape[1], -1))
    return y


def _sources(
    corner: Ints,
    rank: Ints,
    volume: Ints,
    first: Ints,
    offset: Ints,
    begin: Ints,
    keys: NDArray[np.int32],
    voxels: int,
) -> Tensor:
    """(B, V): the voxel of its sample that each voxel shows, after windows with corners and sizes (B, W)."""
    samples, windows = corner.shape
    counts = volume.take(rank.ravel())
    order = np.argsort(counts.astype(np.min_scalar_type(counts.max())), kind="stable")  # small numbers: radix sort
    rank = rank.ravel().take(order)
    corner = (corner + np.arange(samples)[:, None] * voxels).ravel().take(order)[:, None]
    number = (order % windows + 1).astype(np.int32)[:, None]
    winner = torch.arange(samples * voxels)
    target, packed = (np.empty(max(_PART, int(volume[-1])), dtype=np.int64) for _ in range(2))
    for volume_, size, windows_ in _classes(volume, counts):
        table = offset[first[size.start] :][: volume_ * (size.stop - size.start)].reshape(-1, volume_)
        for k in range(windows_.start, windows_.stop, max(1, _PART // volume_)):
            some = slice(k, min(windows_.stop, k + max(1, _PART // volume_)))
            here = slice((some.stop - some.start) * volume_)
            rows, values = target[here].reshape(-1, volume_), packed[here].reshape(-1, volume_)
            table.take(rank[some] - size.start, 0, out=rows, mode="clip")
            rows += corner[some]
            # a voxel and its key in one number: sorted, a row holds the voxels in the order of their keys
            values[...] = rows
            packed.view(np.int32)[_HIGH][here] = keys[begin[volume_] :][: here.stop]
            begin[volume_] += here.stop
            values.sort(1)
            values &= 2**32 - 1
            # where the value is from below the window's number: the highest is the last
            target.view(np.int32)[_HIGH][here].reshape(-1, volume_)[...] = number[some]
            winner.scatter_reduce_(0, torch.from_numpy(packed[here]), torch.from_numpy(target[here]), "amax")
    winner &= 2**32 - 1
    winner = winner.view(samples, voxels)
    return winner - torch.arange(samples)[:, None] * voxels if samples > 1 else winner


def _classes(volume: Ints, counts: Ints) -> Iterator[tuple[int, slice, slice]]:
    """Per volume that occurs: the sizes that have it, and the windows, both ordered by volume."""
    cuts = np.flatnonzero(np.diff(volume, prepend=0, append=0))
    ends = [0, *np.cumsum(np.bincount(counts)[volume[cuts[:-1]]]).tolist()]
    for k, (low, high) in enumerate(pairwise(cuts.tolist())):
        yield int(volume[low]), slice(low, high), slice(ends[k], ends[k + 1])
