"""Images as patches: cells of a grid with gap and jitter, their order, and sets of orders that differ as much as they can.

Patches are (B, P, C, *s), cells in row-major order, the last axis fastest. Inputs are never changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_med.spec import SslMedError
from ssl_med.transforms._sampling import integers

_ENUMERATED = 9  # cells up to which all orders are compared: 9! = 362,880
_POOL = 2048  # random orders compared per step beyond that
_LEAST_CONTRAST = 0.01  # of a range of 1: a patch with less is not blown up to unit contrast

# --- cutting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Cells of an image and the patch that is cut from each; all tuples have one entry per axis, in voxels.

    * counts: number of cells. * first: where the first cell begins; what is left over is shared by both ends.
    * step: from cell to cell; equal to the cell's side unless cells overlap.
    * patch: side of a patch. * margin: where a patch begins at the earliest, within its cell. * jitter: how much later it
      may begin.
    """

    counts: tuple[int, ...]
    first: tuple[int, ...]
    step: tuple[int, ...]
    patch: tuple[int, ...]
    margin: tuple[int, ...]
    jitter: tuple[int, ...]

    @property
    def cells(self) -> int:
        """Number of cells P."""
        return math.prod(self.counts)


def make_grid(
    shape: Sequence[int],
    counts: Sequence[int],
    *,
    gap: float = 0.0,
    jitter: float = 0.0,
    overlap: float = 0.0,
    min_side: int | Sequence[int] = 1,
) -> Grid:
    """Cells of equal size.

    Args:
        shape: sides of the image in voxels.
        counts: cells per axis.
        gap: between the patches of neighbouring cells at least, as a share of a cell's side.
        jitter: by which a patch moves at most, as a share of a cell's side.
        overlap: share of a cell's side that its neighbour covers too.
        min_side: smallest side of a patch that is of use, one for all axes or one each; jitter, then gap, give way to it.

    Raises:
        SslMedError: cells smaller than `min_side`.
    """
    step = tuple(int(s / (n - 1 + 1 / (1 - overlap))) for s, n in zip(shape, counts, strict=True))
    cell = tuple(round(t / (1 - overlap)) for t in step)
    least = (min_side,) * len(cell) if isinstance(min_side, int) else tuple(min_side)
    if any(side < low for side, low in zip(cell, least, strict=True)):
        needed = [math.ceil(low * ((n - 1) * (1 - overlap) + 1)) for n, low in zip(counts, least, strict=True)]
        sides = str(least[0]) if len(set(least)) == 1 else _times(least)
        raise SslMedError(
            f"data.patch_size {list(shape)} in {_times(counts)} cells leaves {_times(cell)} voxels a cell, and the network "
            f"needs {sides} a side: take data.patch_size of {_times(needed)} or more, fewer backbone.channels or, where the "
            "method has it, a smaller method.grid"
        )
    first = tuple((s - c - (n - 1) * t) // 2 for s, c, n, t in zip(shape, cell, counts, step, strict=True))
    gaps = tuple(min(round(gap * c), c - low) for c, low in zip(cell, least, strict=True))
    moves = tuple(min(round(jitter * c), c - g - low) for c, g, low in zip(cell, gaps, least, strict=True))
    patch = tuple(c - g - m for c, g, m in zip(cell, gaps, moves, strict=True))
    return Grid(tuple(counts), first, step, patch, tuple(g // 2 for g in gaps), moves)


def _times(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def sample_corners(batch: int, grid: Grid, generator: torch.Generator) -> Tensor:
    """First voxel of each patch, (B, P, D): its cell's margin plus U{0..jitter}, independent per patch and axis."""
    device = generator.device
    cell = torch.cartesian_prod(*(torch.arange(n, device=device) for n in grid.counts)).view(grid.cells, -1)
    first, step, margin, jitter = (
        torch.tensor(v, device=device) for v in (grid.first, grid.step, grid.margin, grid.jitter)
    )
    return first + margin + cell * step + integers(generator, (batch, grid.cells, len(grid.counts)), jitter + 1)


def cut(x: Tensor, corners: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes of `size` voxels that begin at corners (B, P, D) of x (B, C, *S) -> (B, P, C, *size)."""
    windows = x
    for axis, side in enumerate(size, start=2):
        windows = windows.unfold(axis, side, 1)  # a view
    sample = torch.arange(len(x), device=x.device)[:, None]
    # indexed dimensions that are apart move to the front: (B, P), then the channels, then the box
    index: tuple[Any, ...] = (sample, slice(None), *corners.unbind(-1))
    return windows[index]


def fold(patches: Tensor, counts: Sequence[int]) -> Tensor:
    """Patches (B, P, C, *s) laid side by side in a grid of `counts` cells -> (B, C, *(counts * s))."""
    batch, _, channels, *size = patches.shape
    dims = len(counts)
    y = patches.view(batch, *counts, channels, *size)
    order = [0, 1 + dims, *(d for axis in range(dims) for d in (1 + axis, 2 + dims + axis))]
    return y.permute(order).reshape(batch, channels, *(n * s for n, s in zip(counts, size, strict=True)))


def standardize(patches: Tensor) -> Tensor:
    """Each channel of each patch (B, P, C, *s) to mean 0 and variance 1, so that brightness reveals nothing about the place.

    The divisor is 0.01 at least: a patch of air stays flat.
    """
    flat = patches.flatten(3)
    variance, mean = torch.var_mean(flat, 3, correction=0, keepdim=True)
    return ((flat - mean) / variance.sqrt().clamp_min(_LEAST_CONTRAST)).view_as(patches)


# --- order -----------------------------------------------------------------------------------------------------------


def permute(patches: Tensor, order: Tensor) -> Tensor:
    """Slot i shows patch order[i]: patches (B, P, ...), order (B, P) -> (B, P, ...)."""
    return patches[torch.arange(len(patches), device=patches.device)[:, None], order]


def permutation_set(cells: int, count: int, *, seed: int) -> Tensor:
    """`count` different orders of `cells` patches, far from each other in Hamming distance: (count, cells) int64.

    Greedy (Noroozi and Favaro 2016): the first is random; each further one has the largest smallest distance to those
    before it, and among these the largest sum of distances. Up to nine cells all orders are candidates, beyond that 2048
    random ones per step. The same arguments give the same set.

    Raises:
        SslMedError: more orders than there are.
    """
    if not 2 <= count <= math.factorial(cells):
        raise SslMedError(
            f"method.permutations is {count}; {cells} cells have {math.factorial(cells)} orders: give a number from 2 to that"
        )
    return torch.from_numpy(_far_apart(cells, count, seed).astype(np.int64))


@lru_cache(maxsize=8)
def _far_apart(cells: int, count: int, seed: int) -> NDArray[np.int8]:
    random = np.random.RandomState(seed)  # its stream never changes between versions of numpy; that of others may
    everything = _all_orders(cells) if cells <= _ENUMERATED else None

    def candidates() -> NDArray[np.int8]:
        """(cells, candidates): compared row by row, which is three times as fast."""
        if everything is not None:
            return everything
        return np.argsort(random.random_sample((cells, _POOL)), axis=0).astype(np.int8)

    def distance(order: NDArray[np.int8]) -> NDArray[np.int8]:
        far = np.zeros(pool.shape[1], dtype=np.int8)
        for row, patch in zip(pool, order, strict=True):
            far += row != patch
        return far

    pool = candidates()
    chosen = [pool[:, random.randint(pool.shape[1])]]
    nearest = distance(chosen[0])
    total = nearest.astype(np.int32)
    while len(chosen) < count:
        # a chosen order is at distance 0 from itself and any other at 2 or more: none is taken twice
        best = np.flatnonzero(nearest == nearest.max())
        chosen.append(pool[:, best[np.argmax(total[best])]])
        if everything is not None:
            latest = distance(chosen[-1])
            nearest, total = np.minimum(nearest, latest), total + latest
        else:
            pool = candidates()
            distances = np.stack([distance(order) for order in chosen])
            nearest, total = distances.min(0), distances.sum(0, dtype=np.int32)
    return np.stack(chosen)


def _all_orders(cells: int) -> NDArray[np.int8]:
    """All permutations in lexicographic order, (cells, cells!)."""
    orders = np.zeros((0, 1), dtype=np.int8)
    for n in range(1, cells + 1):
        heads = [np.full((1, orders.shape[1]), k, dtype=np.int8) for k in range(n)]
        orders = np.hstack([np.vstack([head, orders + (orders >= head)]) for head in heads])
    return orders
