"""Index work of the transforms on a CPU: the functions of `_batched`, one cache-sized piece of the batch at a time.

Corruptions carry no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_med.transforms._sampling import Noise


def flip_rot(x: Tensor, flips: Tensor, turns: Tensor) -> Tensor:
    """See `_batched.flip_rot`."""
    parts = []
    for part, mirrored, k in zip(x, flips.tolist(), turns.tolist(), strict=True):
        part = part.flip([1 + axis for axis, chosen in enumerate(mirrored) if chosen])
        parts.append(torch.rot90(part, k, (1, 2)) if k else part)
    return torch.stack(parts)


def _boxes(start: Tensor, size: Tensor) -> list[list[tuple[slice, ...]]]:
    """Per sample the indices of its boxes, after the channel; boxes of size 0 are left out."""
    ends = (start + size).tolist()
    return [
        [(slice(None), *map(slice, a, b)) for a, b in zip(low, high, strict=True) if a < b]
        for low, high in zip(start.tolist(), ends, strict=True)
    ]


@torch.no_grad()
def fill_boxes(x: Tensor, start: Tensor, size: Tensor, value: float) -> Tensor:
    """See `_batched.fill_boxes`."""
    y = x.clone(memory_format=torch.contiguous_format)
    for part, boxes in zip(y, _boxes(start, size), strict=True):
        for box in boxes:
            part[box] = value
    return y


@torch.no_grad()
def paint(x: Tensor, start: Tensor, size: Tensor, outside: Tensor, active: Tensor, *, noise: Noise) -> Tensor:
    """See `_batched.paint`; noise is drawn only for the boxes, or for the samples that are painted outside of them."""
    y = torch.empty(x.shape, dtype=x.dtype)
    inside = size.prod(-1).sum(1) * (active & ~outside)
    drawn, first = _bits(noise((int(inside.sum()) * x.shape[1],)).to(y.dtype)), 0  # one call: boxes hold few voxels
    for mine, theirs, boxes, out, chosen in zip(
        _bits(y), _bits(x), _boxes(start, size), outside.tolist(), active.tolist(), strict=True
    ):
        if out and chosen:
            mine[...] = _bits(noise(mine.shape).to(y.dtype))
            for box in boxes:
                mine[box] = theirs[box]
            continue
        mine[...] = theirs
        for box in (mine[box] for box in boxes if chosen):
            box[...] = drawn[first : first + box.size].reshape(box.shape)
            first += box.size
    return y


def _bits(x: Tensor) -> NDArray[Any]:
    """The same memory for numpy, whose indexing costs a fraction of torch's; it has no bfloat16."""
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).detach().numpy()


@torch.no_grad()
def rearrange_by(x: Tensor, maps: Tensor, chosen: Tensor) -> Tensor:
    """Sample b by row chosen[b] of `maps` (M, V), or as it is where that is negative."""
    y = torch.empty(x.shape, dtype=x.dtype)
    for mine, sample, row in zip(y.flatten(2), x.flatten(2), chosen.tolist(), strict=True):
        if row < 0:
            mine.copy_(sample)
        else:
            torch.index_select(sample, 1, maps[row], out=mine)
    return y


@torch.no_grad()
def swap(x: Tensor, starts: Tensor, patch: Sequence[int]) -> Tensor:
    """See `_batched.swap`."""
    y = x.clone(memory_format=torch.contiguous_format)
    for part, pairs in zip(y, starts.tolist(), strict=True):
        for pair in pairs:
            one, two = (part[:, *(slice(s, s + p) for s, p in zip(corner, patch, strict=True))] for corner in pair)
            kept = one.clone()
            one.copy_(two)
            two.copy_(kept)
    return y
