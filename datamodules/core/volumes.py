"""Samples from volumes: unlabelled crops and crop pairs, labelled crops, whole volumes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.core.crops import Starts, cut, find_starts, integral, pad_to, resize, tissue_weight
from datamodules.core.intensity import decode
from datamodules.core.loader import Key
from datamodules.core.readers import Array
from ssl_med.spec import Need, SslMedError

Size = tuple[int, ...]
Sample = dict[str, Any]


@dataclass
class Loaded:
    """A decoded scan: intensity codes (C, x, y, z) uint16, masks (K, x, y, z) uint8, and what was computed from them."""

    codes: Array
    mask: Array | None = None
    to_world: Array | None = None
    starts: dict[Size, Starts] = field(default_factory=dict)
    foreground: Array | None = None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        arrays = [a for a in (self.codes, self.mask, self.foreground) if a is not None]
        return sum(a.nbytes for a in arrays) + sum(s.nbytes for s in self.starts.values())


class Cache:
    """Decoded scans of this process, the least recently used dropped first."""

    def __init__(self, load: Callable[[Any], Loaded], *, gigabytes: float) -> None:
        self._load, self._limit = load, gigabytes * 2**30
        self._items: OrderedDict[str, Loaded] = OrderedDict()

    def __call__(self, case: Any) -> Loaded:
        """The decoded scan of a case."""
        if case.name in self._items:
            self._items.move_to_end(case.name)
            return self._items[case.name]
        item = self._load(case)
        self._items[case.name] = item
        while len(self._items) > 1 and sum(i.nbytes for i in self._items.values()) > self._limit:
            self._items.popitem(last=False)
        return item


@dataclass(frozen=True)
class Content:
    """Which crops may be taken: the share of tissue (codes at or above `threshold`) lies in [low, high]."""

    threshold: int
    low: float
    high: float


class Crops(Dataset[Sample]):
    """`per_case` random crops of each scan, or pairs of overlapping crops when the method needs them.

    Args:
        cases: the scans.
        read: decodes one.
        patch: crop size in voxels.
        per_case: crops of a scan in an epoch.
        seed: of the crops.
        need: crop pairs and their sizes.
        content: filter of Models Genesis, or None.
        fixed: the same crops in every epoch (validation).
    """

    def __init__(
        self,
        cases: Sequence[Any],
        read: Callable[[Any], Loaded],
        *,
        patch: Size,
        per_case: int,
        seed: int,
        need: Need,
        content: Content | None = None,
        fixed: bool = False,
    ) -> None:
        self.cases, self.read, self.patch, self.per_case = cases, read, patch, per_case
        self.seed, self.need, self.content, self.fixed = seed, need, content, fixed
        scales = need.pair_scales if need.pair else ()
        sizes = [tuple(max(1, round(f * p)) for f, p in zip(scale, patch, strict=True)) for scale in scales]
        self.sizes = sizes or [patch]

    def __len__(self) -> int:
        return len(self.cases) * self.per_case

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        rng = np.random.default_rng([self.seed, 0 if self.fixed else epoch + 1, index])
        case = self.cases[index // self.per_case]
        item = self.read(case)
        fitting = [s for s in self.sizes if all(a <= b for a, b in zip(s, item.codes.shape[1:], strict=True))]
        size = fitting[rng.integers(len(fitting))] if fitting else self.patch
        starts = self._starts(case, item, size)
        sample: Sample = {"id": case.name, "index": index}
        if self.need.pair:
            first, second = starts.draw_pair(self.need.min_iou, rng)
            for name, start in (("image", first), ("image2", second)):
                sample[name] = resize(decode(self._cut(item, start, size)), self.patch).contiguous()
        else:
            sample["image"] = decode(self._cut(item, starts.draw(rng), size))
        return sample

    def _cut(self, item: Loaded, start: Array, size: Size) -> Array:
        return cut(item.codes, start, size)

    def _starts(self, case: Any, item: Loaded, size: Size) -> Starts:
        if size not in item.starts:
            shape = item.codes.shape[1:]
            if self.content is None:
                item.starts[size] = find_starts(shape, size)
            else:
                total = integral(tissue_weight(item.codes[0], self.content.threshold))
                item.starts[size] = find_starts(shape, size, total=total, low=self.content.low, high=self.content.high)
        starts = item.starts[size]
        if starts.count == 0:
            raise SslMedError(
                f"{case.name}: no crop of {list(size)} voxels passes the tissue filter; raise data.tissue_max "
                "(1 switches it off) or take a smaller data.patch_size"
            )
        return starts


class LabelledCrops(Dataset[Sample]):
    """Random crops with masks; a share `foreground_p` of them is centred near a voxel of the foreground."""

    def __init__(
        self,
        cases: Sequence[Any],
        read: Callable[[Any], Loaded],
        *,
        patch: Size,
        per_case: int,
        seed: int,
        foreground_p: float,
    ) -> None:
        self.cases, self.read, self.patch, self.per_case = cases, read, patch, per_case
        self.seed, self.foreground_p = seed, foreground_p

    def __len__(self) -> int:
        return len(self.cases) * self.per_case

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch + 1, index])
        case = self.cases[index // self.per_case]
        item = self.read(case)
        assert item.mask is not None
        shape = np.array(item.codes.shape[1:])
        patch = np.array(self.patch)
        if item.foreground is None:
            item.foreground = np.flatnonzero(item.mask.any(0)).astype(np.int64)
        start = rng.integers(0, shape - patch + 1)
        if item.foreground.size and rng.random() < self.foreground_p:
            voxel = np.unravel_index(item.foreground[rng.integers(item.foreground.size)], tuple(shape))
            start = np.clip(np.array(voxel) - rng.integers(0, patch), 0, shape - patch)
        return {
            "id": case.name,
            "index": index,
            "image": decode(cut(item.codes, start, self.patch)),
            "mask": torch.from_numpy(cut(item.mask, start, self.patch).astype(np.float32)),
        }


class WholeVolumes(Dataset[Sample]):
    """Each scan whole, with its masks."""

    def __init__(self, cases: Sequence[Any], read: Callable[[Any], Loaded]) -> None:
        self.cases, self.read = cases, read

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: Key) -> Sample:
        index = key[1]
        item = self.read(self.cases[index])
        assert item.mask is not None
        return {
            "id": self.cases[index].name,
            "index": index,
            "image": decode(item.codes),
            "mask": torch.from_numpy(item.mask.astype(np.float32)),
        }


def grow(codes: Array, patch: Size, mask: Array | None = None) -> tuple[Array, Array | None]:
    """Pads a scan that is smaller than a patch with background, the scan in the middle."""
    return pad_to(codes, patch), None if mask is None else pad_to(mask, patch)
