"""Shapes, trees and noise from which the phantoms are drawn.

Everything is laid out in millimetres around the center of the field of view, x to the patient's left, y to the back, z up,
so that a coarser grid shows the same patient. A `depth` is an approximate signed distance to a surface in mm, positive inside;
`occupancy` turns it into the fraction of the voxel that lies inside (partial volume).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

Array = np.ndarray[Any, Any]
Point = Sequence[float] | Array


class Grid:
    """Voxel centers of a field of view of `size` voxels of `spacing` mm, in 2D or 3D."""

    def __init__(self, size: Sequence[int], spacing: Sequence[float]) -> None:
        self.size = tuple(size)
        self.spacing = tuple(float(step) for step in spacing)
        self.voxel = float(np.mean(self.spacing))
        self.half = tuple(n * step / 2 for n, step in zip(self.size, self.spacing, strict=True))
        lines = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(self.size, self.spacing, strict=True)]
        self.lines = [line.astype(np.float32) for line in lines]
        dims = range(len(self.size))
        self._shapes = [tuple(-1 if axis == k else 1 for axis in dims) for k in dims]
        #: one broadcastable coordinate array per axis, mm
        self.axes: list[Array] = list(np.meshgrid(*self.lines, indexing="ij", sparse=True))

    def ellipsoid(self, center: Point, radii: Point, *, power: float = 2.0, turn: float = 0.0) -> Array:
        """Depth of a (super)ellipsoid with semi-axes `radii` mm, turned by `turn` radians in the first two axes."""
        first, second, *rest = (axis - c for axis, c in zip(self.axes, center, strict=True))
        if turn:
            cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            first, second = cos * first + sin * second, cos * second - sin * first
        total = sum(
            np.abs(axis / np.float32(r)) ** power for axis, r in zip((first, second, *rest), radii, strict=True)
        )
        depth: Array = (1 - total ** np.float32(1 / power)) * np.float32(np.mean(radii))
        return depth

    def window(self, low: Point, high: Point) -> tuple[slice, ...]:
        """Index range that covers the box from `low` to `high` mm, cut at the border (possibly empty)."""
        ends = zip(self.lines, low, high, strict=True)
        return tuple(slice(*(int(np.searchsorted(line, end)) for end in pair)) for line, *pair in ends)

    def offsets(self, where: tuple[slice, ...], point: Point) -> list[Array]:
        """Coordinates relative to `point` inside a window, one broadcastable array per axis, mm."""
        return [
            (line[w] - np.float32(p)).reshape(shape)
            for line, w, p, shape in zip(self.lines, where, point, self._shapes, strict=True)
        ]

    def index(self, points: Array) -> Array:
        """(N, D) mm -> (N, D) nearest voxel indices inside the grid."""
        voxels = np.asarray(points) / self.spacing + (np.array(self.size) - 1) / 2
        nearest: Array = np.clip(np.rint(voxels), 0, np.array(self.size) - 1).astype(int)
        return nearest

    def tubes(self, segments: Array) -> Array:
        """Occupancy of tapered tubes: rows of start (D), end (D), first and last radius in mm. Thin tubes fade."""
        dims = len(self.size)
        out = np.zeros(self.size, np.float32)
        rows = np.asarray(segments, np.float32).reshape(-1, 2 * dims + 2)
        starts, ends, radii = rows[:, :dims], rows[:, dims : 2 * dims], rows[:, 2 * dims :]
        reach = radii.max(1, keepdims=True) + self.voxel
        lows, highs = np.minimum(starts, ends) - reach, np.maximum(starts, ends) + reach
        low = np.stack([np.searchsorted(line, lows[:, k]) for k, line in enumerate(self.lines)], 1)
        high = np.stack([np.searchsorted(line, highs[:, k]) for k, line in enumerate(self.lines)], 1)
        ways = ends - starts
        squares = np.maximum((ways**2).sum(1), 1e-6)
        # trees have thousands of short segments: those whose windows are equally large are drawn together
        sizes, kind = np.unique(high - low, axis=0, return_inverse=True)
        for number, size in enumerate(sizes):
            if not size.all():
                continue  # outside of the field of view
            members = np.flatnonzero(kind.reshape(-1) == number)
            for part in np.array_split(members, math.ceil(len(members) * size.prod() / _DRAWN_TOGETHER)):
                where = low[part]
                share = self._tube_shares(where, size, starts[part], ways[part], squares[part], radii[part])
                places = np.zeros((len(part), *[1] * dims), int)
                for k, count in enumerate(size):
                    index = where[:, k, None] + np.arange(count)
                    places = places * self.size[k] + along(index, k, dims)
                np.maximum.at(out.reshape(-1), places.reshape(-1), share.reshape(-1))
        return out

    def _tube_shares(self, low: Array, size: Array, starts: Array, ways: Array, squares: Array, radii: Array) -> Array:
        """(N, *size) occupancy by each of N tubes of its own window, which begins at index `low` (N, D)."""

        def wide(numbers: Array) -> Array:
            return numbers.reshape(-1, *[1] * len(size))

        offsets = [
            along(line[low[:, k, None] + np.arange(count)] - starts[:, k, None], k, len(size))
            for k, (line, count) in enumerate(zip(self.lines, size, strict=True))
        ]
        t = sum(offset * wide(ways[:, k] / squares) for k, offset in enumerate(offsets))
        t = np.minimum(np.maximum(t, 0), 1)
        distance = sum((offset - t * wide(ways[:, k])) ** 2 for k, offset in enumerate(offsets))
        radius = wide(radii[:, 0]) + t * wide(radii[:, 1] - radii[:, 0])
        inside = (radius - np.sqrt(distance)) * np.float32(1 / self.voxel) + np.float32(0.5)
        share: Array = np.minimum(np.minimum((2 / self.voxel * radius) ** 1.5, inside), 1)
        return share

    def occupancy(self, depth: Array, width: float = 1.0) -> Array:
        """Depth in mm -> fraction of the voxel inside, over an edge of `width` voxels."""
        inside: Array = np.clip(depth / np.float32(self.voxel * width) + 0.5, 0, 1)
        return inside

    def noise(self, rng: np.random.Generator, cell: float) -> Array:
        """Smooth random field of unit deviation whose details are about `cell` mm large (cubic B-spline of white noise)."""
        weights = [_spline(n, step / cell) for n, step in zip(self.size, self.spacing, strict=True)]
        field = rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
        for axis, weight in enumerate(weights):
            field = np.moveaxis(np.tensordot(weight, field, axes=(1, axis)), 0, axis)
        smooth: Array = field / np.float32(_SPLINE_DEVIATION ** len(self.size))
        return smooth


# voxels of windows that are computed in one array: enough to hide the cost of a call, few enough for the cache
_DRAWN_TOGETHER = 1 << 14

# root mean square over the cell of the weights' norm: what white noise of deviation 1 becomes along one axis
_SPLINE_DEVIATION = 0.692


def _spline(count: int, step: float) -> Array:
    """(count, knots) weights of the uniform cubic B-spline at `count` points that are `step` knots apart."""
    place = np.arange(count) * step
    cell = np.floor(place).astype(int)
    u = place - cell
    basis = [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]
    weights = np.zeros((count, int(cell[-1]) + 4), np.float32)
    for shift, value in enumerate(basis):
        weights[np.arange(count), cell + shift] = value / 6
    return weights


def along(rows: Array, axis: int, dims: int) -> Array:
    """(N, n) numbers -> (N, 1, n, 1): those of each row lie along one of `dims` axes."""
    return np.expand_dims(rows, tuple(1 + k for k in range(dims) if k != axis))


def fill(image: Array, share: Array, value: Array | float) -> None:
    """Replaces `share` of what each voxel holds by `value`, in place."""
    image += share * (value - image)


def paint(image: Array, share: Array, color: Sequence[float]) -> None:
    """`fill` for images whose last axis is the color."""
    for channel, value in enumerate(color):
        fill(image[..., channel], share, value)


def blend(first: Array, second: Array, width: float) -> Array:
    """Union of two depths whose crease is rounded over `width` mm (polynomial smooth maximum)."""
    overlap = np.clip(0.5 + 0.5 * (first - second) / width, 0, 1)
    union: Array = second + overlap * (first - second) + width * overlap * (1 - overlap)
    return union


def path(points: Sequence[Point], radii: Sequence[float]) -> Array:
    """Tube segments along a polyline with one radius in mm per point."""
    p, r = np.asarray(points, float), np.asarray(radii, float)[:, None]
    segments: Array = np.hstack([p[:-1], p[1:], r[:-1], r[1:]])
    return segments


def unit(vector: Array) -> Array:
    """The vector scaled to length one."""
    direction: Array = vector / max(math.sqrt(vector @ vector), 1e-9)
    return direction


def tree(
    rng: np.random.Generator, root: Point, toward: Point, *, radius: float, smallest: float, reach: float
) -> Array:
    """Branching vessel from `root` in direction `toward`, as tube segments.

    Radii follow Murray's law at every fork, r^3 = r1^3 + r2^3, down to `smallest` mm; a branch is `reach` times its radius
    to the power 0.7 long and bends on its way.
    """
    rows: list[Array] = []
    stack = [(np.asarray(root, float), unit(np.asarray(toward, float)), radius)]
    while stack:
        point, heading, r = stack.pop()
        share = rng.uniform(0.25, 0.5)
        thick, thin = r * (1 - share) ** (1 / 3), r * share ** (1 / 3)
        length = reach * r**0.7 * rng.uniform(0.7, 1.3)
        for taper in ((r, (r + thick) / 2), ((r + thick) / 2, thick)):
            heading = unit(heading + rng.normal(0, 0.22, len(heading)))
            end = point + heading * length / 2
            rows.append(np.concatenate([point, end, taper]))
            point = end
        side = rng.normal(size=len(heading))
        side = unit(side - (side @ heading) * heading)
        for child, angle in ((thick, -0.35), (thin, 0.75)):
            if child > smallest:
                turned = unit(heading + side * np.tan(angle * rng.uniform(0.7, 1.3)))
                stack.append((point, turned, child))
    return np.array(rows)


def blob(
    grid: Grid, rng: np.random.Generator, center: Point, radius: float, *, rough: float, stretch: float = 0.25
) -> tuple[tuple[slice, ...], Array]:
    """A lobulated lump: its window in the grid and its depth there; `rough` is the lobe height per radius."""
    center = np.asarray(center, float)
    where = grid.window(center - 2 * radius - grid.voxel, center + 2 * radius + grid.voxel)
    scale = radius * np.exp(rng.uniform(-stretch, stretch, len(center)))
    scale *= radius / float(np.prod(scale)) ** (1 / len(center))  # keeps the volume
    local = grid.offsets(where, center)
    rho = np.sqrt(sum((offset / r) ** 2 for offset, r in zip(local, scale, strict=True)))
    # lobes: a few random plane waves in the direction from the center, the same at every voxel size
    waves = rng.normal(0, 2.2 / radius, (4, len(center)))
    phases = rng.uniform(0, 2 * np.pi, 4)
    lobes = sum(
        np.cos(sum(o * k for o, k in zip(local, wave, strict=True)) + phase)
        for wave, phase in zip(waves, phases, strict=True)
    )
    depth: Array = radius * (1 - rho + rough * lobes / 2)
    return where, depth.astype(np.float32)


def grain(rng: np.random.Generator, size: Sequence[int], sigma: float) -> Array:
    """Correlated detector noise of unit deviation, blurred by `sigma` voxels."""
    white = ndimage.gaussian_filter(rng.standard_normal(tuple(size), dtype=np.float32), sigma, mode="wrap")
    noise: Array = white / white.std()
    return noise
