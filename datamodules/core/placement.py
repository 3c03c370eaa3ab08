"""From answers on the grid of a prepared scan back to the grid of its file: what `ssl-med predict` writes lies on its input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.formats.grids import Array, Header
from ssl_med.spec import SslMedError

_SLAB = 16 << 20  # voxels of all regions that are brought back at once: 64 MiB


@dataclass(frozen=True)
class Placement:
    """Where the voxels of a file lie among those of its prepared scan, axis by axis.

    Preparing a scan turns axes, resamples and pads; it never rotates. So each axis of the file runs along one prepared axis.

    * axes: prepared axis along which each axis of the file runs.
    * places: for each axis of the file, (n,) fractional indices along that prepared axis.
    """

    axes: tuple[int, ...]
    places: tuple[Array, ...]

    @classmethod
    def between(cls, path: str, file: Header, prepared: Array) -> Placement:
        """The placement of a file's grid on a prepared one.

        Args:
            path: the file, for messages.
            file: its grid.
            prepared: (4, 4) index to world in mm of the prepared scan.

        Raises:
            SslMedError: the prepared scan was rotated against the file, which only data.preprocess can do.
        """
        turn = np.linalg.solve(prepared, file.to_world)
        axes = np.abs(turn[:3, :3]).argmax(0)
        lengths = np.array(file.shape[:3])
        rest = turn[:3, :3].copy()
        rest[axes, range(3)] = 0
        if sorted(axes) != [0, 1, 2] or float((np.abs(rest) * lengths).max()) > 0.5:
            raise SslMedError(
                f"{path}: data.preprocess of the run turned this scan against its file, so that answers cannot be brought back"
            )
        places = [
            turn[axis, k] * np.arange(n) + turn[axis, 3] for k, (axis, n) in enumerate(zip(axes, lengths, strict=True))
        ]
        # affines of headers have seven digits: what is off by no more is a whole index
        whole = [np.where(np.abs(p - np.rint(p)) < 1e-4, np.rint(p), p) for p in places]
        return cls(tuple(int(axis) for axis in axes), tuple(whole))

    @classmethod
    def of_image(cls, file: tuple[int, int], prepared: tuple[int, int], before: tuple[int, int]) -> Placement:
        """The placement of an image of `file` pixels that was resized to `prepared` and padded by `before` rows and columns."""
        places = [(np.arange(n) + 0.5) * (m / n) - 0.5 + b for n, m, b in zip(file, prepared, before, strict=True)]
        return cls((0, 1), tuple(places))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the file's grid."""
        return tuple(len(places) for places in self.places)

    def slabs(self, regions: int) -> Iterator[slice]:
        """Parts of the file's last axis that are small enough to be brought back at once."""
        rows = max(1, _SLAB // (regions * int(np.prod(self.shape[:-1]))))
        for start in range(0, self.shape[-1], rows):
            yield slice(start, min(start + rows, self.shape[-1]))

    def back(self, answers: Tensor, part: slice) -> Tensor:
        """Answers (K, *S) on the prepared grid -> (K, *file) at a part of the file's last axis.

        Linear between prepared voxels, the outermost value beyond them. The answers of voxels that the preparation kept as
        they are come back unchanged.
        """
        x = answers.permute(0, *(1 + axis for axis in self.axes))
        # the last axis first: the rest has less to do
        for axis in reversed(range(len(self.places))):
            places = self.places[axis][part] if axis == len(self.places) - 1 else self.places[axis]
            x = _between(x, axis + 1, places)
        return x


def _between(x: Tensor, dim: int, places: Array) -> Tensor:
    """Values at fractional indices along one axis."""
    last = x.shape[dim] - 1
    inside = np.clip(places, 0, last)
    low = np.floor(inside).astype(np.int64)
    share = inside - low
    first = x.index_select(dim, torch.from_numpy(low).to(x.device))
    if not share.any():
        return first
    second = x.index_select(dim, torch.from_numpy(np.minimum(low + 1, last)).to(x.device))
    weight = torch.from_numpy(share).to(x.device, torch.float32).view([-1 if k == dim else 1 for k in range(x.ndim)])
    return torch.lerp(first, second, weight)
