"""Any folder tree of volumes, unlabelled, for pretraining; terms: see the distributor of the scans.

Expected below the root, in any folders: .nii[.gz], .mhd, .mha, .nrrd, .nhdr, .npy (x, y, z), or folders that hold one
DICOM series each. Label maps among them are named in data.exclude. .npy files say neither voxel size nor orientation:
their axes are taken as data.orientation, their voxel size as data.npy_spacing_mm.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.core.files import channel_files, find_volumes, stem, visible
from datamodules.core.geometry import axes_matrix
from datamodules.core.readers import read_header
from datamodules.core.scans import Scan, ScanData
from datamodules.core.volume_settings import AnyIntensityConfig, any_content, any_intensity, volume_spec
from datamodules.core.volumes import Content
from datamodules.formats.grids import Header, Volume
from ssl_med.ranges import Millimetres, Side
from ssl_med.spec import DataSpec, SslMedError


@dataclass
class VolumesConfig(AnyIntensityConfig):
    """Which files, and whose they are. The default intensity is a HU window."""

    patch_size: tuple[Side, ...] = (64, 64, 32)
    exclude: tuple[str, ...] = ()
    """patterns of file names or relative paths to leave out, such as *mask* or segmentation-*"""
    subject: str = "folder"
    """the unit that no split divides. folder: first folder below the root (of a file in the root its name); file: each
    file by itself (channels CASE_0000, CASE_0001 of several cases together); else a regular expression whose first group,
    found in the relative path, is the subject"""
    npy_spacing_mm: tuple[Millimetres, ...] | None = None
    """voxel size of .npy files, needed to resample them"""


class VolumesData(ScanData):
    """Scans by path."""

    Config = VolumesConfig
    layout = "volumes (.nii, .nii.gz, .mhd, .mha, .nrrd, .nhdr, .npy, or folders of DICOM images)"
    store_keys = ("orientation", "spacing_mm", "npy_spacing_mm")

    @classmethod
    def make_spec(cls, config: VolumesConfig, *, labelled: bool) -> DataSpec:
        """One channel, no target."""
        given = config.npy_spacing_mm
        if given is not None and len(given) != 3:
            raise SslMedError(f"data.npy_spacing_mm {list(given)} must be three sizes in mm, or null")
        _rule(config.subject)
        return volume_spec(
            config,
            channels=("image",),
            intensity=any_intensity(config, auto="window"),
            target="none",
            class_names=(),
        )

    @property
    def content(self) -> Content | None:
        """Against empty crops."""
        return any_content(self.config)

    @classmethod
    def begins(cls, folder: Path, config: VolumesConfig) -> bool:
        """Anywhere but above the only folder, of the same name: that is no subject."""
        inner = [path.name for path in folder.glob("*") if visible(path.name)]
        return inner != [folder.resolve().name]

    def index(self, root: Path) -> Sequence[Scan]:
        """All volumes that `exclude` does not name."""
        rule = _rule(self.config.subject)
        scans: dict[str, Scan] = {}
        left_out = 0
        for path in find_volumes(root, left_out=self.quarantined):
            relative = path.relative_to(root)
            if any(fnmatch(path.name, p) or fnmatch(relative.as_posix(), p) for p in self.config.exclude):
                left_out += 1
                continue
            name = (relative.parent / stem(path)).as_posix()
            if name in scans and self.quarantined(path):
                continue
            if name in scans:
                raise SslMedError(
                    f"{path}: is a second copy of {scans[name].images[0]}; keep one, or name it in data.exclude"
                )
            try:
                voxels = self.voxels(str(path))
            except SslMedError as error:
                # what would be read as a pattern is taken as it stands
                named = glob.escape(relative.as_posix())
                raise SslMedError(f"{error}; or leave it out, data.exclude=['{named}']") from None
            scans[name] = Scan(name, _subject(relative, name, rule), (str(path),), "", voxels)
        channels = channel_files([name for name, scan in scans.items() if scan.subject == name])
        if channels:
            scans |= {name: replace(scans[name], subject=case) for name, case in channels.items()}
            self.notes.append(
                f"{len(channels)} files are named CASE_0000, CASE_0001 as channels are: they count as "
                f"{len(set(channels.values()))} subjects"
            )
        if len(scans) > 1 and len({scan.subject for scan in scans.values()}) == 1:
            self.notes.append(
                f"all {len(scans)} scans count as one subject; data.subject=file makes each file a subject"
            )
        if left_out:
            self.notes.append(f"{left_out} files are left out by data.exclude")
        return list(scans.values())

    def grid_of(self, path: str) -> Header:
        """Header of a file; that of .npy is completed by the config."""
        header = read_header(path)
        return Header(header.shape, self._npy_grid(path)) if path.lower().endswith(".npy") else header

    def check_values(self, path: str, low: float, high: float) -> None:
        """Refuses values that cannot be HU under a window of HU."""
        intensity = self.spec.intensity
        if intensity.kind == "window" and intensity.low < 0 and low >= 0:
            raise SslMedError(
                f"{path}: holds no value below 0, so it is no CT in HU; set data.intensity=percentile for MR, "
                "data.intensity_low=0 with an intensity_high for other units, or data.exclude for a label map"
            )

    def stored(self, scan: Any) -> Iterator[tuple[str, Volume]]:
        """Volumes whose values can be in the unit of the window."""
        for path, volume in super().stored(scan):
            self.check_values(path, float(volume.array.min()), float(volume.array.max()))
            to_world = self._npy_grid(path) if path.lower().endswith(".npy") else volume.to_world
            yield path, Volume(volume.array, to_world, volume.remarks)

    def _npy_grid(self, path: str) -> np.ndarray[Any, Any]:
        given = self.config.npy_spacing_mm
        if given is None and self.config.spacing_mm is not None:
            raise SslMedError(
                f"{path}: says no voxel size, which resampling to data.spacing_mm needs; give data.npy_spacing_mm=[x,y,z] "
                "or data.spacing_mm=null"
            )
        return axes_matrix(self.config.orientation, given or (1.0, 1.0, 1.0))


def _rule(text: str) -> str | re.Pattern[str]:
    """`folder`, `file`, or the compiled expression."""
    if text in ("folder", "file"):
        return text
    try:
        rule = re.compile(text)
    except re.error as error:
        raise SslMedError(f"data.subject '{text}' is no regular expression ({error}); or say folder or file") from None
    if rule.groups < 1:
        raise SslMedError(f"data.subject '{text}' is neither folder nor file nor an expression with a group in ( )")
    return rule


def _subject(relative: Path, name: str, rule: str | re.Pattern[str]) -> str:
    if isinstance(rule, str):
        return name if rule == "file" or len(relative.parts) <= 1 else relative.parts[0]
    match = rule.search(relative.as_posix())
    if match is None or not match[1]:
        raise SslMedError(f"{relative}: data.subject '{rule.pattern}' finds no subject in this path")
    return str(match[1])
