"""Crops at anatomical positions that all scans share, and scans shrunk to thumbnails: what Semantic Genesis learns from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from datamodules.core.crops import Grid, Size, cut, resize
from datamodules.core.intensity import decode
from datamodules.core.starts import start_grid
from datamodules.formats.grids import Array
from ssl_med.spec import Positions


def places(count: int, dims: int) -> Array:
    """(count, dims) in (0, 1): the first points of a sequence that fills the cube evenly.

    Point n is frac(1/2 + n a), with a_k = g^-k and g the root of g^(dims + 1) = g + 1 (Roberts 2018), so that neither a
    seed nor the number of points moves a point.
    """
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dims + 1))
    step = root ** -np.arange(1.0, dims + 1)
    points: Array = (0.5 + np.arange(1, count + 1)[:, None] * step) % 1
    return points


def position_box(
    shape: Size,
    place: Array,
    rng: np.random.Generator | None,
    *,
    positions: Positions,
    patch: Size,
    margin: Size | None = None,
) -> tuple[Array, Size]:
    """Start and size in voxels of the crop at a place of a scan.

    The crop's middle is where a crop of the usual size would have it, at the share `place` of its ways (from `border` to
    1 - `border`). Size and shift are drawn around that, or not without `rng`.

    Args:
        shape: of the scan.
        place: (D,) in [0, 1].
        rng: source of size and shift.
        positions: the method's request.
        patch: size of a crop after resampling.
        margin: voxels at each end of an axis that no crop of the usual size touches.
    """
    usual = [
        max(1, round(positions.share * n) if positions.share else min(p, n // 2))
        for n, p in zip(shape, patch, strict=True)
    ]
    grid, offset = start_grid(shape, tuple(usual), margin)
    way = positions.border + place * (1 - 2 * positions.border)
    middle = np.array(offset) + way * (np.array(grid) - 1) + np.array(usual) / 2
    size, shift = np.array(usual, float), np.zeros(len(shape))
    if rng is not None:
        size[:2] *= rng.uniform(*positions.scale)
        shift = rng.uniform(-1, 1, len(shape)) * positions.jitter * usual
    rounded = np.clip(np.rint(size), 1, shape).astype(int)
    start = np.clip(np.rint(middle + shift - rounded / 2), 0, np.array(shape) - rounded).astype(int)
    return start, tuple(rounded.tolist())


def position_crop(
    codes: Array | Grid, rng: np.random.Generator, *, positions: Positions, patch: Size, margin: Size | None = None
) -> dict[str, Any]:
    """`image` (C, *patch) at a random one of the positions, and `instance`, its number."""
    number = int(rng.integers(positions.count))
    place = places(positions.count, len(patch))[number]
    start, size = position_box(codes.shape[1:], place, rng, positions=positions, patch=patch, margin=margin)
    image = resize(decode(cut(codes, start, size)), patch).clamp(0, 1).contiguous()
    return {"image": image, "instance": number}


def thumbnail(codes: Array | Grid, size: Size) -> torch.Tensor:
    """Means over boxes of a whole scan, codes (C, *S) -> (C, *size) in [0, 1]; reads it slab by slab."""
    length, count = codes.shape[1], size[0]
    slabs = [
        codes[:, k * length // count : math.ceil((k + 1) * length / count)].mean(1, dtype=np.float32)
        for k in range(count)
    ]
    planes = decode(np.stack(slabs, 1))  # (C, size[0], *S[1:])
    if len(size) == 2:
        return F.adaptive_avg_pool1d(planes, size[1])
    return F.adaptive_avg_pool2d(planes, (size[1], size[2]))
