"""BraTS 2018 to 2023: brain tumours in four MR sequences (Menze et al. 2015; Bakas et al. 2017; Baid et al. 2021).

Expected below the root, in any folder: <case>/<case>_{flair,t1,t1ce,t2,seg}.nii[.gz], as in BraTS18 (HGG/, LGG/), BraTS20 and
BraTS21, or <case>/<case>-{t2f,t1n,t1c,t2w,seg}.nii[.gz], as from 2023 on (BraTS-GLI-00000-000 and its like: the last number
counts the scans of a patient, which stay in one part). Labels: 1 necrotic core, 2 oedema, 4 enhancing; since 2023, and in
some copies of the earlier years, 3 is enhancing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from datamodules.core.scans import Scan, ScanData
from datamodules.core.volume_settings import SegmentationConfig, volume_spec
from datamodules.core.volumes import Content
from datamodules.formats.grids import Array
from ssl_med.ranges import Range, Side
from ssl_med.spec import DataSpec, SslMedError

SEQUENCES = ("flair", "t1", "t1ce", "t2")
REGIONS = ("WT", "TC", "ET")
# names of the files since 2023
RENAMED = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}
_FILE = re.compile(r"(.+)(?:_(flair|t1|t1ce|t2|seg)|-(t2f|t1n|t1c|t2w|seg))\.nii(?:\.gz)?", re.IGNORECASE)
_SEGM = re.compile(r".+_Segm\.nii(?:\.gz)?", re.IGNORECASE)
_SINCE_2023 = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+")


@dataclass
class BratsConfig(SegmentationConfig):
    """Intensities are percentiles of the brain's voxels, by case and sequence."""

    patch_size: tuple[Side, ...] = (64, 64, 32)
    intensity_low: Annotated[float, Range(0, 100)] = 0.5
    intensity_high: Annotated[float, Range(0, 100)] = 99.5
    modalities: tuple[str, ...] = SEQUENCES
    """channels, in this order"""
    regions: tuple[str, ...] = REGIONS
    """what is segmented: whole tumour, tumour core, enhancing tumour"""
    enhancing: Literal["auto", "3", "4"] = "auto"
    """label of the enhancing tumour; auto: by what each mask holds, which is refused when a mask holds both"""
    skip_incomplete: bool = False
    """leave out cases that lack a modality, and say which"""


class BratsData(ScanData):
    """Cases by folder; one scan a patient."""

    Config = BratsConfig
    public_sets = ("BraTS",)
    store_keys = ("orientation", "spacing_mm", "mask_header")
    layout = "<case>/<case>_{flair,t1,t1ce,t2,seg}.nii[.gz] or <case>/<case>-{t2f,t1n,t1c,t2w,seg}.nii[.gz]"
    public_names = r"(BraTS|Brats)(\d+|20\d\d)_\w+|BraTS-[A-Za-z]+-\d+-\d+"
    known_labels = (0, 1, 2, 3, 4)

    @classmethod
    def make_spec(cls, config: BratsConfig, *, labelled: bool) -> DataSpec:
        """One channel per sequence, one mask per region."""
        unknown = [name for name in config.modalities if name not in SEQUENCES]
        if unknown or not config.modalities or len(set(config.modalities)) < len(config.modalities):
            raise SslMedError(
                f"data.modalities {list(config.modalities)} must be different names of {', '.join(SEQUENCES)}"
            )
        odd = [name for name in config.regions if name not in REGIONS]
        if odd or not config.regions or len(set(config.regions)) < len(config.regions):
            raise SslMedError(f"data.regions {list(config.regions)} must be different names of {', '.join(REGIONS)}")
        return volume_spec(
            config,
            channels=tuple(config.modalities),
            intensity=config.intensity_of("percentile", "percentile of the brain"),
            target="mask" if labelled else "none",
            class_names=tuple(config.regions),
        )

    @property
    def content(self) -> Content | None:
        """At least a tenth of an unlabelled crop is brain: air teaches nothing."""
        return Content(1, 0.1, 1.0, "a tenth of a crop must be brain; take another data.patch_size")

    def index(self, root: Path) -> Sequence[Scan]:
        """Case folders anywhere below the root."""
        by_folder: dict[Path, list[Path]] = {}
        for path in self.find(
            root,
            lambda path: _FILE.fullmatch(path.name) or _SEGM.fullmatch(path.name),
            prefer=lambda path: path.name.startswith(path.parent.name),
        ):
            by_folder.setdefault(path.parent, []).append(path)
        scans, skipped = [], []
        seen: dict[str, Path] = {}
        for folder, paths in sorted(by_folder.items()):
            names = [_sequence(path) for path in paths]
            if not any(name in SEQUENCES for name in names):
                continue  # masks alone are no case
            files = self._files(folder, paths)
            if folder.name in seen and self.quarantined(folder):
                continue
            if folder.name in seen:
                raise SslMedError(f"{folder}: there is a second folder of this case, {seen[folder.name]}; keep one")
            seen[folder.name] = folder
            lacking = [name for name in self.config.modalities if files[name] is None]
            if self.labelled and files["seg"] is None:
                lacking.append("seg")
            left_out = bool(lacking) and self.quarantined(folder)
            if lacking and not left_out and not self.config.skip_incomplete:
                raise SslMedError(
                    f"{folder}: lacks {', '.join(_name(folder, name) for name in lacking)}; choose "
                    "data.modalities=[...] that all cases have, or data.skip_incomplete=true to leave such cases out"
                )
            if lacking and not left_out:
                skipped.append(self.public_name(folder.name))
            images = () if lacking else tuple(str(files[name]) for name in self.config.modalities)
            voxels = max((self.voxels(path) for path in images), default=0)
            patient = _SINCE_2023.fullmatch(folder.name)
            subject = patient[1] if patient else folder.name
            scans.append(Scan(folder.name, subject, images, str(files["seg"] or ""), voxels))
        if skipped:
            self.notes.append(f"left out for want of a file ({len(skipped)}): {', '.join(skipped)}")
        return scans

    def _files(self, folder: Path, paths: Sequence[Path]) -> dict[str, Path | None]:
        """Sequence or seg -> its file of the case that the folder is named like, in the names of either time."""
        files: dict[str, Path | None] = dict.fromkeys((*SEQUENCES, "seg"))
        for path in paths:
            match = _FILE.fullmatch(path.name)
            name = _sequence(path)
            if match is None or name not in files or match[1].lower() != folder.name.lower():
                continue
            if (known := files[name]) is None:
                files[name] = path
            elif not self.quarantined(path):
                raise SslMedError(f"{path}: is a second copy of {known}; keep one")
        # BraTS 2020 was distributed with one mask under its source's name, BraTS20_Training_355/W39_1998.09.19_Segm.nii
        renamed = [path for path in paths if _SEGM.fullmatch(path.name)]
        if files["seg"] is None and len(renamed) == 1:
            files["seg"] = renamed[0]
        return files

    def channel_of(self, path: Path) -> tuple[str, int] | None:
        """In the names of either time of BraTS, or as for every family."""
        sequence = _sequence(path)
        if sequence not in self.config.modalities:
            return None if sequence else super().channel_of(path)
        match = _FILE.fullmatch(path.name)
        assert match is not None
        return match[1], self.config.modalities.index(sequence)

    def usable(self, case: Scan) -> bool:
        """Cases that lack a file take part in the split only, so that it is the same for all `modalities`."""
        return bool(case.images)

    def regions(self, labels: Array, *, source: str) -> Array:
        """WT: any tumour; TC: necrotic core and enhancing; ET: enhancing."""
        found = set(np.unique(labels).tolist())
        renamed = _SINCE_2023.match(Path(source).name) is not None
        enhancing = (3 if renamed else 4) if self.config.enhancing == "auto" else int(self.config.enhancing)
        if self.config.enhancing == "auto" and renamed and 4 in found:
            raise SslMedError(
                f"{source}: holds label 4, which BraTS 2023 does not have and later years use for other tissue; say which "
                "is enhancing, data.enhancing=3 or 4"
            )
        if self.config.enhancing == "auto" and 3 in found:
            if 4 in found:
                raise SslMedError(f"{source}: holds labels 3 and 4; say which is enhancing, data.enhancing=3 or 4")
            enhancing = 3
        et = labels == enhancing
        masks = {"WT": labels > 0, "TC": (labels == 1) | et, "ET": et}
        return np.stack([masks[name] for name in self.config.regions]).astype(np.uint8)


def _sequence(path: Path) -> str:
    """Which sequence (or seg) a file holds, by its name; '' for none."""
    match = _FILE.fullmatch(path.name)
    if match is None:
        return ""
    short = {new: name for name, new in RENAMED.items()}
    return match[2].lower() if match[2] else short[match[3].lower()]


def _name(folder: Path, name: str) -> str:
    """What the file of a sequence would be called."""
    since_2023 = _SINCE_2023.fullmatch(folder.name) is not None
    return f"{folder.name}{f'-{RENAMED[name]}' if since_2023 else f'_{name}'}.nii[.gz]"
