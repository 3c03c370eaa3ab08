"""The loop of local shuffling over windows, compiled by numba where it is installed (`pip install 'ssl-med[fast]'`).

numba is imported, and the loop compiled or read from numba's cache, when the first image is shuffled.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_med.spec import first_line

_LINE, _PLANE = "int64[::1]", "int64[:, ::1]"
_ARGUMENTS = f"void(int32[::1], uint8[::1], {_PLANE}, {_PLANE}, {_LINE}, {_LINE}, {_LINE}, {_PLANE}, int32[::1])"


@cache
def sources() -> Callable[[Any, Any], Tensor] | None:
    """`_cpu_shuffle.sources` as machine code; None without numba, and after a warning if numba fails."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        import numba

        loop: Callable[..., None] = numba.njit(_ARGUMENTS, nogil=True, cache=True)(_last_writes)
    except Exception as error:  # whatever is wrong with the compiler, images can be shuffled
        reason = first_line(error)
        warnings.warn(
            f"numba cannot compile local shuffling ({reason}); it runs without numba: the same images, more slowly",
            stacklevel=2,
        )
        return None

    def run(sizes: Any, piece: Any) -> Tensor:
        index = torch.arange(piece.voxels, dtype=torch.int32).repeat(len(piece.corner), 1)
        owned = np.zeros(index.numel(), dtype=np.uint8)
        loop(index.view(-1).numpy(), owned, piece.corner, piece.size, *sizes, piece.begin, piece.keys)
        return index

    return run


def _last_writes(
    index: Any, owned: Any, corner: Any, size: Any, volume: Any, first: Any, offset: Any, begin: Any, keys: Any
) -> None:
    """Walks windows backwards, so that the first to write a voxel is the last in their order.

    index, owned: (B * V,), each voxel's own number in its sample, and zeros. Arrays are indexed by unsigned numbers, which
    spares numba the look for negative ones.
    """
    samples, windows = corner.shape
    voxels = len(index) // samples
    at = np.empty(windows, np.int64)
    live = np.empty(np.max(volume), np.int64)
    for b in range(samples):
        base = np.uint64(b * voxels)
        for w in range(windows):
            n = volume[size[b, w]]
            at[w] = begin[b, n]
            begin[b, n] += n
        for w in range(windows - 1, -1, -1):
            n, place, here = np.uint64(volume[size[b, w]]), np.uint64(first[size[b, w]]), np.uint64(corner[b, w])
            key = keys[at[w] : at[w] + np.int64(n)]
            left = np.uint64(0)
            for j in range(n):  # without a branch, which would be mispredicted every second time
                v = base + here + np.uint64(offset[place + j])
                live[left] = j
                left += np.uint64(owned[v] == 0)
                owned[v] = 1
            for k in range(left):
                i = np.uint64(live[k])
                mine, rank, equal = key[i], np.uint32(0), np.uint32(0)
                for q in range(n):
                    rank = np.uint32(rank + np.uint32(key[q] < mine))
                    equal = np.uint32(equal + np.uint32(key[q] == mine))
                if equal > 1:
                    for q in range(i):
                        rank = np.uint32(rank + np.uint32(key[q] == mine))
                source = here + np.uint64(offset[place + np.uint64(rank)])
                index[base + here + np.uint64(offset[place + i])] = np.int32(source)
