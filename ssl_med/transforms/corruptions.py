"""Corruptions that a network learns to undo: Models Genesis' four and the patch swapping of Context Restoration.

Inputs are (B, C, *S) in [0, 1] and are never changed in place; all channels of a sample share windows and curves. Window
rules are those of the official Models Genesis code (fact sheet of Zhou et al. 2021), with the rule of the last axis left
out in 2D. Nothing loops over samples or windows but the at most five painted boxes and the T swaps, which are sequential by
definition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_med.transforms.intensity import box_mask
from ssl_med.transforms.spatial import per_sample, uniform

_NODES = 1000  # points on a Bezier curve: within 2.3e-5 of 100,000 points
_TABLE = 4096  # entries of the intensity table, interpolated linearly
_BOXES = 5
_CHAIN = 0.95  # probability of one more painted box


# --- non-linear intensity --------------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """Bezier control points (B, 2, 2) as (x1, y1), (x2, y2); whether it falls (B,); whether it is used (B,)."""

    points: Tensor
    falling: Tensor
    active: Tensor


def sample_curve(batch: int, generator: torch.Generator, *, p: float) -> Curve:
    """Control points U[0, 1]^2; half of the curves fall, which inverts the contrast."""
    points = uniform(generator, batch, 2, 2)
    coins = uniform(generator, batch, 2)
    return Curve(points, coins[:, 0] < 0.5, coins[:, 1] < p)


def apply_curve(x: Tensor, curve: Curve) -> Tensor:
    """Maps intensities by the cubic Bezier curve from (0, 0) to (1, 1), mirrored when falling."""
    t = torch.linspace(0, 1, _NODES, device=x.device, dtype=torch.float64)
    rise, middle, late = 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    p = curve.points.double()
    nodes = p[:, 0, :, None] * rise + p[:, 1, :, None] * middle + late  # (B, 2, T)
    # control points in the unit square make x(t) and y(t) monotone: sorting, as the official code does, changes nothing
    at = torch.linspace(0, 1, _TABLE, device=x.device, dtype=torch.float64).expand(len(x), -1).contiguous()
    right = torch.searchsorted(nodes[:, 0].contiguous(), at).clamp(1, _NODES - 1)
    x0, x1 = nodes[:, 0].gather(1, right - 1), nodes[:, 0].gather(1, right)
    y0, y1 = nodes[:, 1].gather(1, right - 1), nodes[:, 1].gather(1, right)
    table = y0 + (y1 - y0) * ((at - x0) / (x1 - x0).clamp_min(1e-12)).clamp(0, 1)
    # a falling map is the curve y(1 - t) over x(t): both coordinates sorted on their own
    table = torch.where(curve.falling[:, None], _falling(nodes, right, at), table).to(x.dtype)
    scaled = x.clamp(0, 1).flatten(1) * (_TABLE - 1)
    index = scaled.long().clamp_(max=_TABLE - 2)
    low, high = table.gather(1, index), table.gather(1, index + 1)
    mapped = torch.lerp(low, high, scaled - index).view_as(x)
    return torch.where(per_sample(curve.active, x), mapped, x)


def _falling(nodes: Tensor, right: Tensor, at: Tensor) -> Tensor:
    x, y = nodes[:, 0], nodes[:, 1].flip(1)
    x0, x1 = x.gather(1, right - 1), x.gather(1, right)
    y0, y1 = y.gather(1, right - 1), y.gather(1, right)
    return y0 + (y1 - y0) * ((at - x0) / (x1 - x0).clamp_min(1e-12)).clamp(0, 1)


def nonlinear(x: Tensor, generator: torch.Generator, *, p: float = 0.9) -> Tensor:
    """Non-linear intensity transform with probability `p` per sample."""
    return apply_curve(x, sample_curve(len(x), generator, p=p))


# --- local pixel shuffling -------------------------------------------------------------------------------------------


class Shuffle(NamedTuple):
    """Windows (B, W, D) by start and size, a key per written voxel in window order, and whether a sample takes part."""

    start: Tensor
    size: Tensor
    keys: Tensor
    active: Tensor


def sample_shuffle(batch: int, shape: Sequence[int], generator: torch.Generator, *, p: float, windows: int) -> Shuffle:
    """Sizes U{1..S//10} per axis, starts U{0..S - size}."""
    device = generator.device
    limit = torch.tensor([max(1, s // 10) for s in shape], device=device)
    size = 1 + (uniform(generator, batch, windows, len(shape)) * limit).long().clamp(max=limit - 1)
    room = torch.tensor(tuple(shape), device=device) - size + 1
    start = (uniform(generator, batch, windows, len(shape)) * room).long().minimum(room - 1)
    written = int(size.prod(-1).sum())
    keys = torch.rand(written, generator=generator, device=device, dtype=torch.float64)
    return Shuffle(start, size, keys, uniform(generator, batch) < p)


def apply_shuffle(x: Tensor, params: Shuffle) -> Tensor:
    """Each window shows its original voxels in random order; where windows overlap the later one wins.

    The permutation of a window is the order of its keys: voxel j of the window (row-major) receives the voxel whose key
    is the j-th smallest.
    """
    batch, windows, dims = params.start.shape
    shape = x.shape[2:]
    volume = math.prod(shape)
    device = x.device
    counts = params.size.prod(-1).flatten()
    window = torch.repeat_interleave(torch.arange(batch * windows, device=device), counts)
    first = torch.cumsum(counts, 0) - counts
    local = torch.arange(len(window), device=device) - first[window]
    start, size = params.start.view(-1, dims), params.size.view(-1, dims)

    def place(local: Tensor) -> Tensor:
        flat = torch.zeros_like(local)
        stride, rest = 1, local
        for axis in range(dims - 1, -1, -1):
            side = size[window, axis]
            flat += (start[window, axis] + rest % side) * stride
            rest = rest // side
            stride *= shape[axis]
        return flat

    sample = window // windows
    target = sample * volume + place(local)
    order = torch.argsort(window + params.keys)
    source = place(local[order])
    winner = torch.full((batch * volume,), -1, device=device, dtype=torch.long)
    winner.scatter_reduce_(0, target, window, "amax")
    kept = winner[target] == window
    index = torch.arange(volume, device=device).repeat(batch)
    index[target[kept]] = source[kept]
    index = index.view(batch, 1, volume).expand(-1, x.shape[1], -1)
    shuffled = x.flatten(2).gather(2, index).view_as(x)
    return torch.where(per_sample(params.active, x), shuffled, x)


def local_shuffle(x: Tensor, generator: torch.Generator, *, p: float = 0.5, windows: int = 1000) -> Tensor:
    """Local pixel shuffling with probability `p` per sample."""
    if windows == 0 or p == 0:
        return x.clone()
    return apply_shuffle(x, sample_shuffle(len(x), x.shape[2:], generator, p=p, windows=windows))


# --- in- and out-painting --------------------------------------------------------------------------------------------


class Paint(NamedTuple):
    """Up to five boxes (B, 5, D), which exist (B, 5); whether the outside is painted (B,); whether at all (B,)."""

    start: Tensor
    size: Tensor
    exists: Tensor
    outside: Tensor
    active: Tensor


def sample_paint(
    batch: int, shape: Sequence[int], generator: torch.Generator, *, p: float, inpaint_rate: float
) -> Paint:
    """In-painting: sides U{S//6..S//3}; out-painting keeps sides S - U{3S//7..4S//7}; starts at least 3 from the edge."""
    coins = uniform(generator, batch, 2)
    outside = coins[:, 1] >= inpaint_rate
    sides, starts = uniform(generator, 2, batch, _BOXES, len(shape)).unbind(0)
    low_in, high_in, low_out, high_out = (
        torch.tensor(values, device=generator.device)
        for values in zip(*((s // 6, s // 3, s - 4 * s // 7, s - 3 * s // 7) for s in shape), strict=True)
    )
    mask = outside[:, None, None]
    low, high = torch.where(mask, low_out, low_in), torch.where(mask, high_out, high_in)
    size = (low + (sides * (high - low + 1)).long().minimum(high - low)).clamp_min(1)
    whole = torch.tensor(tuple(shape), device=generator.device)
    first = ((whole - size) // 2).clamp(0, 3)
    last = torch.maximum(whole - size - 3, first)
    start = first + (starts * (last - first + 1)).long().minimum(last - first)
    chain = uniform(generator, batch, _BOXES) < _CHAIN
    chain[:, 0] |= outside  # out-painting always keeps one box, in-painting may draw none
    return Paint(start, size, chain.long().cumprod(1).bool(), outside, coins[:, 0] < p)


def apply_paint(x: Tensor, params: Paint, noise: Tensor) -> Tensor:
    """Replaces the boxes, or all but the boxes, by `noise` (B, C, *S)."""
    inside = box_mask(params.start, params.size, params.exists, tuple(x.shape[2:]))
    painted = (inside ^ per_sample(params.outside, x)) & per_sample(params.active, x)
    return torch.where(painted, noise, x)


def paint(x: Tensor, generator: torch.Generator, *, p: float = 0.9, inpaint_rate: float = 0.2) -> Tensor:
    """With probability `p` in-painting (`inpaint_rate` of them) or out-painting by U(0, 1) noise."""
    params = sample_paint(len(x), x.shape[2:], generator, p=p, inpaint_rate=inpaint_rate)
    return apply_paint(x, params, torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype))


def inpaint(x: Tensor, generator: torch.Generator, *, p: float = 1.0) -> Tensor:
    """Noise inside up to five boxes."""
    return paint(x, generator, p=p, inpaint_rate=1.0)


def outpaint(x: Tensor, generator: torch.Generator, *, p: float = 1.0) -> Tensor:
    """Noise outside one to five boxes."""
    return paint(x, generator, p=p, inpaint_rate=0.0)


def models_genesis(
    x: Tensor,
    generator: torch.Generator,
    *,
    shuffle: float = 0.5,
    windows: int = 1000,
    nonlinear: float = 0.9,
    paint: float = 0.9,
    inpaint_rate: float = 0.2,
) -> Tensor:
    """Local shuffling, intensity map, painting, in the order and with the probabilities of the official code."""
    x = local_shuffle(x, generator, p=shuffle, windows=windows)
    x = apply_curve(x, sample_curve(len(x), generator, p=nonlinear))
    params = sample_paint(len(x), x.shape[2:], generator, p=paint, inpaint_rate=inpaint_rate)
    return apply_paint(x, params, torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype))


# --- patch swapping --------------------------------------------------------------------------------------------------


def sample_swaps(
    batch: int,
    shape: Sequence[int],
    generator: torch.Generator,
    *,
    swaps: int,
    patch: Sequence[int],
    disjoint: bool,
) -> Tensor:
    """(B, T, 2, D): starts of the two patches of each swap, which never overlap each other.

    The second start is uniform over what the first leaves free: the complement of a box, cut into 2 D slabs. With
    `disjoint`, all 2T patches are different cells of the grid of patches.
    """
    dims, device = len(shape), generator.device
    side = torch.tensor(tuple(patch), device=device)
    if disjoint:
        cells = [s // p for s, p in zip(shape, patch, strict=True)]
        swaps = min(swaps, math.prod(cells) // 2)
        order = uniform(generator, batch, math.prod(cells)).argsort(1)[:, : 2 * swaps]
        corner = torch.stack(torch.unravel_index(order, cells), -1) * side
        return corner.view(batch, swaps, 2, dims)
    room = torch.tensor(tuple(shape), device=device) - side + 1
    first = (uniform(generator, batch, swaps, dims) * room).long().minimum(room - 1)
    low, high = (first - side + 1).clamp_min(0), torch.minimum(first + side, room)  # forbidden: [low, high)
    boxes_low, boxes_high = [], []
    for axis in range(dims):
        for begin, end in ((torch.zeros_like(low), low), (high, room.expand_as(high))):
            box_low, box_high = torch.zeros_like(low), room.expand_as(high).clone()
            box_low[..., :axis], box_high[..., :axis] = low[..., :axis], high[..., :axis]
            box_low[..., axis], box_high[..., axis] = begin[..., axis], end[..., axis]
            boxes_low.append(box_low)
            boxes_high.append(box_high)
    box_low, box_high = torch.stack(boxes_low, -2), torch.stack(boxes_high, -2)  # (B, T, 2D, D)
    weight = (box_high - box_low).clamp_min(0).prod(-1).double().cumsum(-1)
    pick = torch.rand((batch, swaps, 1), generator=generator, device=device, dtype=torch.float64) * weight[..., -1:]
    chosen = torch.searchsorted(weight, pick, right=True).clamp(max=2 * dims - 1)
    chosen = chosen[..., None].expand(-1, -1, -1, dims)
    begin, end = box_low.gather(2, chosen).squeeze(2), box_high.gather(2, chosen).squeeze(2)
    span = end - begin
    second = begin + (uniform(generator, batch, swaps, dims) * span).long().minimum(span - 1)
    return torch.stack([first, second], 2)


def apply_swaps(x: Tensor, starts: Tensor, patch: Sequence[int]) -> Tensor:
    """Exchanges patch after patch of the current image; `starts` as from `sample_swaps`."""
    batch, swaps, _, dims = starts.shape
    shape = x.shape[2:]
    strides = [math.prod(shape[axis + 1 :]) for axis in range(dims)]
    offsets = torch.zeros(1, dtype=torch.long, device=x.device)
    for side, stride in zip(patch, strides, strict=True):
        offsets = (offsets[:, None] + torch.arange(side, device=x.device) * stride).flatten()
    corner = (starts * torch.tensor(strides, device=x.device)).sum(-1)  # (B, T, 2)
    index = torch.arange(math.prod(shape), device=x.device).repeat(batch, 1)
    for swap in range(swaps):
        places = (corner[:, swap, :, None] + offsets).flatten(1)
        index = index.scatter(1, places, index.gather(1, places.view(batch, 2, -1).flip(1).flatten(1)))
    return x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def swap_patches(
    x: Tensor, generator: torch.Generator, *, swaps: int = 10, patch: Sequence[int], disjoint: bool = False
) -> Tensor:
    """Context Restoration's corruption (Chen et al. 2019): swaps random equal patches, `swaps` times.

    The result is a permutation of the image's values. Each side of `patch` must be at most a third of the image's, so that
    a second patch exists wherever the first one lies.
    """
    if swaps == 0:
        return x.clone()
    starts = sample_swaps(len(x), x.shape[2:], generator, swaps=swaps, patch=patch, disjoint=disjoint)
    return apply_swaps(x, starts, patch)
