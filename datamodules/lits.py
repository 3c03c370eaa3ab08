"""LiTS: 131 abdominal CTs with liver and tumour masks (Bilic et al., Medical Image Analysis 84, 2023).

Expected below the root, in any folder: volume-N.nii[.gz] and segmentation-N.nii[.gz].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.core.scans import Scan, ScanData
from datamodules.core.splits import Split
from datamodules.core.volume_settings import SegmentationConfig, volume_spec
from datamodules.core.volumes import Content
from datamodules.formats.grids import Array
from ssl_med.ranges import Side, StoredValue
from ssl_med.spec import DataSpec, SslMedError


@dataclass
class LitsConfig(SegmentationConfig):
    """HU window of PCRL; `target_regions` says what counts as foreground."""

    patch_size: tuple[Side, ...] = (64, 64, 32)
    intensity_low: StoredValue = -200.0
    intensity_high: StoredValue = 200.0
    target_regions: Literal["liver", "liver_only", "liver+tumor"] = "liver"
    """liver with tumours inside; liver without them; or two regions, liver with tumours and tumour"""


class LitsData(ScanData):
    """Volumes by number; one scan a patient."""

    Config = LitsConfig
    public_sets = ("LiTS", "MSD")
    store_keys = ("orientation", "spacing_mm", "mask_header")
    layout = "volume-N.nii[.gz] and segmentation-N.nii[.gz]"
    splits = ("mg",)
    public_names = r"volume-\d+"
    known_labels = (0, 1, 2)

    @classmethod
    def make_spec(cls, config: LitsConfig, *, labelled: bool) -> DataSpec:
        """HU window; one or two regions."""
        return volume_spec(
            config,
            channels=("ct",),
            intensity=config.intensity_of("window", "HU"),
            target="mask" if labelled else "none",
            class_names=("liver", "tumor") if config.target_regions == "liver+tumor" else ("liver",),
        )

    @property
    def content(self) -> Content | None:
        """All crops are taken."""
        return None

    def index(self, root: Path) -> Sequence[Scan]:
        """Pairs volumes with their segmentations; unlabelled use needs the volumes only."""
        found: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}}
        pattern = re.compile(r"(volume|segmentation)-(\d+)(?:_0000)?\.nii(?:\.gz)?", re.IGNORECASE)
        for path in self.find(root, lambda path: pattern.fullmatch(path.name)):
            match = pattern.fullmatch(path.name)
            if match:
                kind, number = match[1].lower(), int(match[2])
                if number in found[kind] and self.quarantined(path):
                    continue
                if number in found[kind]:
                    raise SslMedError(f"{path}: there is a second {kind} {number}, {found[kind][number]}; keep one")
                found[kind][number] = path
        scans = []
        for number, path in sorted(found["volume"].items()):
            mask = found["segmentation"].get(number)
            if mask is None and self.labelled and not self.quarantined(path):
                raise SslMedError(f"{path}: has no segmentation-{number}.nii[.gz]; add it or remove the volume")
            scans.append(Scan(f"volume-{number}", str(number), (str(path),), str(mask or ""), self.voxels(str(path))))
        return scans

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """mg: Models Genesis' 100/15/15 by number, 0-99, 100-114, 115-."""
        split: Split = {"train": [], "val": [], "test": []}
        for case in cases:
            number = int(case.subject)
            split["train" if number < 100 else "val" if number < 115 else "test"].append(case.subject)
        return split

    def regions(self, labels: Array, *, source: str) -> Array:
        """0 background, 1 liver, 2 tumour."""
        if self.config.target_regions == "liver_only":
            tissue: Array = (labels == 1)[None].astype(np.uint8)
            return tissue
        liver = (labels > 0)[None]
        if self.config.target_regions == "liver":
            whole: Array = liver.astype(np.uint8)
            return whole
        return np.concatenate([liver, (labels == 2)[None]]).astype(np.uint8)
