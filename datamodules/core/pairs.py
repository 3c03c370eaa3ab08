"""Pairs of overlapping crops that have sizes of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.core.starts import Size, Starts
from datamodules.formats.grids import Array

Box = tuple[Array, Size]
"""Start voxel (D,) and size of a crop."""
_PROPOSALS, _ROUNDS = 4096, 8


def box_iou(first: Array, size: Size, second: Array, other: Size) -> Array:
    """(N, D) and (N, D) starts of boxes of `size` and of `other` -> (N,) intersection over union."""
    one, two = np.array(size), np.array(other)
    sides = np.minimum(first + one, second + two) - np.maximum(first, second)
    shared = np.clip(sides, 0, None).prod(-1)
    found: Array = shared / (one.prod() + two.prod() - shared)
    return found


def draw_sizes(choices: Sequence[Starts], min_iou: float, rng: np.random.Generator) -> tuple[Box, Box]:
    """Two windows with IoU above `min_iou`.

    Their pair of sizes is uniform over those that can overlap so much, their starts are uniform over the pairs of these sizes
    that pass. When thousands of proposals in a row fail, both windows have one size, as from `Starts.draw_pair`.

    Args:
        choices: starts of each size, none of them empty.
        min_iou: below 1.
        rng: source of the draws.
    """
    origin = np.zeros(len(choices[0].size), int)
    able = [(a, b) for a in choices for b in choices if _best(a, b, origin) > min_iou]
    one, other = able[rng.integers(len(able))]
    low, high = 1 - np.array(other.size), np.array(one.size)  # shifts with which the two meet at all
    offset = np.array(one.offset) - np.array(other.offset)
    for _ in range(_ROUNDS):
        # as in `Starts.draw_pair`: each pair, a start and a shift, is proposed equally often
        first = rng.integers(0, one.grid, (_PROPOSALS, len(origin)))
        shift = rng.integers(low, high, first.shape)
        second = first + shift + offset
        inside = ((second >= 0) & (second < np.array(other.grid))).all(1)
        rows = np.flatnonzero(inside & (box_iou(origin, one.size, shift, other.size) > min_iou))
        rows = rows[one.passes(first[rows]) & other.passes(second[rows])]
        if rows.size:
            row = rows[0]
            return (first[row] + one.offset, one.size), (second[row] + other.offset, other.size)
    equal = one.draw_pair(min_iou, rng)
    return (equal[0], one.size), (equal[1], one.size)


def _best(one: Starts, other: Starts, origin: Array) -> float:
    """The largest IoU that windows of these sizes can have."""
    return float(box_iou(origin, one.size, origin, other.size))
