"""Corruptions that a network learns to undo: Models Genesis' shuffling and painting, Context Restoration's swaps.

Inputs are (B, C, *S) in [0, 1] and are never changed in place; all channels of a sample share windows, permutations and
curves. Window rules are those of the official Models Genesis code (Zhou et al. 2021), with the rule of the last axis left
out in 2D. Nothing loops over windows: shuffling finds the last writer of each voxel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_med.spec import SslMedError
from ssl_med.transforms import _batched, _cpu, _cpu_shuffle
from ssl_med.transforms import intensity as _intensity
from ssl_med.transforms._sampling import (
    Bits,
    Noise,
    bit_source,
    integers,
    noise_source,
    on_cpu,
    per_sample,
    rearranged,
    uniform,
)

Transform = Callable[[Tensor, torch.Generator], Tensor]
_BOXES = 5
_CHAIN = 0.95  # probability of one more painted box

# --- local pixel shuffling -------------------------------------------------------------------------------------------


class Shuffle(NamedTuple):
    """Windows (B, W, D) by start and size (0: the sample is left alone).

    Each window shows its original voxels in random order, and where windows overlap the later one wins. The order comes
    from one random key per voxel of a window: the voxel with the window's j-th smallest key receives voxel j (row-major).
    """

    start: Tensor
    size: Tensor


def sample_shuffle(batch: int, shape: Sequence[int], generator: torch.Generator, *, p: float, windows: int) -> Shuffle:
    """Sizes U{1..S//10} per axis, starts U{0..S - size}.

    Below 20 voxels a side goes up to 2: windows of one voxel would shuffle nothing.
    """
    chosen = (uniform(generator, batch) < p).nonzero()[:, 0]
    drawn = bit_source(generator)(2 * len(shape) * len(chosen) * windows)
    size, start = drawn.long().view(2, len(shape), len(chosen), windows)
    for axis, side in enumerate(shape):  # 31 random bits times the count of choices, and its upper part
        size[axis].mul_(max(min(2, side), side // 10)).bitwise_right_shift_(31).add_(1)
        start[axis].mul_(side + 1 - size[axis]).bitwise_right_shift_(31)
    left = [size.new_zeros(len(shape), batch, windows).index_copy_(1, chosen, v).movedim(0, -1) for v in (start, size)]
    return Shuffle(*left)


def apply_shuffle(x: Tensor, params: Shuffle, keys: Bits) -> Tensor:
    """Shuffles as `Shuffle` says.

    `keys` is called once per sample that is not left alone, for the keys of its windows by rising volume, and in their
    order where volumes are equal.
    """
    return _cpu_shuffle.shuffle(x, *params, keys=keys) if on_cpu(x) else _batched.shuffle(x, *params, keys=keys)


def local_shuffle(x: Tensor, generator: torch.Generator, *, p: float = 0.5, windows: int = 1000) -> Tensor:
    """Local pixel shuffling with probability `p` per sample.

    On 64x64x32 voxels 1,000 windows, the paper's number, change 16.0 % of white noise's voxels, and the official code's
    10,000 change 78.6 %.
    """
    if windows == 0 or p == 0:
        return x.clone()
    params = sample_shuffle(len(x), x.shape[2:], generator, p=p, windows=windows)
    return apply_shuffle(x, params, bit_source(generator))


def shuffle_maps(count: int, shape: Sequence[int], generator: torch.Generator, *, windows: int) -> Tensor:
    """(M, V) int32: `count` local shufflings of images of `shape`; entry j is the voxel that voxel j shows."""
    voxels = torch.arange(math.prod(shape), device=generator.device, dtype=torch.float64)  # exact up to 2^53
    each = [local_shuffle(voxels.view(1, 1, *shape), generator, p=1.0, windows=windows) for _ in range(count)]
    return torch.cat(each).flatten(1).int()


def apply_maps(x: Tensor, maps: Tensor, chosen: Tensor) -> Tensor:
    """Rearranges each sample by row chosen[b] of `maps` (M, V); a negative number leaves it as it is."""
    if on_cpu(x):
        return _cpu.rearrange_by(x, maps, chosen)
    moved = rearranged(x, maps.index_select(0, chosen.clamp_min(0)))
    return torch.where(per_sample(chosen >= 0, x), moved, x)


def pooled_shuffle(x: Tensor, generator: torch.Generator, *, maps: Tensor, p: float = 0.5) -> Tensor:
    """Local pixel shuffling by a random one of `shuffle_maps`: several times as fast as drawing windows.

    Each result follows the law of `local_shuffle`, but images that meet the same map are shuffled alike.
    """
    chosen = integers(generator, (len(x),), torch.tensor(len(maps), device=x.device))
    return apply_maps(x, maps, torch.where(uniform(generator, len(x)) < p, chosen, -1))


# --- in- and out-painting --------------------------------------------------------------------------------------------


class Paint(NamedTuple):
    """Five boxes (B, 5, D), size 0 for none; whether the outside is painted (B,); whether at all (B,)."""

    start: Tensor
    size: Tensor
    outside: Tensor
    active: Tensor


def sample_paint(
    batch: int, shape: Sequence[int], generator: torch.Generator, *, p: float, inpaint_rate: float
) -> Paint:
    """In-painting: sides U{S//6..S//3}; out-painting keeps sides S - U{3S//7..4S//7}; starts at least 3 from the edge.

    A further box is drawn with probability 0.95 after each one, up to five; in-painting may draw none, out-painting keeps
    one at least.
    """
    dims, device = len(shape), generator.device
    coins = uniform(generator, batch, 2 + _BOXES)
    outside, chain = coins[:, 1] >= inpaint_rate, coins[:, 2:] < _CHAIN
    chain[:, 0] |= outside
    inner, outer = [(s // 6, s // 3) for s in shape], [(s - 4 * s // 7, s - 3 * s // 7) for s in shape]
    bounds = torch.tensor([inner, outer], device=device)[outside.long(), None]  # (B, 1, D, 2)
    low, high = bounds.unbind(-1)
    size = (low + integers(generator, (batch, _BOXES, dims), high - low + 1)).clamp_min(1)
    room = torch.tensor(tuple(shape), device=device) - size
    first = (room // 2).clamp(0, 3)  # 3, or as much as a small image allows
    start = first + integers(
        generator, (batch, _BOXES, dims), torch.maximum(room - 3 - first, torch.zeros_like(first)) + 1
    )
    return Paint(start, size * chain.long().cumprod(1)[..., None], outside, coins[:, 0] < p)


def apply_paint(x: Tensor, params: Paint, noise: Noise) -> Tensor:
    """Replaces the boxes, or all but the boxes, by `noise`, a function from a shape to numbers."""
    return _cpu.paint(x, *params, noise=noise) if on_cpu(x) else _batched.paint(x, *params, noise=noise)


def paint(x: Tensor, generator: torch.Generator, *, p: float = 0.9, inpaint_rate: float = 0.2) -> Tensor:
    """With probability `p` in-painting (`inpaint_rate` of them) or out-painting by U(0, 1) noise, never both."""
    params = sample_paint(len(x), x.shape[2:], generator, p=p, inpaint_rate=inpaint_rate)
    return apply_paint(x, params, noise_source(generator, x))


def inpaint(x: Tensor, generator: torch.Generator, *, p: float = 1.0) -> Tensor:
    """Noise inside up to five boxes: on average 5.5 % of 64x64x32 voxels."""
    return paint(x, generator, p=p, inpaint_rate=1.0)


def outpaint(x: Tensor, generator: torch.Generator, *, p: float = 1.0) -> Tensor:
    """Noise outside one to five boxes: on average 68 % of 64x64x32 voxels."""
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
    maps: Tensor | None = None,
) -> Tensor:
    """Local shuffling, intensity map, painting, in the order and with the probabilities of the official code.

    The flip that precedes them there acts on the target too: flip first, then corrupt the flipped image. With `maps` the
    shuffling is `pooled_shuffle`, and `windows` has no effect.
    """
    if maps is None:
        x = local_shuffle(x, generator, p=shuffle, windows=windows)
    else:
        x = pooled_shuffle(x, generator, maps=maps, p=shuffle)
    x = _intensity.nonlinear(x, generator, p=nonlinear)
    params = sample_paint(len(x), x.shape[2:], generator, p=paint, inpaint_rate=inpaint_rate)
    return apply_paint(x, params, noise_source(generator, x))


def one_of(x: Tensor, generator: torch.Generator, *, transforms: Sequence[Transform]) -> Tensor:
    """Each sample passes one of `transforms`, functions of (x, generator), all equally likely."""
    y = x.clone()
    which = integers(generator, (len(x),), torch.tensor(len(transforms), device=x.device)).tolist()
    for number, transform in enumerate(transforms):
        rows = [row for row, chosen in enumerate(which) if chosen == number]
        if rows:
            y[rows] = transform(x[rows], generator)
    return y


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
    `disjoint`, all 2T patches are different cells of the grid of patches; T is cut to what the grid holds.

    Raises:
        SslMedError: a patch that leaves no room for a second one somewhere in the image.
    """
    dims, device = len(shape), generator.device
    if len(patch) != dims or any(not 1 <= p <= s for p, s in zip(patch, shape, strict=False)):
        raise SslMedError(f"patch {list(patch)} does not fit images of size {list(shape)}; give one side per axis")
    side = torch.tensor(tuple(patch), device=device)
    if disjoint:
        cells = [s // p for s, p in zip(shape, patch, strict=True)]
        swaps = min(swaps, math.prod(cells) // 2)
        order = uniform(generator, batch, math.prod(cells)).argsort(1)[:, : 2 * swaps]
        return (torch.stack(torch.unravel_index(order, cells), -1) * side).view(batch, swaps, 2, dims)
    if all(s < 3 * p - 1 for p, s in zip(patch, shape, strict=True)):
        raise SslMedError(
            f"patch {list(patch)} is too large for images of size {list(shape)}; a third of a side is safe"
        )
    room = torch.tensor(tuple(shape), device=device) - side + 1
    first = integers(generator, (batch, swaps, dims), room)
    low, high = (first - side + 1).clamp_min(0), torch.minimum(first + side, room)  # forbidden: [low, high)
    boxes_low, boxes_high = [], []
    for axis in range(dims):  # slabs before and after the forbidden box; earlier axes are confined to its extent
        for begin, end in ((torch.zeros_like(low), low), (high, room.expand_as(high))):
            box_low, box_high = torch.zeros_like(low), room.expand_as(high).clone()
            box_low[..., :axis], box_high[..., :axis] = low[..., :axis], high[..., :axis]
            box_low[..., axis], box_high[..., axis] = begin[..., axis], end[..., axis]
            boxes_low.append(box_low)
            boxes_high.append(box_high)
    box_low, box_high = torch.stack(boxes_low, -2), torch.stack(boxes_high, -2)  # (B, T, 2D, D)
    total = (box_high - box_low).clamp_min(0).prod(-1).cumsum(-1)
    pick = torch.rand((batch, swaps, 1), generator=generator, device=device, dtype=torch.float64) * total[..., -1:]
    chosen = torch.searchsorted(total, pick.long().minimum(total[..., -1:] - 1), right=True)
    chosen = chosen[..., None].expand(-1, -1, -1, dims)
    begin, end = box_low.gather(2, chosen).squeeze(2), box_high.gather(2, chosen).squeeze(2)
    second = begin + integers(generator, (batch, swaps, dims), end - begin)
    return torch.stack([first, second], 2)


def apply_swaps(x: Tensor, starts: Tensor, patch: Sequence[int]) -> Tensor:
    """Exchanges patch after patch of the current image; `starts` as from `sample_swaps`."""
    return _cpu.swap(x, starts, patch) if on_cpu(x) else _batched.swap(x, starts, patch)


def swap_patches(
    x: Tensor, generator: torch.Generator, *, swaps: int = 10, patch: Sequence[int], disjoint: bool = False
) -> Tensor:
    """Context Restoration's corruption (Chen et al. 2019): exchanges random equal patches `swaps` times.

    The result is a permutation of the image's values. `patch` are the sides in voxels; `disjoint` means that no patch
    takes part in two swaps.
    """
    if swaps == 0:
        return x.clone()
    starts = sample_swaps(len(x), x.shape[2:], generator, swaps=swaps, patch=patch, disjoint=disjoint)
    return apply_swaps(x, starts, patch)
