"""Crops are cut: windows of volumes, padded where they leave the volume, and random boxes of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.formats.grids import Array

Size = tuple[int, ...]


class Grid(Protocol):
    """What crops are cut from: an array, or one that reads windows from a store when it is asked for them."""

    @property
    def shape(self) -> Size:
        """(C, *S)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what a window holds."""

    @property
    def ndim(self) -> int:
        """1 + the number of spatial axes."""

    @property
    def nbytes(self) -> int:
        """Memory held."""

    def __getitem__(self, window: Any, /) -> Array:
        """Slices of the axes, or `...`."""


def cut(array: Array | Grid, start: Array, size: Size, *, pad: int = 0) -> Array:
    """A copy of the window at `start` (which may lie outside) of the last axes of `array`; outside is `pad`."""
    lead = array.shape[: array.ndim - len(size)]
    space = array.shape[len(lead) :]
    low = [max(0, int(s)) for s in start]
    high = [min(n, int(s) + w) for n, s, w in zip(space, start, size, strict=True)]
    window: tuple[Any, ...] = (..., *(slice(a, b) for a, b in zip(low, high, strict=True)))
    if [b - a for a, b in zip(low, high, strict=True)] == list(size):
        inside: Array = array[window]
        return inside.copy() if inside.base is not None else inside
    out = np.full((*lead, *size), pad, array.dtype)
    if all(b > a for a, b in zip(low, high, strict=True)):
        place = (slice(a - int(s), b - int(s)) for a, b, s in zip(low, high, start, strict=True))
        target: tuple[Any, ...] = (..., *place)
        out[target] = array[window]
    return out


@dataclass(frozen=True)
class Window:
    """What is cut in place of a crop: first voxel (D,), size, and where in it the middle of the crop lies, in voxels."""

    start: Array
    size: Size
    middle: tuple[float, ...]


def around(start: Array, patch: Size, size: Size | None, shape: Size) -> Window:
    """The window of `size` around the crop at `start`, without what lies outside of both the crop and the scan.

    Args:
        start: (D,) first voxel of the crop, which may lie outside of the scan.
        patch: its size.
        size: wanted; each side even where that of the crop is. None: the crop itself.
        shape: of the scan.
    """
    low = np.asarray(start) - (np.array(size or patch) - patch) // 2
    high = low + np.array(size or patch)
    if size is not None:
        inside_low, inside_high = np.minimum(start, 0), np.maximum(np.asarray(start) + patch, shape)
        low, high = np.maximum(low, inside_low), np.minimum(high, inside_high)
    middle = np.asarray(start) + (np.array(patch) - 1) / 2 - low
    return Window(low, tuple((high - low).tolist()), tuple(middle.tolist()))


def pad_to(array: Array, size: Size, *, pad: int = 0) -> Array:
    """Grows the last axes of `array` to at least `size`, the content in the middle; unchanged when it fits."""
    space = array.shape[array.ndim - len(size) :]
    target = tuple(max(n, s) for n, s in zip(space, size, strict=True))
    if target == space:
        return array
    start = np.array([-((t - n) // 2) for t, n in zip(target, space, strict=True)])
    return cut(array, start, target, pad=pad)


def window_start(shape: Size, size: Size, rng: np.random.Generator | None) -> Array:
    """Start (D,) of a window inside `shape`: random, or in the middle without `rng`."""
    room = [n - s for n, s in zip(shape, size, strict=True)]
    return np.array([int(rng.integers(r + 1)) if rng is not None else r // 2 for r in room])


def resize(x: torch.Tensor, size: Size) -> torch.Tensor:
    """(C, *S) -> (C, *size): trilinear in 3D, bilinear with anti-aliasing in 2D."""
    if tuple(x.shape[1:]) == tuple(size):
        return x
    if len(size) == 3:
        return F.interpolate(x[None], size=size, mode="trilinear", align_corners=False)[0]
    return F.interpolate(x[None], size=size, mode="bilinear", antialias=True)[0]


def image_boxes(shape: Size, rng: np.random.Generator, *, min_iou: float, area: tuple[float, float]) -> Array:
    """Two overlapping random boxes in an image (random resized crop, PCRL 2D).

    Area is uniform in `area` (share of the image), aspect log-uniform in [3/4, 4/3], both boxes independent; of 1024
    such pairs the first with IoU above `min_iou` is taken, else the one that overlaps most.

    Returns:
        (2, 4) int: top, left, height, width in pixels.
    """
    n = 1024
    share = rng.uniform(*area, (n, 2)) * math.prod(shape)
    aspect = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), (n, 2)))
    extent = np.stack([np.sqrt(share / aspect), np.sqrt(share * aspect)], -1)
    extent = np.clip(np.rint(extent), 1, shape).astype(int)
    start = rng.integers(0, np.array(shape) - extent + 1)
    end = start + extent
    inner = np.clip(np.minimum(end[:, 0], end[:, 1]) - np.maximum(start[:, 0], start[:, 1]), 0, None).prod(-1)
    iou = inner / (extent.prod(-1).sum(-1) - inner)
    good = np.flatnonzero(iou > min_iou)
    chosen = good[0] if good.size else int(iou.argmax())
    boxes: Array = np.concatenate([start[chosen], extent[chosen]], -1)
    return boxes
