"""A plan for a segmentation network from what a data set is like: voxel size, patch, depth along each axis, batch.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021), read in MIC-DKFZ/nnUNet @ 0e49508. Where we differ: the memory of
a step is counted (`footprint.step_bytes`) and not taken from a reference network; axes keep the order of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ssl_med.spec import SslMedError

ANISOTROPIC = 3  # times as thick as the other axes' voxels, and as few of them
_EDGE = 4  # least side of the deepest level
_LEVELS = 2  # that a network has at least
_START = {2: 2048, 3: 256}  # side of the square or cube that has the first patch's volume
_WIDEST = {2: 512, 3: 320}  # channels of the deepest levels
_FIRST = 32  # channels of the first level
_SHARE = 0.05  # of all training voxels that a batch may hold
_SMALLEST_BATCH = 2
_MAYBE = 1.1  # bytes are counted anew for patches that by their voxels need at most so many times the memory

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Strides and kernels of each level along each axis, finest first; sides must be multiples of `divisor`."""

    strides: tuple[Shape, ...]
    kernels: tuple[Shape, ...]

    @property
    def divisor(self) -> Shape:
        """Product of the strides along each axis."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))

    @property
    def features(self) -> tuple[int, ...]:
        """Channels of each level: 32, doubled up to 320 in 3D and 512 in 2D."""
        widest = _WIDEST[len(self.strides[0])]
        return tuple(min(widest, _FIRST * 2**level) for level in range(len(self.strides)))


@dataclass(frozen=True)
class NetworkPlan:
    """Patch, network and batch for one voxel size; `bytes`: of a training step with that batch."""

    patch: Shape
    topology: Topology
    batch: int
    bytes: int


Count = Callable[[Shape, Topology, int], int]
"""Bytes of a training step for a patch, a network and a batch."""


def target_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """The voxel size to resample to: the median along each axis.

    On an axis whose voxels are more than three times as thick as those of all others, and fewer than a third as many, it is the
    10th percentile, but not below the others: the median would blur what the better scans have.

    Args:
        spacings: of each scan in mm, (N, D).
        shapes: of each scan in voxels, (N, D).
    """
    sizes = np.array(spacings, float)
    target, count = np.median(sizes, 0), np.median(np.array(shapes, float), 0)
    thick = int(np.argmax(target))
    others = [axis for axis in range(len(target)) if axis != thick]
    if target[thick] > ANISOTROPIC * target[others].max() and count[thick] * ANISOTROPIC < count[others].min():
        target[thick] = max(float(np.percentile(sizes[:, thick], 10)), float(target[others].max()))
    return tuple(float(size) for size in target)


def median_shape(
    spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], target: Sequence[float]
) -> Shape:
    """Median shape in voxels after resampling each scan to `target` mm."""
    resampled = np.round(np.array(shapes, float) * np.array(spacings, float) / np.array(target, float))
    return tuple(max(1, round(side)) for side in np.median(resampled, 0))


def topology(spacing: Sequence[float], patch: Sequence[int], *, exact: bool = False) -> Topology:
    """Levels of the network: an axis is halved while it is 8 voxels long and no finer axis could be halved first.

    Axes are halved together whose voxels are less than twice as thick as the thinnest that can be halved, at that level. A
    kernel is 1 along an axis until its voxels are less than twice as thick as the thinnest, and 3 from there on.

    Args:
        spacing: voxel size along each axis.
        patch: sides in voxels.
        exact: halve even sides alone, so that the patch stays as it is.
    """
    dims = len(spacing)
    size, side = list(spacing), [int(length) for length in patch]
    strides: list[Shape] = [(1,) * dims]
    kernels: list[Shape] = []
    kernel = [1] * dims
    while True:
        able = [a for a in range(dims) if side[a] >= 2 * _EDGE and not (exact and side[a] % 2)]
        if not able:
            break
        finest = min(size[a] for a in able)
        able = [a for a in able if size[a] / finest < 2]
        if len(able) == 1 and side[able[0]] < 3 * _EDGE:
            break
        kernel = [3 if size[a] / min(size) < 2 else kernel[a] for a in range(dims)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in able else 1 for a in range(dims)))
        for a in able:
            size[a], side[a] = 2 * size[a], -(-side[a] // 2)
    return Topology(tuple(strides), (*kernels, (3,) * dims))


def padded(patch: Sequence[int], spacing: Sequence[float]) -> tuple[Shape, Topology]:
    """The patch with its sides rounded up to what its network halves, and the network."""
    found = topology(spacing, patch)
    return tuple(-(-side // by) * by for side, by in zip(patch, found.divisor, strict=True)), found


def first_patch(spacing: Sequence[float], median: Shape) -> Shape:
    """As long in mm along each axis, of 256^3 voxels (2048^2 in 2D), and no longer than the median image."""
    inverse = 1 / np.array(spacing, float)
    scale = _START[len(spacing)] / math.prod(inverse) ** (1 / len(spacing))
    return tuple(min(round(side * scale), limit) for side, limit in zip(inverse.tolist(), median, strict=True))


def reduced(patch: Shape, spacing: Sequence[float], median: Shape) -> tuple[Shape, Topology] | None:
    """The next smaller patch: less of the axis that covers most of the median image; None: there is no smaller one."""
    longest = max(range(len(patch)), key=lambda a: patch[a] / median[a])
    shorter = list(patch)
    shorter[longest] -= topology(spacing, patch).divisor[longest]
    if shorter[longest] < 1:
        return None
    # a step of the shorter patch's own divisor, which may be smaller: 224 lies between 256 and 192
    step = topology(spacing, shorter).divisor[longest]
    shorter[longest] = patch[longest] - step
    smaller = padded(shorter, spacing)
    return smaller if len(smaller[1].strides) >= _LEVELS else None


def fit(
    spacing: Sequence[float],
    median: Shape,
    scans: int,
    *,
    count: Count,
    budget: int,
    patch: Shape = (),
    batch: int = 0,
) -> NetworkPlan:
    """The largest patch of which a batch fits into `budget` bytes, and as many samples as then fit.

    Args:
        spacing: voxel size along each axis.
        median: median shape at that voxel size.
        scans: number of training scans; a batch holds at most 5 % of their voxels, or two samples.
        count: bytes of a training step.
        budget: bytes that there are.
        patch: given by the user, else planned.
        batch: given by the user, else planned.

    Raises:
        SslMedError: the budget does not hold the smallest, or the given, patch.
    """
    count, least = cache(count), batch or _SMALLEST_BATCH
    if patch:
        network: Topology = topology(spacing, patch, exact=True)
    else:
        patch, network = padded(first_patch(spacing, median), spacing)
        per_voxel = 0.0
        while True:
            if per_voxel * math.prod(patch) <= _MAYBE * budget:
                used = count(patch, network, least)
                if used <= budget:
                    break
                per_voxel = used / math.prod(patch)
            smaller = reduced(patch, spacing, median)
            if smaller is None:
                break
            patch, network = smaller
    sides, smaller_one = "x".join(map(str, patch)), "a smaller batch" if batch else "a smaller data.patch_size"
    if len(network.strides) < _LEVELS:
        raise SslMedError(
            f"data.patch_size of {sides} voxels is too small for a network of two levels; give patches, by a finer "
            "data.spacing_mm if need be, of 12 voxels or more along an axis"
        )
    used = count(patch, network, least)
    if used > budget:
        raise SslMedError(
            f"memory holds {budget / 2**30:.2f} GiB for a training step, a batch of {least} patches of {sides} voxels needs "
            f"{used / 2**30:.2f}: give more memory, or {smaller_one}"
        )
    plan = NetworkPlan(patch, network, least, used)
    return plan if batch else _widened(plan, median, scans, count=count, budget=budget)


def _widened(plan: NetworkPlan, median: Shape, scans: int, *, count: Count, budget: int) -> NetworkPlan:
    """The plan with as many samples as fit, and as 5 % of the voxels allow."""
    most = round(_SHARE * scans * math.prod(median) / math.prod(plan.patch))
    if most <= plan.batch:
        return plan
    each = count(plan.patch, plan.topology, 2 * plan.batch) - plan.bytes  # of twice `plan.batch` samples less that
    batch = min(most, plan.batch + math.floor((budget - plan.bytes) / (each / plan.batch)))
    while batch > plan.batch and (used := count(plan.patch, plan.topology, batch)) > budget:
        batch -= 1
    return replace(plan, batch=batch, bytes=used) if batch > plan.batch else plan
