"""Families of volumes: from files to cached intensity codes, and the loaders' datasets."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.base import MedicalData, VolumeConfig
from datamodules.core.geometry import check_orientation, reorient, resample, resampled_shape
from datamodules.core.intensity import encode
from datamodules.core.readers import Array, Header, Volume, read_header, read_labels, read_volume
from datamodules.core.volumes import Cache, Content, Crops, LabelledCrops, Loaded, WholeVolumes, grow
from ssl_med.spec import DataSpec, Intensity, SslMedError, Target


@dataclass
class SegmentationConfig(VolumeConfig):
    """Settings of families with masks."""

    foreground_p: float = 0.5
    """share of labelled training crops that hold a chosen foreground voxel"""


@dataclass
class AnyIntensityConfig(VolumeConfig):
    """Settings of families whose files may be CT or MR."""

    intensity: Literal["auto", "window", "percentile"] = "auto"
    """window: a range of stored units, HU for CT; percentile: of the non-zero voxels by scan and channel, for MR; auto: the
    family's choice"""
    # null is wider than the base's type: the default depends on `intensity`
    intensity_low: float | None = None  # type: ignore[assignment]
    """lower end; null: -1000 for a window, the 0.5th percentile"""
    intensity_high: float | None = None  # type: ignore[assignment]
    """upper end; null: 1000 for a window, the 99.5th percentile"""
    content_min: float = 0.1
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

    def regions(self, labels: Array, *, source: str) -> Array:
        """Label map (x, y, z) uint8 of the file `source` -> one mask per class name (K, x, y, z) uint8."""
        raise NotImplementedError  # unreachable: unlabelled families read no masks

    @property
    @abstractmethod
    def content(self) -> Content | None:
        """Filter of unlabelled crops."""

    def margin(self) -> tuple[int, ...] | None:
        """Voxels at each end of an axis that unlabelled crops leave out."""
        return None

    def voxels(self, path: str) -> int:
        """Size of a scan after resampling, from its header; refuses an unreadable header."""
        return self.voxels_of(self.grid_of(path))

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
        """Two bytes a voxel and channel, one a voxel and mask."""
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
        """Reads, orients, resamples and windows one scan; refuses a mask that does not lie on its image."""
        channels = []
        first: Volume | None = None
        for path, stored in self.stored(scan):
            if first is not None and stored.array.shape != first.array.shape:
                raise SslMedError(
                    f"{path}: has shape {stored.array.shape}, {scan.images[0]} has {first.array.shape}; "
                    "the channels of a case must share one grid"
                )
            first = first or stored
            volume = self._place(Volume(stored.array, first.to_world))
            channels.append(encode(volume.array, self.spec.intensity, source=path))
        assert first is not None
        mask = None
        if self.labelled and scan.mask:
            labels = self.stored_labels(scan)
            if labels.shape != first.array.shape:
                raise SslMedError(
                    f"{scan.mask}: mask has shape {labels.shape}, its image {scan.images[0]} has {first.array.shape}"
                )
            strange = np.setdiff1d(np.unique(labels), self.known_labels)
            if strange.size:
                raise SslMedError(f"{scan.mask}: holds label {strange[0]}; {self.spec.name} has {self.known_labels}")
            # the image's geometry counts: mask headers are often wrong
            placed = self._place(Volume(labels, first.to_world), nearest=True).array
            mask = self.regions(placed, source=scan.mask)
        return grow(Loaded(np.stack(channels), mask, volume.to_world), self.spec.patch_size)

    def _place(self, volume: Volume, *, nearest: bool = False) -> Volume:
        volume = reorient(volume, self.config.orientation)
        if self.config.spacing_mm is not None:
            volume = resample(volume, self.config.spacing_mm, nearest=nearest)
        return volume


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
