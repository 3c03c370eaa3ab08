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
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
_ARGUMENTS = "void(int32[::1], uint8[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int32[::1], int64, int64)"


@cache
def last_writes() -> Callable[..., None] | None:
    """`_last_writes` as machine code; None without numba, and after a warning if numba fails."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        import numba

        compiled: Callable[..., None] = numba.njit(_ARGUMENTS, nogil=True, cache=True)(_last_writes)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"numba fails to compile local shuffling ({reason}); it runs without, slower and with equal results", stacklevel=2)
        return None
    return compiled


def _last_writes(index: Any, owned: Any, corner: Any, rank: Any, volume: Any, first: Any, offset: Any, begin: Any, keys: Any, windows: int, voxels: int) -> None:
    """Walks windows backwards, so that the first writer of a voxel is its last in their order.

    index, owned: (B * V,), where each voxel's value is from in its sample, and zeros; corner, rank: (B * W,).
    """
    count = len(corner)
    key = np.empty(count, np.int64)
    live = np.empty(np.max(volume), np.int64)
    for w in range(count):
        n = volume[rank[w]]
        key[w] = begin[n]
        begin[n] += n
    for w in range(count - 1, -1, -1):
        n, base = np.uint64(volume[rank[w]]), np.uint64(w // windows * voxels)
        place, here, at = np.uint64(first[rank[w]]), np.uint64(corner[w]), np.uint64(key[w])
        left = np.uint64(0)
        for j in range(n):  # without a branch, which would be mispredicted every second time
            v = base + here + np.uint64(offset[place + j])
            live[left] = j
            left += np.uint64(owned[v] == 0)
            owned[v] = 1
        for k in range(left):
            j = np.uint64(live[k])
            mine, above, equal = keys[at + j], np.uint32(0), np.uint32(0)
            for q in range(n):
                above = np.uint32(above + np.uint32(keys[at + q] < mine))
                equal = np.uint32(equal + np.uint32(keys[at + q] == mine))
            if equal > 1:
                for q in range(j):
                    above = np.uint32(above + np.uint32(keys[at + q] == mine))
            index[base + here + np.uint64(offset[place + j])] = np.int32(here + np.uint64(offset[place + np.uint64(above)]))
