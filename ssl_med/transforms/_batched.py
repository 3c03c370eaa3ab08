"""Index work of the transforms on whole batches, for accelerators; `_cpu` does the same one sample at a time.

Both give bit-identical results for the same parameters. What the parameters mean is said where they are drawn, in
`spatial` and `corruptions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_med.transforms._sampling import Bits, Noise, per_sample


def flip_rot(x: Tensor, flips: Tensor, turns: Tensor) -> Tensor:
    """Mirrors the axes `flips` (B, D), then turns by `turns` (B,) quarters."""
    for axis in range(flips.shape[1]):
        x = torch.where(per_sample(flips[:, axis], x), x.flip(2 + axis), x)
    y = x
    for k in (1, 2, 3) if x.shape[2] == x.shape[3] else (2,):
        y = torch.where(per_sample(turns == k, x), torch.rot90(x, k, (2, 3)), y)
    return y


def box_mask(start: Tensor, size: Tensor, shape: Sequence[int]) -> Tensor:
    """Union of boxes: start and size (B, W, D) in voxels, size 0 for no box -> (B, 1, *shape) bool."""
    union = torch.zeros(len(start), 1, *shape, dtype=torch.bool, device=start.device)
    for w in range(start.shape[1]):
        inside = torch.ones((), dtype=torch.bool, device=start.device)
        for axis, length in enumerate(shape):
            position = torch.arange(length, device=start.device)
            first = start[:, w, axis, None]
            view = [len(start), 1, *[1] * len(shape)]
            view[2 + axis] = length
            inside = inside & ((position >= first) & (position < first + size[:, w, axis, None])).view(view)
        union |= inside
    return union


def fill_boxes(x: Tensor, start: Tensor, size: Tensor, value: float) -> Tensor:
    """Sets the union of the boxes to `value`."""
    return x.masked_fill(box_mask(start, size, x.shape[2:]), value)


def paint(x: Tensor, start: Tensor, size: Tensor, outside: Tensor, active: Tensor, *, noise: Noise) -> Tensor:
    """Noise inside the union of the boxes, or outside of it; a sample that is not active stays."""
    painted = box_mask(start, size, x.shape[2:]) ^ per_sample(outside, x)
    return torch.where(painted & per_sample(active, x), noise(x.shape), x)


def shuffle(x: Tensor, start: Tensor, size: Tensor, *, keys: Bits) -> Tensor:
    """Last writer wins, without a sequence: a voxel shows what the highest write that reaches it brings."""
    batch, windows, dims = start.shape
    shape, device = x.shape[2:], x.device
    volume = math.prod(shape)
    counts = size.prod(-1)
    drawn = [keys(count) for count in counts.sum(1).tolist() if count]
    if not drawn:
        return x.clone()
    # keys are dealt to windows by rising volume, as `_cpu_shuffle` does: both then give the same image for the same draws
    by_volume = counts.argsort(dim=1, stable=True)
    by_volume = (by_volume + torch.arange(batch, device=device)[:, None] * windows).flatten()
    counts = counts.flatten()
    mine = torch.empty_like(counts)  # where a window's keys begin
    mine[by_volume] = torch.cumsum(counts[by_volume], 0) - counts[by_volume]
    total = sum(map(len, drawn))
    window = torch.repeat_interleave(torch.arange(batch * windows, device=device), counts, output_size=total)
    # one row per write, window after window: the numbers of a window are repeated for each of its voxels
    first = (torch.cumsum(counts, 0) - counts)[window]
    write = torch.arange(total, device=device)
    place, stride = write - first, 1
    key, rest = torch.cat(drawn)[mine[window] + place].long(), place
    # the flat voxel of each write: its place within the window, unravelled by the window's own sides, last axis first
    source = window // windows * volume
    for axis in range(dims - 1, -1, -1):
        side = size.reshape(-1, dims)[window, axis]
        source = source + (start.reshape(-1, dims)[window, axis] + rest % side) * stride
        rest = rest // side
        stride *= shape[axis]
    # window, key and place in the window in one number: its order is the order of the keys within each window
    bits = math.prod(max(2, side // 10) for side in shape).bit_length()
    # where 63 bits do not hold it, the keys lose their lowest bits: ties then keep the order of the places
    spare = max(0, (batch * windows).bit_length() + 31 + bits - 63)
    packed = ((window << (31 - spare)) | (key >> spare)) << bits | place
    target = source[first + (torch.sort(packed).values & ((1 << bits) - 1))]
    winner = torch.full((batch * volume,), -1, device=device, dtype=torch.long)
    # writes count up in the order of the windows, so the highest number that reaches a voxel is the last write to it
    winner.scatter_reduce_(0, target, write, "amax")
    still = torch.arange(batch * volume, device=device)
    index = torch.where(winner < 0, still, source[winner.clamp_min(0)])
    index = (index.view(batch, 1, volume) % volume).expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view_as(x)


def swap(x: Tensor, starts: Tensor, patch: Sequence[int]) -> Tensor:
    """Builds the index map swap by swap, then gathers once."""
    batch, swaps, _, dims = starts.shape
    shape = x.shape[2:]
    strides = [math.prod(shape[axis + 1 :]) for axis in range(dims)]
    offsets = torch.zeros(1, dtype=torch.long, device=x.device)
    for side, stride in zip(patch, strides, strict=True):
        offsets = (offsets[:, None] + torch.arange(side, device=x.device) * stride).flatten()
    corner = (starts * torch.tensor(strides, device=x.device)).sum(-1)  # (B, T, 2)
    index = torch.arange(math.prod(shape), device=x.device).repeat(batch, 1)
    for t in range(swaps):
        places = (corner[:, t, :, None] + offsets).flatten(1)
        index = index.scatter(1, places, index.gather(1, places.view(batch, 2, -1).flip(1).flatten(1)))
    return x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1)).view_as(x)
