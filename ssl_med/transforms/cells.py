"""Images as grids of equal cells: cells change places, turn, or are masked.

Inputs are (B, C, *S), never changed in place; the cell's sides divide the image's. Cells are numbered row-major, and so are
the voxels within a cell. All channels of a sample share what happens to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_med.spec import SslMedError
from ssl_med.transforms._sampling import integers, rearranged, uniform


def grid_of(shape: Sequence[int], side: Sequence[int]) -> tuple[int, ...]:
    """Cells per axis.

    Raises:
        SslMedError: cells that do not fill the image.
    """
    if len(side) != len(shape) or any(a < 1 or s % a for s, a in zip(shape, side, strict=False)):
        raise SslMedError(f"cells of {list(side)} voxels do not fill {list(shape)}; each side must divide the image's")
    return tuple(s // a for s, a in zip(shape, side, strict=True))


def largest_side(shape: Sequence[int], limit: Sequence[int]) -> tuple[int, ...]:
    """The longest sides that divide the image's and are not above `limit`."""
    return tuple(max(a for a in range(1, max(1, top) + 1) if s % a == 0) for s, top in zip(shape, limit, strict=True))


def split_cells(x: Tensor, side: Sequence[int]) -> Tensor:
    """(B, C, *S) -> (B, C, N, V): N cells of V voxels."""
    grid = grid_of(x.shape[2:], side)
    parts = [size for pair in zip(grid, side, strict=True) for size in pair]
    dims = len(grid)
    y = x.reshape(*x.shape[:2], *parts).permute(0, 1, *range(2, 2 + 2 * dims, 2), *range(3, 3 + 2 * dims, 2))
    return y.reshape(*x.shape[:2], math.prod(grid), math.prod(side))


def join_cells(y: Tensor, shape: Sequence[int], side: Sequence[int]) -> Tensor:
    """Inverse of `split_cells`: (B, C, N, V) -> (B, C, *shape)."""
    grid = grid_of(shape, side)
    dims = len(grid)
    order = [2 + axis + offset for axis in range(dims) for offset in (0, dims)]
    return y.reshape(*y.shape[:2], *grid, *side).permute(0, 1, *order).reshape(*y.shape[:2], *shape)


@lru_cache(maxsize=16)
def turns(side: tuple[int, ...]) -> Tensor:
    """(R, V) int64: the rotations of a cell that keep its shape; entry j of a row is the voxel that voxel j shows.

    Row 0 is the identity. A cube has 24, a box with two equal sides 8, any other box 4; a square has 4, a rectangle 2.
    """
    dims, count = len(side), math.prod(side)
    voxels = torch.arange(count).view(side)
    rows = []
    for axes in itertools.permutations(range(dims)):
        inversions = sum(a > b for a, b in itertools.combinations(axes, 2))
        turned = voxels.permute(axes)
        if tuple(turned.shape) != tuple(side):
            continue
        for mirrored in itertools.product((False, True), repeat=dims):
            if (inversions + sum(mirrored)) % 2 == 0:  # determinant 1: no reflection
                rows.append(turned.flip([axis for axis in range(dims) if mirrored[axis]]).flatten())
    return torch.stack(rows)


class Arrangement(NamedTuple):
    """Which cell is shown in each place, and the row of `turns` that it is turned by; both (B, N) int64."""

    order: Tensor
    turn: Tensor


def sample_arrangement(
    batch: int,
    shape: Sequence[int],
    generator: torch.Generator,
    *,
    side: Sequence[int],
    share: float,
    permute: bool,
    rotate: bool,
) -> Arrangement:
    """A random `share` of the cells (at least two) changes places among itself and turns, as the switches say."""
    device, count = generator.device, math.prod(grid_of(shape, side))
    moved = min(count, max(2, round(share * count))) if share > 0 else 0
    chosen = uniform(generator, batch, count).argsort(1)[:, :moved]
    mixed = chosen.gather(1, uniform(generator, batch, moved).argsort(1)) if permute else chosen
    order = torch.arange(count, device=device).repeat(batch, 1).scatter(1, chosen, mixed)
    turn = torch.zeros_like(order)
    if rotate:
        kinds = torch.tensor(len(turns(tuple(side))), device=device)
        turn = turn.scatter(1, chosen, integers(generator, (batch, moved), kinds))
    return Arrangement(order, turn)


def apply_arrangement(x: Tensor, params: Arrangement, side: Sequence[int]) -> Tensor:
    """Puts turned cells into their places; exact, without interpolation."""
    shape = x.shape[2:]
    voxels = torch.arange(math.prod(shape), device=x.device).view(1, 1, *shape)
    cells = split_cells(voxels, side)[0, 0]  # (N, V): where each voxel of each cell lies
    inner = turns(tuple(side)).to(x.device)[params.turn]  # (B, N, V)
    source = cells[params.order].gather(2, inner)
    return rearranged(x, join_cells(source[:, None], shape, side).flatten(1))


def rearrange(
    x: Tensor,
    generator: torch.Generator,
    *,
    side: Sequence[int],
    share: float = 1.0,
    permute: bool = True,
    rotate: bool = False,
) -> Tensor:
    """Shuffles a random `share` of the cells of `side` voxels when `permute`, and turns them when `rotate`.

    The result is a permutation of the image's values. Cells that are no cubes turn only as their shape allows.
    """
    params = sample_arrangement(len(x), x.shape[2:], generator, side=side, share=share, permute=permute, rotate=rotate)
    return apply_arrangement(x, params, side)


def sample_cells(batch: int, count: int, generator: torch.Generator, *, share: float) -> Tensor:
    """(B, N) bool: the same number of random cells in every sample, round(share N) but at least one and not all."""
    chosen = min(count - 1, max(1, round(share * count)))
    rank = uniform(generator, batch, count).argsort(1).argsort(1)
    return rank < chosen


def cells_mask(chosen: Tensor, shape: Sequence[int], side: Sequence[int]) -> Tensor:
    """(B, N) of cells -> (B, 1, *shape) of voxels."""
    return join_cells(chosen[:, None, :, None].expand(-1, 1, -1, math.prod(side)), shape, side)


def hide_cells(
    x: Tensor, generator: torch.Generator, *, side: Sequence[int], share: float = 0.75, value: float = 0.0
) -> Tensor:
    """Sets a random `share` of the cells of `side` voxels to `value`: the mask of MAE (He et al. 2022), of an image."""
    if share == 0:
        return x.clone()
    count = math.prod(grid_of(x.shape[2:], side))
    chosen = sample_cells(len(x), count, generator, share=share)
    return x.masked_fill(cells_mask(chosen, x.shape[2:], side), value)
