"""MedMNIST: any .npz in the layout of MedMNIST v2 or + (Yang et al., Scientific Data 10, 2023), 2D or 3D, grey or RGB.

Licence: that of the source of each set, see the distributor (medmnist.com).
Expected below the root: one .npz (several: data.file=NAME.npz) with {train,val,test}_images, uint8 (N, rows, columns),
(N, rows, columns, 3) or (N, x, y, z), and {train,val,test}_labels, (N, 1) numbers of a class or (N, K) findings of 0 and 1.
Further arrays are not read; a part may be absent, so that a test set alone can be tested (`ssl-med external`).

Dimensions, channels, size and target are those of the file. It names no patients: its own split is the only sound one, a label
budget counts samples, and whether the parts share patients is in the hands of whoever made the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.base import MedicalData
from datamodules.core.configs import DRAWN_TOO
from datamodules.core.crops import around, cut, pad_to, window_start
from datamodules.core.files import find_files
from datamodules.core.image_samples import image_pair, label_of, resized
from datamodules.core.images2d import GREY, ImageConfig2D
from datamodules.core.intensity import decode, encode, norm_of, standardise
from datamodules.core.labelled import check_classes
from datamodules.core.loader import Key
from datamodules.core.positions import position_crop, thumbnail
from datamodules.core.splits import PARTS, Split
from datamodules.core.volumes import Crops, Loaded, Placed, Sample
from datamodules.formats.grids import Array
from datamodules.formats.npz import npz_array, npz_header, npz_keys
from ssl_med.ranges import Range, Seed, Share, Side
from ssl_med.setting import setting
from ssl_med.spec import RGB, DataSpec, Need, SslMedError, Target

_STEP = 32  # a multiple that every backbone can halve


@dataclass
class MedMNISTConfig(ImageConfig2D):
    """Size of the images, and how classes are called."""

    split: str = "official"
    """the file's own; there is no other"""
    split_ratios: tuple[Share, Share, Share] = setting(default=(0.7, 0.1, 0.2), affects="result", needs={"split": ()})
    split_seed: Seed = setting(default=0, affects="result", needs=({"split": ()}, *DRAWN_TOO))
    patch_size: tuple[Side, ...] = ()
    """empty: the size in the file, padded with 0 to a multiple of 32"""
    image_size: Annotated[int, Range(0, 2**14)] = 0
    """shorter side after resizing; 0: as in the file"""
    file: str = ""
    """which .npz below the root; empty: the only one"""
    crops_per_volume: Annotated[int, Range(1, 10**6)] = setting(
        default=1, affects="sample", needs={"dims": ("3D",), "labels": ("none",)}
    )
    """3D, unlabelled: crops of each volume in an epoch"""
    class_names: tuple[str, ...] = ()
    """names of the classes or findings, in order; empty: their numbers"""


@dataclass(frozen=True)
class _Layout:
    """What an .npz holds: images a part, their size, channels, and the labels (N, K) a part."""

    counts: dict[str, int]
    size: tuple[int, ...]
    channels: tuple[str, ...]
    labels: dict[str, Array]


@dataclass(frozen=True, slots=True)
class _Item:
    """One row of one part."""

    name: str
    subject: str
    part: str
    row: int
    label: tuple[float, ...]


class MedMNISTData(MedicalData):
    """Images held in memory as they are in the file."""

    Config = MedMNISTConfig
    layout = "one .npz with {train,val,test}_images and _labels"
    splits = ("official",)
    public_names = r"(train|val|test)/\d+"

    @classmethod
    def spatial_dims(cls, config: Any) -> int:
        """That of the file."""
        found = _find(config)
        return len(_layout(found).size) if found else 2

    @classmethod
    def make_spec(cls, config: MedMNISTConfig, *, labelled: bool) -> DataSpec:
        """Read from the file's headers and labels; a grey image while there is no file."""
        if config.split != "official":
            raise SslMedError(
                f"data.split={config.split}: the file names no patients, so its own split is the only sound one; "
                "leave data.split=official"
            )
        found = _find(config)
        layout = _layout(found) if found else _Layout({}, (28, 28), GREY, {})
        target, names = _target(layout, config, source=found) if labelled else ("none", ())
        patch = tuple(config.patch_size) or _default_patch(layout.size, config.image_size)
        if config.image_size and config.image_size < max(patch):
            raise SslMedError(f"data.image_size={config.image_size} is smaller than data.patch_size {list(patch)}")
        return DataSpec(
            name=config.name,
            spatial_dims=len(layout.size),
            in_channels=len(layout.channels),
            patch_size=patch,
            intensity=config.intensity_of("window", "grey level"),
            orientation="",
            channel_names=layout.channels,
            target=target,
            class_names=names,
            group_key="sample",
        )

    def index(self, root: Path) -> Sequence[_Item]:
        """Rows of all parts."""
        found = _find(self.config)
        if found is None:
            return []
        layout = _layout(found)
        items = []
        for part, count in layout.counts.items():
            labels: list[Any] = layout.labels[part].tolist() if self.labelled else [()] * count
            items += [
                _Item(f"{part}/{row}", f"{found.stem}/{part}/{row}", part, row, tuple(label))
                for row, label in enumerate(labels)
            ]
        return items

    def container(self) -> str:
        """The .npz."""
        return str(_find(self.config) or "")

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """official: as the file says."""
        return {part: [case.subject for case in cases if case.part == part] for part in PARTS}

    def classes_of(self, case: Any) -> list[int]:
        """Numbers of the class or findings of a row."""
        if self.spec.target == "class":
            return [int(case.label[0])]
        return [k for k, value in enumerate(case.label) if value]

    def signatures(self, cases: Sequence[Any]) -> dict[str, str]:
        """Class, or set of findings."""
        return {case.subject: "|".join(map(str, self.classes_of(case))) for case in cases}

    def positives(self, cases: Sequence[Any]) -> dict[str, int]:
        """Samples by class or finding."""
        names = self.spec.class_names
        counts = np.bincount([k for case in cases for k in self.classes_of(case)], minlength=len(names))
        return dict(zip(names, counts.tolist(), strict=True))

    def check_budget(self, cases: Sequence[Any]) -> None:
        """A class that no training sample has cannot be learned."""
        check_classes(self, cases)

    def common_files(self) -> Sequence[str]:
        """The one file."""
        return (str(_find(self.config)),)

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Random crops for training, centre crops otherwise; unlabelled volumes as in other families of volumes."""
        found = _find(self.config)
        assert found is not None
        rows = Rows(
            cases,
            {part: _images(found, part) for part in {case.part for case in cases}},
            spec=self.spec,
            size=self.config.image_size,
            seed=self.seed,
            need=self.need,
            train=part == "train",
        )
        if self.labelled or self.spec.spatial_dims == 2:
            return rows
        return Crops(
            cases,
            rows.loaded,
            patch=self.spec.patch_size,
            per_case=self.config.crops_per_volume,
            seed=self.seed,
            need=self.need,
            fixed=part != "train",
        )


class Rows(Dataset[Sample]):
    """Crops of images in memory.

    Args:
        cases: the rows.
        images: uint8 (N, *S) or (N, rows, columns, 3) of each part.
        spec: crop size, intensity and target.
        size: shorter side after resizing; 0: none.
        seed: of the crops.
        need: pairs of boxes, crops at positions, or one crop.
        train: random crops; otherwise centre crops.
    """

    def __init__(
        self,
        cases: Sequence[_Item],
        images: Mapping[str, Array],
        *,
        spec: DataSpec,
        size: int,
        seed: int,
        need: Need,
        train: bool,
    ) -> None:
        self.cases, self.images, self.spec, self.size = cases, images, spec, size
        self.seed, self.need, self.train = seed, need, train

    def __len__(self) -> int:
        return len(self.cases)

    def codes(self, case: _Item) -> Array:
        """Codes (C, *S) of a row."""
        image = self.images[case.part][case.row]
        image = image.transpose(2, 0, 1) if self.spec.in_channels == 3 else image[None]
        codes = encode(image, self.spec.intensity, source=case.name)
        return resized(codes, self.size) if self.size else codes

    def loaded(self, case: _Item) -> Loaded:
        """A row as the loaders of scans take it."""
        codes = self.codes(case)
        return Loaded(pad_to(codes, self.spec.patch_size), norm=norm_of(codes, self.spec.intensity))

    def __getitem__(self, key: Key) -> Sample:
        return self.placed(key)[0]

    def placed(self, key: Key, size: tuple[int, ...] | None = None) -> Placed:
        """A sample and the window that it was cut from; see `Placing`. Images do not know where they lie."""
        epoch, index = key
        case = self.cases[index]
        rng = np.random.default_rng([self.seed, epoch + 1, index] if self.train else [0, 0, index])
        sample: Sample = {"id": case.name, "index": index}
        codes, patch = self.codes(case), self.spec.patch_size
        norm = norm_of(codes, self.spec.intensity)
        if self.need.pair:
            return sample | image_pair(codes, rng, patch=patch, min_iou=self.need.min_iou, norm=norm), None, None
        if self.need.positions is not None:
            sample |= {"case": index, "scan": thumbnail(codes, self.need.positions.thumbnail)}
            found = position_crop(codes, rng, positions=self.need.positions, patch=patch)
            return sample | found | {"image": standardise(found["image"], norm)}, None, None
        codes = pad_to(codes, patch)
        start = window_start(codes.shape[1:], patch, rng if self.train else None)
        window = around(start, patch, size, codes.shape[1:])
        sample["image"] = decode(cut(codes, window.start, window.size), norm)
        return sample | label_of(case.label, self.spec.target), window, None


# -------------------------------------------------------------------------------------------------- the file


def _find(config: MedMNISTConfig) -> Path | None:
    """The .npz below the root; None when there is none or no root."""
    if not config.root or not Path(config.root).is_dir():
        return None
    root = Path(config.root)
    if config.file:
        if not (root / config.file).is_file():
            raise SslMedError(f"data.file={config.file}: no such file below {root}")
        return root / config.file
    below = find_files(root, _is_npz)
    found = [path for path in below if path.parent == root] or below
    if len(found) > 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in found[:5])
        raise SslMedError(f"{root}: holds {len(found)} .npz files ({names}); choose one with data.file=NAME.npz")
    return found[0] if found else None


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _layout(path: Path) -> _Layout:
    """Headers and labels of a file, kept until it changes."""
    about = path.stat()
    return _read_layout(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4)
def _read_layout(path: Path, changed: int, size: int) -> _Layout:
    counts, shapes, labels = {}, set(), {}
    keys = npz_keys(path)
    present = [part for part in PARTS if f"{part}_images" in keys]
    if not present:
        raise SslMedError(f"{path}: holds no train_images, val_images or test_images; is it in the layout of MedMNIST?")
    for part in present:
        shape, dtype = npz_header(path, f"{part}_images")
        if dtype != np.uint8 or len(shape) not in (3, 4):
            raise SslMedError(
                f"{path}: {part}_images is {dtype} of shape {shape}; MedMNIST holds uint8 (N, rows, columns[, 3]) or "
                "(N, x, y, z)"
            )
        counts[part] = shape[0]
        shapes.add(shape[1:])
        label = npz_array(path, f"{part}_labels")
        if label.ndim == 1:
            label = label[:, None]
        if label.ndim != 2 or len(label) != shape[0] or label.dtype.kind not in "iub" or (label < 0).any():
            raise SslMedError(
                f"{path}: {part}_labels is {label.dtype} of shape {label.shape}; {shape[0]} rows of whole numbers from 0 "
                "belong to the images"
            )
        labels[part] = label
    if len(shapes) > 1 or len({label.shape[1] for label in labels.values()}) > 1:
        raise SslMedError(f"{path}: images or labels of its parts differ in shape; repair the file")
    space = shapes.pop()
    rgb = len(space) == 3 and space[-1] == 3
    return _Layout(counts, space[:2] if rgb else space, RGB if rgb else GREY, labels)


def _target(layout: _Layout, config: MedMNISTConfig, *, source: Path | None) -> tuple[Target, tuple[str, ...]]:
    """Class for one column, findings for several; names from the config or numbers."""
    names = tuple(config.class_names)
    if not layout.labels:
        return "class", names or ("0", "1")
    labels = np.concatenate(list(layout.labels.values()))
    several = labels.shape[1] > 1
    if several and labels.max() > 1:
        raise SslMedError(
            f"{source}: has {labels.shape[1]} labels a sample with values up to {labels.max()}, not 0 and 1"
        )
    count = labels.shape[1] if several else max(2, int(labels.max()) + 1)
    # a test set alone may lack the last classes
    fewer = not several and "train" not in layout.labels and len(names) > count
    if names and len(names) != count and not fewer:
        raise SslMedError(f"data.class_names has {len(names)} names, {source} has {count} classes")
    return "multilabel" if several else "class", names or tuple(map(str, range(count)))


def _default_patch(size: tuple[int, ...], image_size: int) -> tuple[int, ...]:
    if image_size:
        return (max(_STEP, image_size // _STEP * _STEP),) * len(size)
    return tuple(-(-n // _STEP) * _STEP for n in size)


def _images(path: Path, part: str) -> Array:
    return npz_array(path, f"{part}_images")
