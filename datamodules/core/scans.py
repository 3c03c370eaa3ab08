"""Families of volumes: from files to cached intensity codes, and the loaders' datasets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.base import MedicalData, VolumeConfig
from datamodules.core.geometry import check_orientation, reorient, resample
from datamodules.core.intensity import encode
from datamodules.core.readers import Array, Volume, read_labels, read_volume
from datamodules.core.volumes import Cache, Content, Crops, LabelledCrops, Loaded, WholeVolumes, grow
from ssl_med.spec import DataSpec, Intensity, SslMedError, Target


@dataclass
class SegmentationConfig(VolumeConfig):
    """Settings of families with masks."""

    foreground_p: float = 0.5
    """share of labelled training crops that hold a chosen foreground voxel"""


@dataclass(frozen=True)
class Scan:
    """A scan on disk: one file per channel, and its label map when there is one."""

    name: str
    subject: str
    images: tuple[str, ...]
    mask: str = ""


class ScanData(MedicalData):
    """A family whose cases are `Scan`s. A leaf gives `index`, `make_spec` and `regions`."""

    def regions(self, labels: Array) -> Array:
        """Label map (x, y, z) uint8 -> one mask per class name (K, x, y, z) uint8."""
        raise NotImplementedError  # unreachable: unlabelled families read no masks

    @property
    @abstractmethod
    def content(self) -> Content | None:
        """Filter of unlabelled crops."""

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

    def load(self, scan: Scan) -> Loaded:
        """Reads, orients, resamples and windows one scan; refuses a mask that does not lie on its image."""
        channels = []
        first: Volume | None = None
        for path in scan.images:
            stored = read_volume(path)
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
            labels = read_labels(scan.mask)
            if labels.shape != first.array.shape:
                raise SslMedError(
                    f"{scan.mask}: mask has shape {labels.shape}, its image {scan.images[0]} has {first.array.shape}"
                )
            # the image's geometry counts: mask headers are often wrong
            mask = self.regions(self._place(Volume(labels, first.to_world), nearest=True).array)
        codes, mask = grow(np.stack(channels), self.spec.patch_size, mask)
        return Loaded(codes, mask, volume.to_world)

    def _place(self, volume: Volume, *, nearest: bool = False) -> Volume:
        volume = reorient(volume, self.config.orientation)
        if self.config.spacing_mm is not None:
            volume = resample(volume, self.config.spacing_mm, nearest=nearest)
        return volume


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
