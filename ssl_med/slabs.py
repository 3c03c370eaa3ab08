"""Whole scans in slabs, so that what is computed of each voxel does not take a scan's memory several times over."""

from __future__ import annotations

from torch import Tensor

LARGEST = 2**24  # elements of a slab, 64 MiB of float32


def slabs(x: Tensor, axis: int) -> list[slice]:
    """Slices of an axis that cut x into pieces of about `LARGEST` elements, at least one plane each; one where x is small."""
    length = x.shape[axis]
    planes = max(1, LARGEST * length // max(1, x.numel()))
    return [slice(first, first + planes) for first in range(0, max(1, length), planes)]
