"""Subjects with several MR sequences each and an optional mask, one folder a subject.

Written for the brain MR of multiple sclerosis patients of the University of Ljubljana (Lesjak et al., Neuroinformatics,
2017; CC BY), and for any folder of that form; terms of other data: see their distributor.
Expected below the root: <subject>/<modality>.nii.gz and <subject>/mask.nii.gz (0 background, 1 ... classes), or the same
names with <subject>_ before them; .nii, .mhd, .mha, .nrrd and .nhdr do as well. The sequences of a subject share one grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.core.files import stem
from datamodules.core.readers import VOLUME_ENDINGS
from datamodules.core.scans import Scan, ScanData
from datamodules.core.volume_settings import (
    AnyIntensityConfig,
    SegmentationConfig,
    any_content,
    any_intensity,
    volume_spec,
)
from datamodules.core.volumes import Content
from datamodules.formats.grids import Array
from ssl_med.ranges import Side
from ssl_med.spec import DataSpec, SslMedError


@dataclass
class MsConfig(AnyIntensityConfig, SegmentationConfig):
    """Names of the files, without their ending."""

    patch_size: tuple[Side, ...] = (64, 64, 32)
    modalities: tuple[str, ...] = ("FLAIR", "T1", "T1POST", "T2")
    """channels, in this order: file names without ending"""
    mask: str = "mask"
    """file name of the label map, without ending"""
    classes: tuple[str, ...] = ("lesion",)
    """names of the labels 1, 2, ... of the mask"""
    skip_incomplete: bool = False
    """leave out subjects that lack a modality, and say how many"""


class MsData(ScanData):
    """Folders with a file of any modality; a subject without mask serves for pretraining only."""

    Config = MsConfig
    store_keys = ("orientation", "spacing_mm", "mask_header")
    layout = "<subject>/<modality>.nii.gz for each of data.modalities, and <subject>/mask.nii.gz"

    @classmethod
    def make_spec(cls, config: MsConfig, *, labelled: bool) -> DataSpec:
        """One channel a modality, one mask a class."""
        for key in ("modalities", "classes"):
            names = list(getattr(config, key))
            if not names or len(set(names)) < len(names) or not all(names):
                raise SslMedError(f"data.{key} {names} must be different names, at least one")
        if config.mask in config.modalities:
            raise SslMedError(f"data.mask '{config.mask}' is also in data.modalities; a mask is no channel")
        return volume_spec(
            config,
            channels=tuple(config.modalities),
            intensity=any_intensity(config, auto="percentile"),
            target="mask" if labelled else "none",
            class_names=tuple(config.classes),
            exclusive=True,
        )

    @property
    def content(self) -> Content | None:
        """Against empty crops."""
        return any_content(self.config)

    @classmethod
    def begins(cls, folder: Path, config: MsConfig) -> bool:
        """Where a folder directly below holds volumes."""
        return any(_is_volume(path) for path in folder.glob("*/*"))

    def index(self, root: Path) -> Sequence[Scan]:
        """Folders directly below the root."""
        self.known_labels = tuple(range(len(self.config.classes) + 1))
        scans, skipped = [], 0
        paths = self.find(root, lambda path: path.parent.parent == root and _is_volume(path))
        for folder in sorted({path.parent for path in paths}):
            files = _files(folder, [path for path in paths if path.parent == folder])
            if not any(name in files for name in self.config.modalities):
                continue
            lacking = [name for name in self.config.modalities if name not in files]
            left_out = bool(lacking) and self.quarantined(folder)
            if lacking and not left_out and not self.config.skip_incomplete:
                have = ", ".join(sorted(files))
                raise SslMedError(
                    f"{folder}: lacks {', '.join(lacking)} (it has {have}); choose data.modalities=[...] that all "
                    "subjects have, or data.skip_incomplete=true to leave such subjects out"
                )
            skipped += bool(lacking) and not left_out
            images = () if lacking else tuple(str(files[name]) for name in self.config.modalities)
            voxels = max((self.voxels(path) for path in images), default=0)
            scans.append(Scan(folder.name, folder.name, images, str(files.get(self.config.mask, "")), voxels))
        if skipped:
            self.notes.append(f"{skipped} subjects lack a modality and are left out")
        if self.labelled and scans and not any(scan.mask for scan in scans):
            raise SslMedError(f"{root}: no subject has a file '{self.config.mask}'; name the label map, data.mask=NAME")
        return scans

    def usable(self, case: Any) -> bool:
        """Complete subjects, and for labelled use those with a mask; the split is the same for all `modalities`."""
        return bool(case.images) and (bool(case.mask) or not self.labelled)

    def regions(self, labels: Array, *, source: str) -> Array:
        """One mask per class."""
        return np.stack([labels == number + 1 for number in range(len(self.config.classes))]).astype(np.uint8)


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_ENDINGS)


def _files(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Name of each volume file of a subject without ending and <subject>_; refuses two files of one name."""
    found: dict[str, Path] = {}
    for path in paths:
        name = stem(path).removeprefix(f"{folder.name}_")
        if name in found:
            raise SslMedError(f"{path}: is a second copy of {found[name]}; keep one")
        found[name] = path
    return found
