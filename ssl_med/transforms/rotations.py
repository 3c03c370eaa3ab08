"""Quarter turns that an image's shape admits: exact, without interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from ssl_med.transforms._sampling import on_cpu, per_sample

Rotation = tuple[tuple[int, int], int]  # plane as two spatial axes, quarter turns from the first towards the second


def rotations_of(shape: Sequence[int]) -> tuple[Rotation, ...]:
    """The identity, then plane by plane (0, 1), (0, 2), (1, 2) the turns by 1, 2, 3 quarters that keep `shape`.

    A plane with unequal sides admits the half turn only. Square: 4, other image: 2; cube: 10 (identity and three turns about
    each of three axes, as in Taleb et al. 2020), two equal sides: 6, three different ones: 4.
    """
    found: list[Rotation] = [((0, 1), 0)]
    for plane in combinations(range(len(shape)), 2):
        square = shape[plane[0]] == shape[plane[1]]
        found += [(plane, k) for k in ((1, 2, 3) if square else (2,))]
    return tuple(found)


def half_turns(dims: int) -> tuple[Rotation, ...]:
    """The identity and the half turns of the Rubik's cube task, which fit every shape.

    In 3D "horizontal" (plane of axes 1 and 2) and "vertical" (plane of axes 0 and 1), in 2D the only one there is.
    """
    return (((0, 1), 0), ((1, 2), 2), ((0, 1), 2)) if dims == 3 else (((0, 1), 0), ((0, 1), 2))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """`numpy.rot90(image, k, plane)` of each image of (B, C, *S)."""
    (first, second), turns = rotation
    return torch.rot90(x, turns, (2 + first, 2 + second))


def apply_rotations(x: Tensor, index: Tensor, rotations: Sequence[Rotation]) -> Tensor:
    """Image i of x (B, C, *S) turned by rotations[index[i]]; index (B,); a new tensor."""
    if on_cpu(x):
        return torch.cat([rotate(x[i : i + 1], rotations[k]) for i, k in enumerate(index.tolist())])
    y = x.clone()
    for k, rotation in enumerate(rotations):
        if rotation[1]:
            y = torch.where(per_sample(index == k, x), rotate(x, rotation), y)
    return y
