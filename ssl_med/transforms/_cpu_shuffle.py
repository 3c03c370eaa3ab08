"""Local shuffling on a CPU: finds for each voxel the last window that writes it, and from where.

Two forms with bit-identical results: calls of numpy and torch over windows of equal volume, and a compiled loop over
windows, which runs when numba is installed.
"""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_med.transforms import _compiled
from ssl_med.transforms._sampling import Bits

Ints = NDArray[np.int64]
_WRITES = 2**18  # writes of one piece of a batch; one crop of 64x64x32 voxels has nearly as many
_PART = 2**14  # writes of one call on windows of equal volume: 128 KiB per array stay in cache
_SMALL = 150  # mean volume of windows up to which the compiled loop, quadratic in a window's volume, is the faster form
_HIGH = slice(int(sys.byteorder == "little"), None, 2)  # upper halves of 64-bit numbers, seen as 32-bit ones


class Sizes(NamedTuple):
    """Sizes of windows by rising volume, and the voxels of each."""

    volume: Ints  # (sizes,)
    first: Ints  # (sizes,): where a size's voxels begin in `offset`
    offset: Ints  # flat positions relative to the corner, row-major


class Piece(NamedTuple):
    """Windows of some samples (B, W), and their keys."""

    corner: Ints  # flat position in the sample
    size: Ints  # number in `Sizes`
    begin: Ints  # (B, largest volume + 1): where in `keys` those of a sample's windows of this volume begin
    keys: NDArray[np.int32]
    voxels: int  # of a sample


@lru_cache(maxsize=4)
def _sizes(limits: tuple[int, ...], strides: tuple[int, ...], present: bytes) -> tuple[Ints, Sizes]:
    """Of all sizes below `limits` those present, and per code their number; those of small crops are few and return."""
    codes = np.flatnonzero(np.frombuffer(present, dtype=bool))
    sides = np.stack(np.unravel_index(codes, limits), 1)
    order = np.argsort(sides.prod(1), kind="stable")
    number, sides = np.zeros(len(present), dtype=np.int64), sides[order]
    number[codes[order]] = np.arange(len(order))
    offset, volume = np.zeros(len(sides), dtype=np.int64), np.ones(len(sides), dtype=np.int64)
    for axis, stride in enumerate(strides):
        side = np.repeat(sides[:, axis], volume)
        volume = volume * sides[:, axis]
        offset = np.repeat(offset - (np.cumsum(side) - side) * stride, side)
        offset += np.arange(len(offset)) * stride
    return number, Sizes(volume, np.cumsum(volume) - volume, offset)


@torch.no_grad()
def shuffle(x: Tensor, start: Tensor, size: Tensor, *, keys: Bits) -> Tensor:
    """See `_batched.shuffle`."""
    y = torch.empty(x.shape, dtype=x.dtype)
    shape = x.shape[2:]
    voxels, dims = math.prod(shape), len(shape)
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(dims))
    low, high = (v.movedim(-1, 0).numpy() for v in (start, size))  # (D, B, W)
    volumes = math.prod(high[1:], start=high[0])
    writes = volumes.sum(1)
    used = np.flatnonzero(writes)
    for sample in np.flatnonzero(writes == 0).tolist():
        y[sample] = x[sample]
    # so many samples at once that the tables of their writes stay small
    step = max(1, _WRITES // max(int(writes.max(initial=1)), voxels))
    compiled = _compiled.sources() if writes.sum() <= _SMALL * low[0, used].size else None
    for part in (used[k : k + step] for k in range(0, len(used), step)):
        # corners as flat positions, sizes as one code each: a size's voxels are then looked up instead of computed
        corner, code = low[0, part] * strides[0], high[0, part]
        limits = tuple(int(high[axis, part].max()) + 1 for axis in range(dims))
        for axis in range(1, dims):
            corner += low[axis, part] * strides[axis]
            code = code * limits[axis] + high[axis, part]
        present = np.zeros(math.prod(limits), dtype=bool)
        present[code] = True
        number, sizes = _sizes(limits, strides, present.tobytes())
        count = np.stack([np.bincount(row, minlength=int(sizes.volume[-1]) + 1) for row in volumes[part]])
        count *= np.arange(count.shape[1])
        begin = (np.cumsum(count) - count.ravel()).reshape(count.shape)
        drawn = [keys(many).numpy() for many in writes[part].tolist()]
        piece = Piece(corner, number.take(code), begin, drawn[0] if len(drawn) == 1 else np.concatenate(drawn), voxels)
        index = compiled(sizes, piece) if compiled else sources(sizes, piece)
        for sample, row in zip(part.tolist(), index, strict=True):
            for mine, theirs in zip(y[sample].flatten(1), x[sample].flatten(1), strict=True):
                torch.index_select(theirs, 0, row, out=mine)
    return y


def sources(sizes: Sizes, piece: Piece) -> Tensor:
    """(B, V): the voxel of its sample that each voxel shows."""
    samples, windows = piece.corner.shape
    volumes = sizes.volume.take(piece.size.ravel())
    order = np.argsort(volumes.astype(np.min_scalar_type(volumes.max())), kind="stable")  # small numbers: radix sort
    size = piece.size.ravel().take(order)
    corner = (piece.corner + np.arange(samples)[:, None] * piece.voxels).ravel().take(order)[:, None]
    number = (order % windows + 1).astype(np.int32)[:, None]
    winner = torch.arange(samples * piece.voxels)
    source, packed = (np.empty(max(_PART, int(sizes.volume[-1])), dtype=np.int64) for _ in range(2))
    cuts = np.flatnonzero(np.diff(sizes.volume, prepend=0, append=0)).tolist()
    ends = np.cumsum(np.bincount(volumes)[sizes.volume[cuts[:-1]]]).tolist()
    # windows of equal volume make a rectangle, whose rows are sorted in one call
    for low, high, begin, end in zip(cuts[:-1], cuts[1:], [0, *ends[:-1]], ends, strict=True):
        volume = int(sizes.volume[low])
        table = sizes.offset[sizes.first[low] :][: (high - low) * volume].reshape(-1, volume)
        keys = _keys(piece, volume)
        many = max(1, _PART // volume)
        for some in (slice(k, min(end, k + many)) for k in range(begin, end, many)):
            here = slice((some.stop - some.start) * volume)
            rows, values = source[here].reshape(-1, volume), packed[here].reshape(-1, volume)
            table.take(size[some] - low, 0, out=rows, mode="clip")
            rows += corner[some]
            # key and voxel in one number: sorted, a row holds the voxels in the order of their keys
            values[...] = rows
            packed.view(np.int32)[_HIGH][here] = keys[(some.start - begin) * volume :][here]
            values.sort(1)
            values &= 2**32 - 1
            # the window's number above where the value is from: the highest is the last
            source.view(np.int32)[_HIGH][here].reshape(-1, volume)[...] = number[some]
            winner.scatter_reduce_(0, torch.from_numpy(packed[here]), torch.from_numpy(source[here]), "amax")
    winner &= 2**32 - 1
    winner = winner.view(samples, piece.voxels)
    return winner.sub_(torch.arange(samples)[:, None] * piece.voxels) if samples > 1 else winner


def _keys(piece: Piece, volume: int) -> NDArray[np.int32]:
    """Of all windows of this volume, sample after sample."""
    begin = piece.begin.ravel()
    at = [sample * piece.begin.shape[1] + volume for sample in range(len(piece.begin))]
    ends = [int(begin[k + 1]) if k + 1 < len(begin) else len(piece.keys) for k in at]
    parts = [piece.keys[begin[k] : end] for k, end in zip(at, ends, strict=True)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
