"""Random numbers of whole batches, and the pieces in which a batch is worked on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Noise = Callable[[Sequence[int]], Tensor]  # shape -> fresh U(0, 1) numbers
Bits = Callable[[int], Tensor]  # count -> as many fresh int32, not negative
_PIECE = 2**18  # voxels; 1 MiB of float32 stays in a CPU's second-level cache


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """U(low, high) on the generator's device."""
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return drawn if (low, high) == (0, 1) else drawn * (high - low) + low


def integers(generator: torch.Generator, shape: Sequence[int], end: Tensor) -> Tensor:
    """Uniform over 0..end - 1, int64; `end` is broadcast to `shape`."""
    return (uniform(generator, *shape) * end).long().minimum(end - 1)  # a float32 product may round up to `end`


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1) for broadcasting against `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def on_cpu(x: Tensor) -> bool:
    """Whether samples are worked on one by one, in cache, rather than all at once."""
    return x.device.type == "cpu"


def pieces(x: Tensor) -> list[slice]:
    """Slices over the batch: all of it on an accelerator, cache-sized parts on a CPU."""
    step = max(1, _PIECE // max(1, x[0].numel())) if on_cpu(x) and len(x) else max(1, len(x))
    return [slice(first, first + step) for first in range(0, len(x), step)]


def in_pieces(function: Callable[..., Tensor], x: Tensor, *params: Tensor) -> Tensor:
    """`function(x, *params)` piece by piece; all arguments and the result lead with B."""
    parts = [function(x[s], *(p[s] for p in params)) for s in pieces(x)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def rearranged(x: Tensor, index: Tensor) -> Tensor:
    """Voxel j of sample b shows voxel index[b, j] of the same sample; (B, C, *S), (B, S) int -> like x."""
    flat = x.flatten(2)
    if on_cpu(x):
        parts = [sample.index_select(1, row) for sample, row in zip(flat, index, strict=True)]
        return torch.stack(parts).view_as(x)
    return flat.gather(2, index.long()[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def _numpy_bits(generator: torch.Generator) -> np.random.SFC64:
    seed = torch.empty(4, dtype=torch.int64).random_(generator=generator)
    return np.random.SFC64(seed.tolist())


def bit_source(generator: torch.Generator) -> Bits:
    """Numbers uniform over 0..2^31 - 1; on a CPU made as in `noise_source`."""
    if generator.device.type != "cpu":
        return lambda count: torch.empty(count, dtype=torch.int32, device=generator.device).random_(generator=generator)
    bits = _numpy_bits(generator)

    def draw(count: int) -> Tensor:
        raw = bits.random_raw((count + 1) // 2).view(np.int32)[:count]
        raw &= 2**31 - 1
        return torch.from_numpy(raw)

    return draw


def noise_source(generator: torch.Generator, like: Tensor) -> Noise:
    """U(0, 1) numbers of the type of `like`, on a grid of 2^-24.

    On a CPU numpy's SFC64, seeded by `generator`, makes them: in half the time of torch.
    """
    if not on_cpu(like):
        return lambda shape: torch.rand(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)
    bits = _numpy_bits(generator)

    def draw(shape: Sequence[int]) -> Tensor:
        count = math.prod(shape)
        raw = bits.random_raw((count + 1) // 2).view(np.uint32)[:count]
        raw >>= 8
        drawn = raw.astype(np.float32)
        drawn *= np.float32(2.0**-24)  # in place: fresh arrays of this size cost page faults
        return torch.from_numpy(drawn).view(tuple(shape)).to(like.dtype)

    return draw
