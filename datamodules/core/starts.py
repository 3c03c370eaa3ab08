"""Where crops may start: the windows of a volume that pass the content filter, and uniform draws of one or of a pair.

A volume of 512 x 512 x 600 voxels has 10^8 starts. Their sums come from an integral image, so that the filter costs the same
for any window; which of them pass is one bit each, and a draw tests a handful of random starts instead of listing all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from datamodules.formats.grids import Array

Size = tuple[int, ...]
_PROPOSALS, _ROUNDS = 4096, 8
_TILE = 8  # starts along each side of a tile; its 512 bits are 64 bytes


def tissue_weight(codes: Array, threshold: int) -> Array:
    """Twice the tissue indicator of Models Genesis: (x, y, z) codes -> {0, 1, 2} uint8.

    A voxel counts 1 when it reaches the threshold and 1/2 when only the next slice does (MG's
    `infinite_generator_3D.py`: d = a + b/2 with a = v(z) >= t and b = v(z+1) >= t and not a). The last slice has no
    next one; MG never uses it, here it counts by its own value.
    """
    dense = (codes >= threshold).view(np.uint8)
    weight = dense << 1
    weight[..., :-1] |= dense[..., 1:] & (dense[..., :-1] ^ 1)
    return weight


def integral(weight: Array) -> Array:
    """Sums over all boxes that start at the origin: (x, y, z) -> (x+1, y+1, z+1) int64, int32 when that holds it."""
    # 2 per voxel at most, so 2^30 voxels fit into 32 bits
    total = np.zeros([n + 1 for n in weight.shape], np.int32 if weight.size < 2**30 else np.int64)
    inner = total[1:, 1:, 1:]
    np.cumsum(weight, axis=0, out=inner)
    np.cumsum(inner, axis=1, out=inner)
    np.cumsum(inner, axis=2, out=inner)
    return total


def window_sums(total: Array, size: Size) -> Array:
    """Sum inside the window of `size` at every start: O(1) a window, from `integral`."""
    # one difference along each axis in turn: what is left after the last is the sum between both ends of all axes
    for axis, n in enumerate(size):
        length = total.shape[axis] - n
        total = total.take(range(n, n + length), axis) - total.take(range(length), axis)
    return total


@dataclass(frozen=True)
class Starts:
    """The admissible start voxels of windows of one size in one volume.

    * grid: how many starts each axis has. * offset: voxel of the first one.
    * bits: one packed bit a start, set where the content filter lets the window pass; None = all pass.
    * count: how many pass.
    """

    size: Size
    grid: Size
    offset: Size
    bits: Array | None
    count: int

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return 0 if self.bits is None else int(self.bits.nbytes)

    def passes(self, starts: Array) -> Array:
        """(N, D) starts relative to `offset`, inside `grid` -> (N,) bool."""
        if self.bits is None:
            return np.ones(len(starts), bool)
        flat = np.ravel_multi_index(tuple(starts.T), self.grid)
        # `packbits` puts the first start into the highest bit of a byte
        passed: Array = (self.bits[flat >> 3] >> (7 - (flat & 7)).astype(np.uint8)) & 1 == 1
        return passed

    def draw(self, rng: np.random.Generator) -> Array:
        """One start (D,), uniform over those that pass; `count` must not be 0."""
        proposals = rng.integers(0, self.grid, (256, len(self.grid)))
        # rejection sampling is uniform over what passes; when passing windows are rare, pick from the list of them. Sixteen
        # proposals settle most draws; the other 240 are made at once, since a second call would cost more than they do
        for part in (proposals[:16], proposals[16:]):
            good = np.flatnonzero(self.passes(part))
            if good.size:
                return np.array(part[good[0]] + self.offset)
        return np.array(self._pick(rng) + self.offset)

    def draw_pair(self, min_iou: float, rng: np.random.Generator) -> tuple[Array, Array]:
        """Two starts (D,) whose windows overlap with IoU above `min_iou`, uniform over all such pairs that pass.

        Equal windows of V voxels that share s have IoU s / (2V - s), so IoU > m means s / V > 2m / (1 + m).
        When thousands of proposals in a row fail, the first window is drawn as by `draw` and the second from its
        admissible neighbours (itself if there are none): no longer uniform over pairs, still admissible.
        """
        size, grid = np.array(self.size), np.array(self.grid)
        share = 2 * min_iou / (1 + min_iou)
        reach = np.ceil(size * (1 - share)).astype(int) - 1  # a larger shift along one axis alone breaks the bound
        reach = np.minimum(np.maximum(reach, 0), grid - 1)
        # pairs are proposed as a start and a shift, all in parallel, and the first that passes is taken: uniform over pairs,
        # because every pair is proposed equally often
        for attempt in range(_ROUNDS + 1):
            if attempt < _ROUNDS:
                first = rng.integers(0, grid, (_PROPOSALS, len(grid)))
            else:
                first = np.tile(self._pick(rng), (_PROPOSALS, 1))
            shift = rng.integers(-reach, reach + 1, (_PROPOSALS, len(grid)))
            second = first + shift
            ok = ((second >= 0) & (second < grid)).all(1)
            ok &= np.prod(1 - np.abs(shift) / size, axis=1) > share
            rows = np.flatnonzero(ok)
            rows = rows[self.passes(first[rows]) & self.passes(second[rows])]
            if rows.size:
                return first[rows[0]] + self.offset, second[rows[0]] + self.offset
        return first[0] + self.offset, first[0] + self.offset

    def _pick(self, rng: np.random.Generator) -> Array:
        passing = self._all()
        if passing is None:
            return rng.integers(0, self.grid)
        return np.array(np.unravel_index(rng.choice(np.flatnonzero(passing)), self.grid))

    def _all(self) -> Array | None:
        """Which starts pass, in C order; None = all."""
        return None if self.bits is None else np.unpackbits(self.bits, count=math.prod(self.grid))


@dataclass(frozen=True)
class TiledStarts(Starts):
    """`Starts` whose bits lie in a file, of which a draw touches a few pages; made by `tile_starts`.

    * table: fetches the mapped file.
    """

    table: Callable[[], Array]

    @classmethod
    def of(cls, size: Size, shape: Size, margin: Size | None, table: Callable[[], Array]) -> TiledStarts:
        """Of windows of `size` in a volume of `shape`."""
        grid, offset = start_grid(shape, size, margin)
        return cls(size, grid, offset, None, int(table()[:8].view(np.int64)[0]), table)

    def _parts(self) -> tuple[Size, Array, Array]:
        table, tiles = self.table(), tuple(-(-n // _TILE) for n in self.grid)
        end = 8 + 4 * math.prod(tiles)
        return tiles, table[8:end].view(np.uint32), table[end:].reshape(-1, _TILE**3 // 8)

    # Passing windows lie in clumps, so most tiles pass or fail as a whole: 4 bytes of an index say so, and only tiles on a
    # border have a bitmap. The file is mapped; a draw reads one index entry and at most one bitmap, a page each.

    def passes(self, starts: Array) -> Array:
        """(N, 3) starts relative to `offset`, inside `grid` -> (N,) bool."""
        tiles, index, bitmaps = self._parts()
        number = index[np.ravel_multi_index(tuple((starts // _TILE).T), tiles)]
        passed: Array = number == 1
        rows = np.flatnonzero(number > 1)
        place = np.ravel_multi_index(tuple((starts[rows] % _TILE).T), (_TILE,) * 3)
        passed[rows] = (bitmaps[number[rows] - 2, place >> 3] >> (7 - (place & 7)).astype(np.uint8)) & 1 == 1
        return passed

    def _all(self) -> Array:
        tiles, index, bitmaps = self._parts()
        known = np.zeros((2, bitmaps.shape[1]), np.uint8)  # bitmaps of tiles 0, none passes, and 1, all pass
        known[1] = 255
        cells = np.unpackbits(np.concatenate([known, bitmaps])[index], axis=1).reshape(*tiles, *(_TILE,) * 3)
        whole = cells.transpose(0, 3, 1, 4, 2, 5).reshape([n * _TILE for n in tiles])
        return whole[tuple(slice(n) for n in self.grid)].ravel()


def tile_starts(
    planes: Iterable[Array], shape: Size, size: Size, *, low: float, high: float, margin: Size | None
) -> Array:
    """The table behind `TiledStarts`, from a volume that comes plane by plane; equal to `find_starts` on the whole.

    Args:
        planes: `tissue_weight` of each x (y, z).
        shape: the volume (x, y, z).
        size: the window.
        low: least mean of weight / 2 over the window.
        high: largest mean.
        margin: as in `find_starts`.

    Returns:
        uint8: int64 number of starts that pass; uint32 a tile, 0 none passes, 1 all pass, n + 2 the n-th bitmap; bitmaps.
    """
    grid, offset = start_grid(shape, size, margin)
    rows, columns = (slice(o, o + g + s - 1) for o, g, s in zip(offset[1:], grid[1:], size[1:], strict=True))
    full = 2 * math.prod(size)
    # A window sum along x is a running one: the newest plane enters, the plane of size[0] steps ago leaves. So the volume
    # never lies in memory as a whole, only the 2D sums of its last planes.
    ring = np.zeros((size[0], *grid[1:]), np.int32)  # 2D window sums of the last planes
    inside = np.zeros(grid[1:], np.int32)  # their sum: that of the 3D windows which end here
    total = np.zeros([n + s for n, s in zip(grid[1:], size[1:], strict=True)], np.int32)
    slab = np.zeros((_TILE, *grid[1:]), bool)
    index, bitmaps, count, made = [], [], 0, 2
    for x, plane in enumerate(planes):
        step = x - offset[0]
        if step < 0:
            continue
        np.cumsum(plane[rows, columns], axis=0, out=total[1:, 1:], dtype=np.int32)
        np.cumsum(total[1:, 1:], axis=1, out=total[1:, 1:])
        sums = ring[step % size[0]]  # holds the plane that leaves
        inside -= sums
        sums[:] = window_sums(total, size[1:])
        inside += sums
        start = step - size[0] + 1
        if start < 0:
            continue
        slab[start % _TILE] = (inside >= low * full) & (inside <= high * full)
        count += int(np.count_nonzero(slab[start % _TILE]))
        if start % _TILE == _TILE - 1 or start == grid[0] - 1:
            slab[start % _TILE + 1 :] = slab[start % _TILE]  # beyond the grid: as its edge
            numbers, found = _tiles(slab)
            numbers[numbers == 2] = np.arange(made, made + len(found))
            made += len(found)
            index.append(numbers)
            bitmaps.append(found)
        if start == grid[0] - 1:
            break
    head = np.array([count], np.int64).view(np.uint8)
    return np.concatenate([head, np.concatenate(index).view(np.uint8), np.concatenate(bitmaps).ravel()])


def _tiles(slab: Array) -> tuple[Array, Array]:
    """(8, y, z) bool -> one number a tile, 0, 1 or 2 for mixed, and the packed bits of the mixed ones."""
    padded = np.pad(slab, [(0, -n % _TILE) for n in slab.shape], mode="edge")
    y, z = (n // _TILE for n in padded.shape[1:])
    cells = padded.reshape(_TILE, y, _TILE, z, _TILE).transpose(1, 3, 0, 2, 4).reshape(y * z, -1)
    some, every = cells.any(1), cells.all(1)
    numbers = np.where(every, 1, np.where(some, 2, 0)).astype(np.uint32)
    return numbers, np.packbits(cells[numbers == 2], axis=1)


def start_grid(shape: Size, size: Size, margin: Size | None) -> tuple[Size, Size]:
    """How many starts each axis has, and the voxel of the first; see `find_starts`."""
    free = [n - s for n, s in zip(shape, size, strict=True)]
    edge = [min(m, f // 2) for m, f in zip(margin or (0,) * len(free), free, strict=True)]
    return tuple(f + 1 - 2 * e for f, e in zip(free, edge, strict=True)), tuple(edge)


def find_starts(
    shape: Size,
    size: Size,
    *,
    total: Array | None = None,
    low: float = 0.0,
    high: float = 1.0,
    margin: Size | None = None,
) -> Starts:
    """Starts of windows of `size` in a volume of `shape` whose mean content lies in [low, high].

    Args:
        shape: the volume, at least `size` along each axis.
        size: the window.
        total: `integral` of a weight in {0, 1, 2}; None = no filter.
        low: least mean of weight / 2 over the window.
        high: largest mean.
        margin: voxels that stay unused at each end; cut down where the volume is too small for it.
    """
    grid, offset = start_grid(shape, size, margin)
    if total is None:
        return Starts(size, grid, offset, None, math.prod(grid))
    part = total[tuple(slice(o, o + g + s) for o, g, s in zip(offset, grid, size, strict=True))]
    sums = window_sums(part, size)
    full = 2 * math.prod(size)
    passed = (sums >= low * full) & (sums <= high * full)
    return Starts(size, grid, offset, np.packbits(passed), int(passed.sum()))
