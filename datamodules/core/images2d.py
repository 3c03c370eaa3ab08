"""Families of 2D images (images, photographs of the eye, histology): table to split, file to cached codes, codes to samples."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.base import MedicalData
from datamodules.core.cases import AbsentError
from datamodules.core.configs import CommonConfig
from datamodules.core.image_samples import Images, check_levels
from datamodules.core.labelled import LabelledCases
from datamodules.core.splits import Split, random_split
from datamodules.core.store import Item
from datamodules.formats.grids import Array, Header, Volume
from datamodules.formats.pictures import PICTURES, read_color, read_image2d
from ssl_med.ranges import Range, Side, StoredValue
from ssl_med.spec import DataSpec, Intensity, SslMedError, Target

GREY = ("grey",)


@dataclass
class ImageConfig2D(CommonConfig):
    """Grey levels 0..255 of each channel; the image is resized, then cropped."""

    patch_size: tuple[Side, ...] = (224, 224)
    intensity_low: StoredValue = 0.0
    intensity_high: StoredValue = 255.0
    image_size: Annotated[int, Range(0, 2**14)] = 256
    """shorter side after resizing, in pixels"""


@dataclass
class TableConfig(ImageConfig2D):
    """Families whose images are listed in a table."""

    allow_missing: bool = False
    """go on when images of the table are absent, and say how many"""


class ImageData2D(LabelledCases):
    """A family whose cases are `Image2D`s. A leaf gives `labels` and `index`, and `channels` when it is not grey."""

    group_key: ClassVar[str] = "patient"

    @classmethod
    @abstractmethod
    def labels(cls, config: Any) -> tuple[Target, tuple[str, ...]]:
        """What a labelled run learns: target and names of classes, findings or regions."""

    @classmethod
    def channels(cls, config: Any) -> tuple[str, ...]:
        """GREY or RGB."""
        return GREY

    @classmethod
    def intensity(cls, config: Any) -> Intensity:
        """A window of grey levels."""
        found: Intensity = config.intensity_of("window", "grey level")
        return found

    @classmethod
    def make_spec(cls, config: Any, *, labelled: bool) -> DataSpec:
        """Two dimensions, no orientation, no spacing: images rarely know theirs."""
        if config.patch_size and config.image_size < max(config.patch_size):
            raise SslMedError(
                f"data.image_size={config.image_size} is smaller than data.patch_size {list(config.patch_size)}"
            )
        target, names = cls.labels(config) if labelled else ("none", ())
        channels = cls.channels(config)
        return DataSpec(
            name=config.name,
            spatial_dims=2,
            in_channels=len(channels),
            patch_size=tuple(config.patch_size),
            intensity=cls.intensity(config),
            orientation="",
            channel_names=channels,
            target=target,
            class_names=names,
            group_key=cls.group_key,
        )

    def read(self, path: str) -> Array:
        """Raw grey levels (C, rows, columns) of a file."""
        return read_image2d(path)[None] if self.spec.in_channels == 1 else read_color(path)

    def reads(self, path: Path) -> bool:
        """Whether `read` knows a file of this name."""
        return path.suffix.lower() in PICTURES

    def check_values(self, path: str, low: float, high: float) -> None:
        """Levels of an image must be those of the window."""
        check_levels(path, low, high, self.spec.intensity)

    def items(self, case: Any, *, labels: bool) -> list[Item]:
        """Lists the image, and its masks when `labels` is true."""
        return [Item("film", (path,)) for path in (case.path, *(case.masks if labels else ()))]

    def contents(self, case: Any, item: Item, grid: Header | None) -> Iterator[Volume]:
        """Grey levels of each channel (rows, columns); images have no geometry."""
        (path,) = item.files
        for channel in self.read(path) if path == case.path else read_image2d(path)[None]:
            yield Volume(channel, np.eye(4))

    def check_missing(self, missing: Sequence[str], *, table: Path, below: Path) -> None:
        """Refuses images of a table that are not on disk below a folder, or notes them when `allow_missing`."""
        if missing and not self.config.allow_missing:
            raise AbsentError(
                f"{table}: names {len(missing)} images that are not below {self.config.root}, first {missing[0]}; "
                "complete the download, or set data.allow_missing=true to go on without them",
                paths=[str(below / name) for name in missing],
            )
        if missing:
            self.notes.append(f"{len(missing)} images of the table are absent and left out")

    def given_test(self, rest: Iterable[str], test: Iterable[str]) -> Split:
        """A split whose test part is given; validation is cut from the rest, in the share of data.split_ratios."""
        train, val, _ = self.config.split_ratios
        share = val / (train + val)
        cut_off = random_split(rest, ratios=(1 - share, share, 0.0), seed=self.config.split_seed)
        # the rounding's rest belongs to training
        return {"train": cut_off["train"] + cut_off["test"], "val": cut_off["val"], "test": sorted(set(test))}

    def eval_batch(self) -> int:
        """Whole images with masks differ in size, so they come one at a time."""
        return 1 if self.spec.target == "mask" else super().eval_batch()

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Random crops for training, centre crops otherwise; with masks the whole image otherwise."""
        return Images(
            cases,
            self.read,
            spec=self.spec,
            size=self.config.image_size,
            seed=self.seed,
            need=self.need,
            train=part == "train",
            cache_gb=self.config.cache_gb,
            store=self.store,
        )


def match_files(
    data: MedicalData, root: Path, pattern: str, *, skip: Container[str] = (), folders: Container[str] = ()
) -> list[tuple[Path, re.Match[str]]]:
    """Images below `root` whose whole file name matches `pattern`, whatever the case.

    Args:
        data: the family.
        root: where to look.
        pattern: regular expression.
        skip: names of folders whose files are left out.
        folders: names of folders that say what an image is, so that a link in one counts before its target elsewhere.

    Raises:
        SslMedError: two files share a name, and the second one is not in quarantine; as `find_files`.
    """
    found: dict[str, tuple[Path, re.Match[str]]] = {}

    def of_folder(path: Path) -> bool:
        return path.parent.name in folders

    for path in data.find(root, lambda path: re.fullmatch(pattern, path.name, re.IGNORECASE), prefer=of_folder):
        match = re.fullmatch(pattern, path.name, re.IGNORECASE)
        if match is None or any(folder in skip for folder in path.relative_to(root).parts[:-1]):
            continue
        if path.stem in found and data.quarantined(path):
            continue
        if path.stem in found:
            raise SslMedError(f"{path}: is a second copy of {found[path.stem][0]}; keep one")
        found[path.stem] = (path, match)
    return [found[name] for name in sorted(found)]


def has_ending(*endings: str) -> Callable[[Path], bool]:
    """Whether a file ends in one of them, in letters of any case."""
    return lambda path: path.suffix.lower() in endings
