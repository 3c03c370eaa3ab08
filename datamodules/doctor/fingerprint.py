"""Is this the same image? Exactly: a hash of its voxels. Nearly: small pictures of it, aligned and correlated.

Near duplicates are the same acquisition after resampling, cropping by up to 5 % at each face, and a shift, scale or mild bend
of the intensities. Three looks, each at what the one before let pass:

1. The whole field of view, axes towards L, P, S, averaged into 12^3 or 16^2 cells: the few nearest of all others.
2. 24^3 or 32^2 cells, aligned by Gauss-Newton steps over a shift and a scale per axis, with gain and offset; correlation of
   what a Gaussian of two cells leaves, since the slow part is anatomy that all patients share.
3. 56^3 or 128^2 cells of the two files, read again: texture. Different images of one data set say what is usual there; a
   copy must stand out from them, so that phantoms, which resemble each other more than patients do, are no copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from datamodules.formats.grids import Array

CELLS = {2: 32, 3: 24}
FINE = {2: 128, 3: 56}
# Different patients of LUNA16, LiTS, BraTS, hippocampus and ChestX-ray14 reach 0.87, 95 of 100 copies lie above 0.89
ALIKE = 0.88
# ... and in the third look 0.55; of 100 copies 95 lie above 0.83 (hippocampus) and 0.52 (images of 64 pixels)
SAME = 0.6
_COARSE = {2: 16, 3: 12}
_NEIGHBOURS, _PLAUSIBLE = 5, 0.75  # pairs that are aligned: of the best at first sight, those that look alike at all
_CROPS = (0.0, 0.03, 0.06)  # first sight allows for a cropped copy
_BLOCK = 2048


def voxel_hash(array: Array) -> str:
    """Hash of shape and values, whatever the type that stores them; (x, y, z) or (rows, columns)."""
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    for piece in array.T:  # slice by slice: no second copy of a large volume; files store x fastest
        small = piece.dtype.itemsize <= 2 or float(np.abs(piece).max()) < 2**31
        whole = small and (piece.dtype.kind in "iub" or bool((piece == np.rint(piece)).all()))
        digest.update(np.ascontiguousarray(piece, np.int32 if whole else np.float64).tobytes())
    return digest.hexdigest()


def grid_of(array: Array, cells: int = 0) -> Array:
    """Averages of (x, y, z) or (rows, columns) over equal cells, as float16 of mean 0 and deviation 1."""
    cells = cells or CELLS[array.ndim]
    if array.ndim == 3:
        # planes first, one slice at a time: no floating-point copy of the volume
        rows, columns = (_averages(n, cells) for n in array.shape[:2])
        planes = np.stack([rows @ array[..., k].astype(np.float32) @ columns.T for k in range(array.shape[2])], -1)
        grid = planes @ _averages(array.shape[2], cells).T
    else:
        grid = _averages(array.shape[0], cells) @ array.astype(np.float32) @ _averages(array.shape[1], cells).T
    grid = grid - grid.mean()
    scaled: Array = (grid / max(float(grid.std()), 1e-12)).astype(np.float16)
    return scaled


def similarity(first: Array, second: Array) -> float:
    """Second look: correlation of two grids after alignment, in [-1, 1]; copies lie above `ALIKE`."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    moved = _moved(b, *_align(a, b, sigmas=(1.5, 0.7)))
    inner = (slice(2, -2),) * a.ndim  # beyond the edge a moved grid repeats itself
    wide = _blur(len(a), 2.0)
    return _correlation(*((grid - _along(grid, [wide] * a.ndim))[inner] for grid in (a, moved)))


def texture_similarity(first: Array, second: Array) -> float:
    """Third look, at whole images (x, y, z) or (rows, columns): correlation of their texture after alignment."""
    dims = first.ndim
    a, b = (grid_of(array).astype(np.float32) for array in (first, second))
    shift, scale = _align(a, b, sigmas=(1.5, 0.7))
    # no finer than the images: between their voxels there is no texture
    cells = min(FINE[dims], max(map(min, first.shape, second.shape)))
    a, b = (grid_of(array, cells).astype(np.float32) for array in (first, second))
    moved = _moved(b, *_align(a, b, sigmas=(2.0, 1.0), start=(shift, scale), steps=3))
    edge = max(1, cells // 10)
    inner, narrow, wide = (slice(edge, -edge),) * dims, _blur(cells, 0.7), _blur(cells, 1.5)
    return _correlation(*((_along(grid, [narrow] * dims) - _along(grid, [wide] * dims))[inner] for grid in (a, moved)))


def same_above(usual: Sequence[float], pairs: int) -> float:
    """Texture similarity above which two of `pairs` pairs are copies, from the `usual` one of pairs taken at random.

    Under a normal distribution of arctanh(r) the largest of n values lies near sqrt(2 ln n) deviations above the middle.
    """
    if len(usual) < 6:
        return SAME
    heights = np.arctanh(np.clip(usual, -0.999, 0.999))
    middle = float(np.median(heights))
    deviation = 1.4826 * float(np.median(np.abs(heights - middle)))
    return max(SAME, float(np.tanh(middle + (np.sqrt(2 * np.log(max(pairs, 2))) + 1) * deviation)))


def exact_groups(hashes: Sequence[str]) -> list[list[int]]:
    """Positions of images with equal voxels, groups of two or more; '' stands for an image that was not hashed."""
    groups: dict[str, list[int]] = {}
    for position, value in enumerate(hashes):
        if value:
            groups.setdefault(value, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def candidate_pairs(grids: Array) -> list[tuple[int, int]]:
    """Pairs of (N, *cells) grids that may be copies: each with those few of the others that look most like it."""
    dims = grids.ndim - 1
    cells, coarse = CELLS[dims], _COARSE[dims]
    plain = _first_sight(grids, [_averages(cells, coarse)] * dims)
    found: set[tuple[int, int]] = set()
    for low in range(0, len(grids), _BLOCK):
        best = np.full((min(_BLOCK, len(grids) - low), len(grids)), -1.0, np.float32)
        for crop in _CROPS:
            cut = _averages(cells, coarse) @ _sampled(cells, 0.0, 1 - 2 * crop)
            best = np.maximum(best, _first_sight(grids[low : low + _BLOCK], [cut] * dims) @ plain.T)
        best[np.arange(len(best)), np.arange(low, low + len(best))] = -1.0
        count = min(_NEIGHBOURS, len(grids) - 1)
        for row, nearest in enumerate(np.argpartition(-best, count - 1, axis=1)[:, :count] if count else []):
            for other in nearest[best[row, nearest] > _PLAUSIBLE]:
                found.add((min(low + row, int(other)), max(low + row, int(other))))
    return sorted(found)


def _first_sight(grids: Array, matrices: Sequence[Array]) -> Array:
    """(N, *cells) -> (N, coarse ** D) of mean 0 and length 1."""
    small = grids.astype(np.float32)
    for axis, matrix in enumerate(matrices):
        small = np.moveaxis(np.tensordot(small, matrix, axes=(axis + 1, 1)), -1, axis + 1)
    flat = small.reshape(len(grids), -1)
    flat = flat - flat.mean(1, keepdims=True)
    unit: Array = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return unit


def _align(
    a: Array, b: Array, *, sigmas: Sequence[float], start: tuple[Array, Array] | None = None, steps: int = 4
) -> tuple[Array, Array]:
    """Shift and scale per axis, in units of the field of view, that bring `b` onto `a`: Gauss-Newton, coarse to fine."""
    dims, cells = a.ndim, len(a)
    shift, scale = start or (np.zeros(dims), np.ones(dims))
    place = (np.arange(cells, dtype=np.float32) + 0.5) / cells - 0.5
    places = [place.reshape([-1 if axis == k else 1 for k in range(dims)]) for axis in range(dims)]
    for sigma in sigmas:
        blur = [_blur(cells, sigma)] * dims
        target, source = _along(a, blur).ravel(), _along(b, blur)
        for _ in range(steps):
            moved = _moved(source, shift, scale)
            columns = []
            for axis, slope in enumerate(np.gradient(moved)):
                slope = slope * np.float32(cells / scale[axis])
                columns += [slope.ravel(), (slope * places[axis]).ravel()]
            jacobian = np.stack([*columns, moved.ravel(), np.ones(moved.size, np.float32)], 1)
            normal = (jacobian.T @ jacobian).astype(np.float64)
            normal += 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal))
            solution = np.linalg.solve(normal, jacobian.T @ target)
            gain = solution[-2] if abs(solution[-2]) > 1e-3 else 1e-3
            step = solution[:-2] / gain
            shift = np.clip(shift + np.clip(step[0::2], -0.04, 0.04), -0.15, 0.15)
            scale = np.clip(scale + np.clip(step[1::2], -0.08, 0.08), 0.8, 1.25)
    return shift, scale


def _moved(grid: Array, shift: Array, scale: Array) -> Array:
    return _along(grid, [_sampled(len(grid), s, f) for s, f in zip(shift, scale, strict=True)])


def _along(grid: Array, matrices: Sequence[Array]) -> Array:
    """Applies a matrix to each axis."""
    for axis, matrix in enumerate(matrices):
        grid = np.moveaxis(np.tensordot(matrix, grid, axes=(1, axis)), 0, axis)
    return grid


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


@lru_cache(maxsize=512)
def _averages(size: int, cells: int) -> Array:
    """(cells, size): each row averages one of equal cells, with the shares of the samples on its borders."""
    edges, start = np.linspace(0, size, cells + 1), np.arange(size)
    overlap = np.minimum(edges[1:, None], start + 1) - np.maximum(edges[:-1, None], start)
    weights = np.clip(overlap, 0, 1)
    shares: Array = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares


@lru_cache(maxsize=8)
def _blur(cells: int, sigma: float) -> Array:
    place = np.arange(cells)
    weights = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    shares: Array = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares


def _sampled(cells: int, shift: float, scale: float) -> Array:
    """(cells, cells): linear interpolation at centres that are scaled about the middle and shifted."""
    place = (((np.arange(cells) + 0.5) / cells - 0.5) * scale + 0.5 + shift) * cells - 0.5
    place = np.clip(place, 0, cells - 1)
    weights: Array = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells))).astype(np.float32)
    return weights
