"""Samples from volumes: unlabelled crops and crop pairs, labelled crops, whole volumes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.core.crops import Grid, Window, around, cut, pad_to, resize
from datamodules.core.geometry import spacing_of
from datamodules.core.intensity import Norm, decode, standardise
from datamodules.core.loader import ForegroundKey, Key
from datamodules.core.pairs import Box, draw_sizes
from datamodules.core.positions import position_crop, thumbnail
from datamodules.core.starts import Starts, find_starts, integral, tissue_weight
from datamodules.formats.grids import Array
from ssl_med.spec import Need, SslMedError

Size = tuple[int, ...]
Sample = dict[str, Any]
Placed = tuple[Sample, Window | None, Array | None]
"""A sample, the window that it was cut from, and the window's voxel to world (4, 4) in mm; None: not known."""


class Placing(Protocol):
    """A dataset of samples that can cut a window around a crop in its place."""

    def placed(self, key: Key, size: Size | None = None) -> Placed:
        """The sample of a key; with `size` image and mask are the window of at most that size around its crop."""


class Places(Protocol):
    """Flat indices of voxels, in ascending order."""

    @property
    def size(self) -> int:
        """How many."""

    @property
    def nbytes(self) -> int:
        """Memory held."""

    def __getitem__(self, number: int, /) -> Any:
        """One of them."""


@dataclass
class Loaded:
    """A scan: intensity codes (C, x, y, z) uint16, masks (K, x, y, z) uint8, and what was computed from them.

    `norm` standardises what is cut from it; None: values stay in [0, 1].
    `filtered` finds the starts that pass a filter when they need not be computed from all codes. `small` is the thumbnail of
    the whole scan, once it was requested.
    """

    codes: Array | Grid
    mask: Array | Grid | None = None
    to_world: Array | None = None
    starts: dict[Size, Starts] = field(default_factory=dict)
    foreground: Sequence[Places] | None = None
    filtered: Callable[[Sequence[Size], Content, Size | None], dict[Size, Starts]] | None = None
    small: torch.Tensor | None = None
    norm: Norm | None = None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        arrays = [a for a in (self.codes, self.mask, *(self.foreground or ())) if a is not None]
        small = 0 if self.small is None else int(self.small.nbytes)
        return sum(int(a.nbytes) for a in arrays) + sum(s.nbytes for s in self.starts.values()) + small

    def thumbnail(self, size: Size) -> torch.Tensor:
        """The scan shrunk to (C, *size), kept."""
        if self.small is None:
            self.small = thumbnail(self.codes, size)
        return self.small


class Cache:
    """Decoded scans of this process, the least recently used dropped first."""

    def __init__(self, load: Callable[[Any], Loaded], *, gigabytes: float) -> None:
        self._load, self._limit = load, gigabytes * 2**30
        self._items: OrderedDict[str, Loaded] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._total = (
            0  # kept up to date: adding up tens of thousands of images at each miss takes longer than reading one
        )

    def __call__(self, case: Any) -> Loaded:
        """The decoded scan of a case."""
        item = self._items.get(case.name)
        if item is None:
            item = self._items[case.name] = self._load(case)
        self._items.move_to_end(case.name)
        size = item.nbytes  # grows with what is computed from a scan
        self._total += size - self._sizes.get(case.name, 0)
        self._sizes[case.name] = size
        while len(self._items) > 1 and self._total > self._limit:
            oldest, _ = self._items.popitem(last=False)
            self._total -= self._sizes.pop(oldest)
        return item


@dataclass(frozen=True)
class Content:
    """Which crops may be taken: the share of tissue (codes at or above `threshold`) lies in [low, high].

    `remedy` says what to change when no crop of a scan passes.
    """

    threshold: int
    low: float
    high: float
    remedy: str


class Crops(Dataset[Sample]):
    """`per_case` random crops of each scan, or pairs of overlapping crops when the method needs them.

    Args:
        cases: the scans.
        read: decodes one.
        patch: crop size in voxels.
        per_case: crops of a scan in an epoch.
        seed: of the crops.
        need: crop pairs and their sizes, or positions.
        content: filter of Models Genesis, or None.
        fixed: the same crops in every epoch and for every seed (validation).
        margin: voxels at each end of an axis that no crop touches, where the scan is large enough.
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
        margin: Size | None = None,
    ) -> None:
        self.cases, self.read, self.patch, self.per_case = cases, read, patch, per_case
        self.seed, self.need, self.content, self.fixed, self.margin = seed, need, content, fixed, margin
        scales = need.pair_scales if need.pair else ()
        sizes = [tuple(max(1, round(f * p)) for f, p in zip(scale, patch, strict=True)) for scale in scales]
        self.sizes = sizes or [patch]

    def __len__(self) -> int:
        return len(self.cases) * self.per_case

    def __getitem__(self, key: Key) -> Sample:
        return self.placed(key)[0]

    def placed(self, key: Key, size: Size | None = None) -> Placed:
        """A sample and where it lies; see `Placing`."""
        epoch, index = key
        rng = np.random.default_rng([0, 0, index] if self.fixed else [self.seed, epoch + 1, index])
        case = self.cases[index // self.per_case]
        item = self.read(case)
        sample: Sample = {"id": case.name, "index": index}
        if self.need.positions is not None:
            wanted = self.need.positions
            sample |= {"case": index // self.per_case, "scan": item.thumbnail(wanted.thumbnail)}
            found = position_crop(item.codes, rng, positions=wanted, patch=self.patch, margin=self.margin)
            found["image"] = standardise(found["image"], item.norm)
            return sample | found, None, None
        passing = self._passing(case, item)
        if self.need.pair and not self.need.equal_pairs:
            return sample | self._pair(item, draw_sizes(passing, self.need.min_iou, rng)), None, None
        starts = passing[rng.integers(len(passing))]
        if self.need.pair:
            pair = starts.draw_pair(self.need.min_iou, rng)
            return sample | self._pair(item, [(start, starts.size) for start in pair]), None, None
        window = around(starts.draw(rng), starts.size, size, item.codes.shape[1:])
        sample["image"] = decode(cut(item.codes, window.start, window.size), item.norm)
        return sample, window, world_of(item, window)

    def owners(self, epoch: int) -> Array:
        """Scan of each sample."""
        return np.repeat(np.arange(len(self.cases)), self.per_case)

    def _pair(self, item: Loaded, boxes: Sequence[Box]) -> Sample:
        """`image` and `image2`: two crops of a scan, resized to the patch."""
        crops = [decode(cut(item.codes, start, size), item.norm) for start, size in boxes]
        return {
            name: resize(crop, self.patch).contiguous() for name, crop in zip(("image", "image2"), crops, strict=True)
        }

    def _passing(self, case: Any, item: Loaded) -> list[Starts]:
        """Of each crop size that fits into the scan and has a crop that passes the filter."""
        if not item.starts:
            shape = item.codes.shape[1:]
            fitting = [s for s in self.sizes if all(a <= b for a, b in zip(s, shape, strict=True))] or [self.patch]
            if self.content is None:
                item.starts = {size: find_starts(shape, size, margin=self.margin) for size in fitting}
            elif item.filtered is not None:
                item.starts = item.filtered(fitting, self.content, self.margin)
            else:
                total = integral(tissue_weight(item.codes[:1][0], self.content.threshold))
                low, high = self.content.low, self.content.high
                item.starts = {
                    size: find_starts(shape, size, total=total, low=low, high=high, margin=self.margin)
                    for size in fitting
                }
        passing = [starts for starts in item.starts.values() if starts.count]
        if not passing:
            assert self.content is not None
            sizes = " or ".join("x".join(map(str, size)) for size in item.starts)
            raise SslMedError(f"{case.images[0]}: no crop of {sizes} voxels passes the filter; {self.content.remedy}")
        return passing


class LabelledCrops(Dataset[Sample]):
    """Random crops with masks; a share `foreground_p` of them holds a voxel of a region, drawn with equal chances.

    Those that are asked for by a `ForegroundKey` hold one for sure, unless the scan has none.
    """

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
        return self.placed(key)[0]

    def placed(self, key: Key, size: Size | None = None) -> Placed:
        """A sample and where it lies; see `Placing`."""
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch + 1, index])
        case = self.cases[index // self.per_case]
        item = self.read(case)
        assert item.mask is not None
        shape = np.array(item.codes.shape[1:])
        patch = np.array(self.patch)
        if item.foreground is None:
            voxels = [np.flatnonzero(region) for region in item.mask[...]]
            item.foreground = [found for found in voxels if found.size]
        start = rng.integers(0, shape - patch + 1)
        if item.foreground and (isinstance(key, ForegroundKey) or rng.random() < self.foreground_p):
            region = item.foreground[int(rng.integers(len(item.foreground)))]
            voxel = np.unravel_index(region[int(rng.integers(region.size))], tuple(shape))
            start = np.clip(np.array(voxel) - rng.integers(0, patch), 0, shape - patch)
        window = around(start, self.patch, size, tuple(shape.tolist()))
        sample = {
            "id": case.name,
            "index": index,
            "image": decode(cut(item.codes, window.start, window.size), item.norm),
            "mask": torch.from_numpy(cut(item.mask, window.start, window.size).astype(np.float32)),
        }
        return sample, window, world_of(item, window)

    def owners(self, epoch: int) -> Array:
        """Scan of each sample."""
        return np.repeat(np.arange(len(self.cases)), self.per_case)


class WholeVolumes(Dataset[Sample]):
    """Each scan whole, with its masks."""

    def __init__(self, cases: Sequence[Any], read: Callable[[Any], Loaded]) -> None:
        self.cases, self.read = cases, read

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: Key) -> Sample:
        return self.placed(key)[0]

    def placed(self, key: Key, size: Size | None = None) -> Placed:
        """A scan and where it lies; there is nothing around it."""
        index = key[1]
        item = self.read(self.cases[index])
        assert item.mask is not None
        sample = {
            "id": self.cases[index].name,
            "index": index,
            "image": decode(item.codes[...], item.norm),
            "mask": torch.from_numpy(item.mask[...].astype(bool)),  # a quarter of the memory of what training takes
            **voxel_size(item),
        }
        return sample, None, item.to_world


def world_of(item: Loaded, window: Window) -> Array | None:
    """(4, 4) voxel of a window to world in mm; None where it is not known."""
    if item.to_world is None:
        return None
    moved = item.to_world.copy()
    moved[:3, 3] += moved[:3, :3] @ window.start
    return moved


def voxel_size(item: Loaded) -> Sample:
    """`spacing` as `Batch` wants it; nothing where it is not known."""
    return {} if item.to_world is None else {"spacing": torch.tensor(spacing_of(item.to_world))}


def grow(item: Loaded, patch: Size) -> Loaded:
    """Pads a decoded scan that is smaller than a patch with background, the scan in the middle; positions are kept."""
    assert isinstance(item.codes, np.ndarray)
    to_world = None if item.to_world is None else grown_world(item.codes.shape[1:], item.to_world, patch)
    mask = pad_to(item.mask, patch) if isinstance(item.mask, np.ndarray) else None
    return Loaded(pad_to(item.codes, patch), mask, to_world, norm=item.norm)


def grown_world(shape: Size, to_world: Array, patch: Size) -> Array:
    """`to_world` of a scan of `shape` after `grow`."""
    before = [max(0, p - n) // 2 for n, p in zip(shape, patch, strict=True)]
    moved = to_world.copy()
    moved[:3, 3] -= moved[:3, :3] @ before
    return moved
