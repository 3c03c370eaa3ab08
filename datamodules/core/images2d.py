"""Families of 2D images (images, photographs of the eye, histology): table to split, file to cached codes, codes to samples."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.core.base import MedicalData
from datamodules.core.cases import AbsentError
from datamodules.core.configs import CommonConfig
from datamodules.core.crops import Grid, around, cut, image_boxes, pad_to, resize, window_start
from datamodules.core.intensity import decode, encode
from datamodules.core.lazy import image_codes
from datamodules.core.loader import Key
from datamodules.core.positions import position_crop
from datamodules.core.splits import Split, random_split
from datamodules.core.store import Item, Store
from datamodules.core.volumes import Cache, Loaded, Placed, Sample
from datamodules.formats.grids import Array, Header, Volume
from datamodules.formats.pictures import read_color, read_image2d
from ssl_med.ranges import Range, Side, StoredValue
from ssl_med.spec import DataSpec, Intensity, Need, SslMedError, Target

GREY = ("grey",)
RGB = ("red", "green", "blue")


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


@dataclass(frozen=True, slots=True)
class Image2D:
    """One image and what is known of it.

    * label: (number of the class,) for target "class"; one value a finding for "multilabel", nan where it is not known.
    * masks: one file per class name for target "mask".
    """

    name: str
    subject: str
    path: str
    label: tuple[float, ...] = ()
    masks: tuple[str, ...] = ()


class ImageData2D(MedicalData):
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
        return Intensity("window", config.intensity_low, config.intensity_high, "grey level")

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

    def classes_of(self, image: Any) -> list[int]:
        """Numbers of the classes or findings that an image has."""
        if self.spec.target == "class":
            return [int(image.label[0])]
        return [k for k, value in enumerate(image.label) if value >= 0.5]

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """A subject's rarest class or finding, so that rare ones stay in small budgets."""
        names = self.spec.class_names
        found = [self.classes_of(image) for image in cases]
        counts = np.bincount([k for one in found for k in one], minlength=len(names))
        rarest: dict[str, int | None] = {}
        for image, one in zip(cases, found, strict=True):
            known = rarest.get(image.subject)
            options = [*one, *([known] if known is not None else [])]
            rarest[image.subject] = min(options, key=lambda k: counts[k]) if options else None
        return {subject: names[k] if k is not None else "" for subject, k in rarest.items()}

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Images by class or finding; nothing for masks."""
        if self.spec.target == "mask":
            return {}
        names = self.spec.class_names
        counts = np.bincount([k for image in cases for k in self.classes_of(image)], minlength=len(names))
        return dict(zip(names, counts.tolist(), strict=True))

    def drawn(self, cases: Sequence[Any]) -> tuple[list[float], list[int]]:
        """Findings may be unknown, or be taken for something in between: see data.uncertain of CheXpert."""
        if self.spec.target != "multilabel":
            return super().drawn(cases)
        trained: Any = self.dataset(cases, part="train")
        labels = np.array([image.label for image in trained.cases], float)
        return np.nansum(labels, 0).tolist(), (~np.isnan(labels)).sum(0).tolist()

    def check_budget(self, cases: Sequence[Any]) -> None:
        """A class that no training image has cannot be learned."""
        check_classes(self, cases)

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


class Images(Dataset[Sample]):
    """Images resized by their shorter side; crop pairs and crops at positions are cut at the file's resolution.

    Args:
        cases: the images.
        read: path -> raw grey levels (C, rows, columns).
        spec: crop size, intensity and target.
        size: shorter side after resizing.
        seed: of the crops.
        need: crop pairs, crops at positions, or single crops.
        train: random crops; otherwise centre crops, and whole images where there are masks.
        cache_gb: memory for decoded images.
        store: where images and masks are read from, in place of their files.
    """

    def __init__(
        self,
        cases: Sequence[Image2D],
        read: Callable[[str], Array],
        *,
        spec: DataSpec,
        size: int,
        seed: int,
        need: Need,
        train: bool,
        cache_gb: float,
        store: Store | None = None,
    ) -> None:
        self.cases, self.raw, self.spec, self.size = cases, read, spec, size
        self.seed, self.need, self.train, self.store = seed, need, train, store
        self.read = Cache(self._load, gigabytes=cache_gb)

    def __len__(self) -> int:
        return len(self.cases)

    def _load(self, image: Image2D) -> Loaded:
        codes, small = self._read(image) if self.store is None else self._read_stored(image, self.store)
        if self.spec.target == "mask":
            mask = resized(self._masks(image, codes.shape[1:]) * np.uint16(65535), self.size) >= 32768
            return Loaded(pad_to(small(), self.spec.patch_size), self._padded(mask))
        return Loaded(codes if self.need.pair or self.need.positions else small())

    def _read(self, image: Image2D) -> tuple[Array, Callable[[], Array]]:
        raw = self.raw(image.path)
        check_levels(image.path, float(raw.min()), float(raw.max()), self.spec.intensity)
        codes = np.stack([encode(channel, self.spec.intensity, source=image.path) for channel in raw])
        return codes, lambda: resized(codes, self.size)

    def _read_stored(self, image: Image2D, store: Store) -> tuple[Grid, Callable[[], Array]]:
        item = Item("film", (image.path,))
        arrays = store.record(item).arrays
        low, high = min(array.low for array in arrays), max(array.high for array in arrays)
        check_levels(image.path, low, high, self.spec.intensity)
        codes, kept = image_codes(store, item, self.spec.intensity)
        return codes, lambda: kept(self.size, lambda whole: resized(whole, self.size))

    def _padded(self, mask: Array) -> Array:
        return pad_to(mask.astype(np.uint8), self.spec.patch_size)

    def _masks(self, image: Image2D, shape: tuple[int, ...]) -> Array:
        masks = []
        for path in image.masks:
            region = read_image2d(path) if self.store is None else self.store.whole(Item("film", (path,)))
            if region.shape != shape:
                raise SslMedError(f"{path}: mask has shape {region.shape}, its image {image.path} has {shape}")
            masks.append(region > region.max() / 2 if region.any() else region > 0)
        return np.stack(masks).astype(np.uint16)

    def __getitem__(self, key: Key) -> Sample:
        return self.placed(key)[0]

    def placed(self, key: Key, size: tuple[int, ...] | None = None) -> Placed:
        """A sample and the window that it was cut from; see `Placing`. Images do not know where they lie."""
        epoch, index = key
        image, item = self.cases[index], self.read(self.cases[index])
        rng = np.random.default_rng([self.seed, epoch + 1, index] if self.train else [0, 0, index])
        sample: Sample = {"id": image.name, "index": index}
        if self.need.pair:
            pair = image_pair(item.codes, rng, patch=self.spec.patch_size, min_iou=self.need.min_iou)
            return sample | pair, None, None
        if self.need.positions is not None:
            sample |= {"case": index, "scan": item.thumbnail(self.need.positions.thumbnail)}
            found = position_crop(item.codes, rng, positions=self.need.positions, patch=self.spec.patch_size)
            return sample | found, None, None
        if item.mask is not None and not self.train:
            mask = torch.from_numpy(item.mask[...].astype(np.float32))
            return sample | {"image": decode(item.codes[...]), "mask": mask}, None, None
        codes = pad_to(item.codes[...], self.spec.patch_size)
        start = window_start(codes.shape[1:], self.spec.patch_size, rng if self.train else None)
        window = around(start, self.spec.patch_size, size, codes.shape[1:])
        sample["image"] = decode(cut(codes, window.start, window.size))
        if item.mask is not None:
            sample["mask"] = torch.from_numpy(cut(item.mask, window.start, window.size).astype(np.float32))
        return sample | label_of(image.label, self.spec.target), window, None


def check_levels(path: str, low: float, high: float, intensity: Intensity) -> None:
    """Refuses levels that cannot be those of the window 0..255 or less: the image would be white, black or cut."""
    if intensity.kind != "window" or intensity.low < 0 or intensity.high > 255:
        return
    if high > 255 or low < 0 or 0 < high <= 1 < intensity.high:
        raise SslMedError(
            f"{path}: has grey levels from {low:g} to {high:g}, the window is {intensity.low:g} to {intensity.high:g}; set "
            "data.intensity_low and data.intensity_high to the range of the files"
        )


def image_pair(codes: Array | Grid, rng: np.random.Generator, *, patch: tuple[int, ...], min_iou: float) -> Sample:
    """`image` and `image2`: two overlapping random boxes of codes (C, rows, columns), each resized to `patch`."""
    boxes = image_boxes(codes.shape[1:], rng, min_iou=min_iou, area=(0.2, 1.0))
    pair = {}
    for name, (top, left, height, width) in zip(("image", "image2"), boxes.tolist(), strict=True):
        crop = decode(codes[:, top : top + height, left : left + width])
        pair[name] = resize(crop, patch).clamp(0, 1).contiguous()
    return pair


def resized(codes: Array, size: int) -> Array:
    """Codes (C, *S) -> uint16 codes whose shorter side is `size`, aspect kept."""
    space = codes.shape[1:]
    if min(space) == size:
        return codes
    scale = size / min(space)
    small = resize(decode(codes), tuple(max(size, round(n * scale)) for n in space))
    changed: Array = np.rint(small.clamp(0, 1).numpy() * 65535).astype(np.uint16)
    return changed


def label_of(label: tuple[float, ...], target: Target) -> Sample:
    """`label` as `Batch` wants it; nothing for images without."""
    if target == "class":
        return {"label": int(label[0])}
    return {"label": torch.tensor(label, dtype=torch.float32)} if target == "multilabel" else {}


def check_classes(data: MedicalData, cases: Sequence[Any]) -> None:
    """Refuses training cases of a classification task that lack a class."""
    if data.spec.target != "class":
        return
    for name, count in data.positives(cases).items():
        if not count:
            raise SslMedError(
                f"no '{name}' image is left to train on (data.split={data.config.split}, "
                f"{data.budget}); take more subjects"
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
