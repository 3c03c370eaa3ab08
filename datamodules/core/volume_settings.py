"""Settings that families of volumes share, and the spec that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datamodules.core.configs import LABELLED, VolumeConfig
from datamodules.core.geometry import check_orientation
from datamodules.core.volumes import Content
from ssl_med.ranges import BelowOne, Share, StoredValue
from ssl_med.setting import setting
from ssl_med.spec import DataSpec, Intensity, SslMedError, Target


@dataclass
class SegmentationConfig(VolumeConfig):
    """Settings of families with masks."""

    foreground_p: Share = setting(default=0.5, needs=LABELLED)
    """share of labelled training crops that hold a chosen foreground voxel"""
    foreground_batch: Share = setting(default=0.0, before=0.0, needs=LABELLED)
    """share of every batch of labelled training crops, rounded up, that holds such a voxel for sure (nnU-Net: 0.33); the
    region is drawn with equal chances from those of the scan, and foreground_p says what the other crops do"""
    mask_header: Literal["used", "ignored"] = setting(default="used", affects="store", before="used")
    """used: a mask lies where its header says, which must be on its image; ignored: voxel on voxel, for masks of the right
    shape whose headers are known to be wrong"""


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
    content_min: BelowOne = 0.1
    """unlabelled crops: least share of voxels above the lower end; 0: off"""


def any_intensity(config: AnyIntensityConfig, *, auto: Literal["window", "percentile"]) -> Intensity:
    """The intensity that a config of unknown modality asks for, with the defaults of its kind; `auto` is the family's."""
    kind = auto if config.intensity == "auto" else config.intensity
    low, high, unit = (-1000.0, 1000.0, "HU") if kind == "window" else (0.5, 99.5, "percentile of the non-zero voxels")
    low = low if config.intensity_low is None else config.intensity_low
    high = high if config.intensity_high is None else config.intensity_high
    return config.intensity_of(kind, unit, low=low, high=high)


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
    exclusive: bool = False,
) -> DataSpec:
    """The spec of a volumetric family; `exclusive`: no voxel lies in two regions, where there are two."""
    check_orientation(config.orientation)
    if config.spacing_mm is not None and len(config.spacing_mm) != 3:
        raise SslMedError(f"data.spacing_mm {list(config.spacing_mm)} must be three sizes in mm, or null")
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
        exclusive=exclusive and target == "mask" and len(class_names) > 1,
    )
