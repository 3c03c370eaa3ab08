"""Families of volumes: from files to cached intensity codes, and the loaders' datasets."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.arrays import StoredArray
from datamodules.core.base import MedicalData
from datamodules.core.configs import VolumeConfig
from datamodules.core.crops import Starts
from datamodules.core.geometry import check_orientation, reorient, resample, resampled_shape
from datamodules.core.intensity import encode
from datamodules.core.lazy import LazyMask, lazy_codes, stored_starts
from datamodules.core.readers import read_header, read_labels, read_volume
from datamodules.core.store import Item
from datamodules.core.volumes import Cache, Content, Crops, LabelledCrops, Loaded, WholeVolumes, grow, grown_world
from datamodules.formats.grids import Array, Header, Volume
from ssl_med.ranges import Share, StoredValue
from ssl_med.spec import DataSpec, Intensity, SslMedError, Target


@dataclass
class SegmentationConfig(VolumeConfig):
    """Settings of families with masks."""

    foreground_p: Share = 0.5
    """share of labelled training crops that hold a chosen foreground voxel"""


@dataclass
class AnyIntensityConfig(VolumeConfig):
    """Settings of families whose files may be CT or MR."""

    intensity: Literal["auto", "window", "percentile"] = "auto"
    """window: a range of stored units, HU for CT; percentile: of the non-zero voxels by scan and channel, for MR; auto: the
    family's choice"""
    # null is wider than the base's type: the default depends on `intensity`
    intensity_low: StoredValue | None = None  # type: ignore[assignment]
    """lower end; null: -1000 for a window, the 0.5th percentile"""
    intensity_high: StoredValue | None = None  # type: ignore[assignment]
    """upper end; null: 1000 for a window, the 99.5th percentile"""
    content_min: Share = 0.1
    """unlabelled crops: least share of voxels above the lower end; 0: off"""


@dataclass(frozen=True)
class Scan:
    """A scan on disk: one file per channel, and its label map when there is one."""

    name: str
    subject: str
    images: tuple[str, ...]
    mask: str = ""
    voxels: int = 0


class ScanData(MedicalData):
    """A family whose cases are `Scan`s. A leaf gives `index`, `make_spec` and `regions`."""

    known_labels: tuple[int, ...] = ()  # values that a label map may hold
    store_keys: ClassVar[tuple[str, ...]] = ("orientation", "spacing_mm")

    def regions(self, labels: Array, *, source: str) -> Array:
        """Label map (x, y, z) uint8 of the file `source` -> one mask per class name (K, x, y, z) uint8.

        What a voxel belongs to depends on its label and on which labels the whole map holds, not on its place.
        """
        raise NotImplementedError  # unreachable: unlabelled families read no masks

    @property
    @abstractmethod
    def content(self) -> Content | None:
        """Filter of unlabelled crops."""

    def margin(self) -> tuple[int, ...] | None:
        """Voxels at each end of an axis that unlabelled crops leave out."""
        return None

    def voxels(self, path: str) -> int:
        """Size of a scan after resampling, from its header; refuses an unreadable header. Not needed with a store."""
        return 0 if self.store is not None else self.voxels_of(self.grid_of(path))

    def voxels_of(self, header: Header) -> int:
        """Size of a grid after resampling."""
        if self.config.spacing_mm is None:
            return math.prod(header.shape)
        # axes of the file and of `orientation` differ in order; for a budget of memory that does not matter
        return math.prod(resampled_shape(header.shape, header.to_world, self.config.spacing_mm))

    def grid_of(self, path: str) -> Header:
        """Grid of a scan from its header."""
        return read_header(path)

    def split_group(self, case: Any) -> str:
        """Scans with and without labels are split apart, so that both uses agree on who is tested."""
        return "labelled" if case.mask else ""

    def cache_need(self, cases: Sequence[Any]) -> int:
        """Two bytes a voxel and channel, one a voxel and mask; a store is read crop by crop."""
        if self.store is not None:
            return 0
        masks = len(self.spec.class_names) if self.spec.target == "mask" else 0
        return sum(case.voxels * (2 * self.spec.in_channels + masks) for case in cases)

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Crops for training, whole volumes for labelled evaluation."""
        config, patch = self.config, self.spec.patch_size
        read = Cache(self.load, gigabytes=config.cache_gb)
        if not self.labelled:
            return Crops(
                cases,
                read,
                patch=patch,
                per_case=config.crops_per_volume,
                seed=self.seed,
                need=self.need,
                content=self.content,
                fixed=part != "train",
                margin=self.margin(),
            )
        if part == "train":
            return LabelledCrops(
                cases,
                read,
                patch=patch,
                per_case=config.crops_per_volume,
                seed=self.seed,
                foreground_p=config.foreground_p,
            )
        return WholeVolumes(cases, read)

    def eval_batch(self) -> int:
        """Whole volumes differ in size, so labelled evaluation takes one at a time."""
        return 1 if self.labelled else super().eval_batch()

    def stored(self, scan: Any) -> Iterator[tuple[str, Volume]]:
        """File and volume of each channel as it lies on disk; one file a channel."""
        for path in scan.images:
            yield path, read_volume(path)

    def stored_labels(self, scan: Any) -> Array:
        """Label map (x, y, z) uint8 on the grid of the stored image."""
        return read_labels(scan.mask)

    def load(self, scan: Any) -> Loaded:
        """Reads, orients, resamples and windows one scan, or opens it in the store."""
        if self.store is not None:
            return self._load_stored(scan)
        channels = []
        grid, placed = None, None
        for path, volume in self._channels(scan):
            grid, placed = Header(volume.array.shape, volume.to_world), self.place(volume)
            channels.append(encode(placed.array, self.spec.intensity, source=path))
        assert grid is not None
        assert placed is not None
        mask = None
        if self.labelled and scan.mask:
            labels = self.place(self._labels(scan, grid), nearest=True)
            mask = self.regions(labels.array, source=scan.mask)
        return grow(Loaded(np.stack(channels), mask, placed.to_world), self.spec.patch_size)

    def _channels(self, scan: Any) -> Iterator[tuple[str, Volume]]:
        """File and volume of each channel, all on the grid of the first."""
        grid: Header | None = None
        for path, volume in self.stored(scan):
            grid = grid or Header(volume.array.shape, volume.to_world)
            if volume.array.shape != grid.shape:
                raise SslMedError(
                    f"{path}: has shape {volume.array.shape}, {scan.images[0]} has {grid.shape}; "
                    "the channels of a case must share one grid"
                )
            yield path, Volume(volume.array, grid.to_world)
            del volume  # before the next one is read

    def _labels(self, scan: Any, grid: Header) -> Volume:
        """The label map; refuses one that does not lie on its image or holds unknown labels."""
        labels = self.stored_labels(scan)
        if labels.shape != grid.shape:
            raise SslMedError(
                f"{scan.mask}: mask has shape {labels.shape}, its image {scan.images[0]} has {grid.shape}"
            )
        strange = np.setdiff1d(np.unique(labels), self.known_labels)
        if strange.size:
            raise SslMedError(f"{scan.mask}: holds label {strange[0]}; {self.spec.name} has {self.known_labels}")
        # the image's geometry counts: mask headers are often wrong
        return Volume(labels, grid.to_world)

    def place(self, volume: Volume, *, nearest: bool = False) -> Volume:
        """Orients and resamples; whole numbers stay whole, so that a store keeps them in two bytes."""
        volume = reorient(volume, self.config.orientation)
        if self.config.spacing_mm is None:
            return volume
        return resample(volume, self.config.spacing_mm, nearest=nearest)

    def items(self, case: Any, *, labels: bool) -> list[Item]:
        """The channels together, and the label map with the image that it lies on."""
        found = [Item("image", case.images)]
        if labels and case.mask:
            found.append(Item("labels", (case.mask, case.images[0])))
        return found

    def contents(self, case: Any, item: Item, grid: Header | None) -> Iterator[Volume]:
        """Channels, or labels."""
        if item.kind == "image":
            for _, volume in self._channels(case):
                yield volume
                del volume
        else:
            assert grid is not None
            yield self._labels(case, grid)

    def _load_stored(self, scan: Any) -> Loaded:
        assert self.store is not None
        store, patch = self.store, self.spec.patch_size
        image, *others = self.items(scan, labels=self.labelled)
        record = store.record(image)

        def opener(item: Item, number: int) -> Callable[[], StoredArray]:
            array = store.record(item).arrays[number]
            return lambda: store.array(array, item.files[min(number, len(item.files) - 1)])

        codes = lazy_codes(store, [opener(image, k) for k in range(len(record.arrays))], self.spec.intensity, patch)
        to_world = grown_world(codes.inner, np.array(record.to_world), patch)

        def filtered(
            sizes: Sequence[tuple[int, ...]], content: Content, margin: tuple[int, ...] | None
        ) -> dict[Any, Starts]:
            return stored_starts(store, codes, record.arrays[0].name, sizes, content, margin)

        if not others:
            return Loaded(codes, None, to_world, filtered=filtered)
        labels = opener(others[0], 0)
        values = labels().values
        assert values is not None  # labels are bytes
        present = values.astype(np.uint8)
        regions = self.regions(present.reshape(-1, 1, 1), source=scan.mask)
        table = np.zeros((len(regions), 256), np.uint8)
        table[:, present] = regions[:, :, 0, 0]
        mask = LazyMask(labels, table, patch)
        rows = np.concatenate(list(opener(others[0], 1)().slabs()))
        return Loaded(codes, mask, to_world, foreground=mask.foreground(rows))


def any_intensity(config: AnyIntensityConfig, *, auto: Literal["window", "percentile"]) -> Intensity:
    """The intensity that a config of unknown modality asks for, with the defaults of its kind; `auto` is the family's."""
    if not 0 <= config.content_min < 1:
        raise SslMedError(f"data.content_min is {config.content_min:g}; it must lie in [0, 1)")
    kind = auto if config.intensity == "auto" else config.intensity
    low, high, unit = (-1000.0, 1000.0, "HU") if kind == "window" else (0.5, 99.5, "percentile of the non-zero voxels")
    low = low if config.intensity_low is None else config.intensity_low
    high = high if config.intensity_high is None else config.intensity_high
    return Intensity(kind, low, high, unit)


def any_content(config: AnyIntensityConfig) -> Content | None:
    """Filter of unlabelled crops against empty ones."""
    if config.content_min == 0:
        return None
    return Content(1, config.content_min, 1.0, "lower data.content_min (0 switches the filter off)")


def volume_spec(
    config: VolumeConfig,
    *,
    channels: tuple[str, ...],
    intensity: Intensity,
    target: Target,
    class_names: tuple[str, ...],
) -> DataSpec:
    """The spec of a volumetric family."""
    check_orientation(config.orientation)
    if config.spacing_mm is not None and (len(config.spacing_mm) != 3 or min(config.spacing_mm) <= 0):
        raise SslMedError(f"data.spacing_mm {list(config.spacing_mm)} must be three positive sizes in mm, or null")
    if config.crops_per_volume < 1:
        raise SslMedError(f"data.crops_per_volume is {config.crops_per_volume}; it must be at least 1")
    if config.mixed_volumes < 1:
        raise SslMedError(f"data.mixed_volumes is {config.mixed_volumes}; it must be at least 1")
    return DataSpec(
        name=config.name,
        spatial_dims=3,
        in_channels=len(channels),
        patch_size=tuple(config.patch_size),
        intensity=intensity,
        spacing_mm=config.spacing_mm,
        orientation=config.orientation,
        channel_names=channels,
        target=target,
        class_names=class_names if target != "none" else (),
    )
