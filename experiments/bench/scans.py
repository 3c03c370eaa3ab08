"""The scan and the settings of `make bench ARGS=data`.

The scan is synthetic: anatomy of the LUNA16 phantom, enlarged, with detector noise of 19 HU that is correlated over a voxel.
Neighbouring voxels of seven real CTs at 1.8 mm differ by 7 to 34 HU (median absolute deviation, scaled) in soft tissue, median
18, here by 18; zlib leaves 0.44 to 0.69 of them, median 0.56, here 0.60.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from datamodules.core.readers import read_volume
from datamodules.formats.grids import Array
from datamodules.phantoms.luna import generate
from ssl_med.ranges import Count
from ssl_med.spec import SslMedError

CROP = (64, 64, 32)
PARTS = 10  # of the time that the loader is measured for


@dataclass
class BenchDataConfig:
    """How long to measure, and what."""

    repeats: Count = 200
    """crops of a fast row; their median is printed"""
    slow_repeats: Count = 5
    """crops of a row that takes a second each"""
    size: tuple[int, ...] = (512, 512, 300)
    """voxels of the synthetic CT"""
    scan: str = ""
    """a scan of your own to measure as well: .mhd, .nii, .nii.gz"""
    tissue_max: float = 0.15
    """largest share of tissue in a training crop, as in `data=luna`"""
    batches: int = 200
    """batches of 32 crops that the loader is timed over, in ten parts"""
    folder: str = ""
    """where files are written; empty: a temporary folder, removed at the end"""

    def __post_init__(self) -> None:
        if self.batches < PARTS:
            raise SslMedError(f"batches is {self.batches}; it must be at least {PARTS}")
        if len(self.size) != 3 or any(n < 2 * c for n, c in zip(self.size, CROP, strict=True)):
            raise SslMedError(f"size {list(self.size)} must be three numbers, at least twice a crop of {list(CROP)}")


def synthetic_ct(size: tuple[int, ...], folder: Path) -> Array:
    """Chest (x, y, z) int16 HU: the phantom at half the resolution, enlarged, and noise; see the head of this file."""
    half = tuple(max(24, n // 2) for n in size)
    generate(folder / "anatomy", subjects=1, size=half)
    (path,) = (folder / "anatomy").glob("subset*/*.mhd")
    anatomy = torch.from_numpy(read_volume(str(path)).array.astype(np.float32))
    shutil.rmtree(folder / "anatomy")
    rng = np.random.default_rng(0)
    out = np.empty(size, np.int16, order="F")
    kernel = torch.tensor([0.25, 0.5, 0.25])
    kernel = (kernel[:, None] * kernel)[None, None]
    # slice by slice: the enlarged floating-point volume would need a gigabyte
    for z in range(size[2]):
        place = min(max((z + 0.5) * half[2] / size[2] - 0.5, 0.0), half[2] - 1.0)
        below, share = int(place), place - int(place)
        plane = anatomy[:, :, below].lerp(anatomy[:, :, min(below + 1, half[2] - 1)], share)
        large = F.interpolate(plane[None, None], size=size[:2], mode="bilinear")[0, 0].numpy()
        white = torch.from_numpy(rng.standard_normal((size[0] + 2, size[1] + 2), dtype=np.float32))
        noise = F.conv2d(white[None, None], kernel)[0, 0].numpy() / 0.375  # the kernel's deviation
        out[:, :, z] = np.clip(np.rint(large + 19.0 * noise), -1024, 3071)
    return out


def emptied(folder: Path) -> Path:
    """The folder, new."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def sides(size: Sequence[int]) -> str:
    """512×512×300, for example."""
    return "×".join(map(str, size))
