"""Images and their samples: a file to cached codes, codes to crops, pairs of crops, and whole images with their masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.core.crops import Grid, around, cut, image_boxes, pad_to, resize, window_start
from datamodules.core.intensity import Norm, decode, encode, norm_of, standardise
from datamodules.core.lazy import image_codes
from datamodules.core.loader import Key
from datamodules.core.positions import position_crop
from datamodules.core.store import Item, Store
from datamodules.core.volumes import Cache, Loaded, Placed, Sample
from datamodules.formats.grids import Array
from datamodules.formats.pictures import read_image2d
from ssl_med.spec import DataSpec, Intensity, Need, SslMedError, Target


@dataclass(frozen=True, slots=True)
class Image2D:
    """One image and what is known of it.

    * label: (number of the class,) for target "class"; one value a finding for "multilabel", nan where it is not known.
    * masks: one file per class name for target "mask", or several whose union is a region, then with `regions`.
    * regions: number of the class name of each file of `masks`; empty: one each, in order.
    """

    name: str
    subject: str
    path: str
    label: tuple[float, ...] = ()
    masks: tuple[str, ...] = ()
    regions: tuple[int, ...] = ()


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
            whole = small()
            norm = norm_of(whole, self.spec.intensity)
            return Loaded(pad_to(whole, self.spec.patch_size), self._padded(mask), norm=norm)
        seen = codes if self.need.pair or self.need.positions else small()
        return Loaded(seen, norm=norm_of(seen[...], self.spec.intensity) if self.spec.intensity.standardised else None)

    def _read(self, image: Image2D) -> tuple[Array, Callable[[], Array]]:
        codes = image_codes_of(image.path, self.raw, self.spec.intensity)
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
        masks = np.zeros((len(self.spec.class_names), *shape), bool)
        for number, path in zip(image.regions or range(len(image.masks)), image.masks, strict=True):
            region = read_image2d(path) if self.store is None else self.store.whole(Item("film", (path,)))
            if region.shape != shape:
                raise SslMedError(f"{path}: mask has shape {region.shape}, its image {image.path} has {shape}")
            masks[number] |= region > region.max() / 2 if region.any() else region > 0
        return masks.astype(np.uint16)

    def __getitem__(self, key: Key) -> Sample:
        return self.placed(key)[0]

    def placed(self, key: Key, size: tuple[int, ...] | None = None) -> Placed:
        """A sample and the window that it was cut from; see `Placing`. Images do not know where they lie."""
        epoch, index = key
        image, item = self.cases[index], self.read(self.cases[index])
        rng = np.random.default_rng([self.seed, epoch + 1, index] if self.train else [0, 0, index])
        sample: Sample = {"id": image.name, "index": index}
        if self.need.pair:
            pair = image_pair(item.codes, rng, patch=self.spec.patch_size, min_iou=self.need.min_iou, norm=item.norm)
            return sample | pair, None, None
        if self.need.positions is not None:
            sample |= {"case": index, "scan": item.thumbnail(self.need.positions.thumbnail)}
            found = position_crop(item.codes, rng, positions=self.need.positions, patch=self.spec.patch_size)
            found["image"] = standardise(found["image"], item.norm)
            return sample | found, None, None
        if item.mask is not None and not self.train:
            mask = torch.from_numpy(item.mask[...].astype(np.float32))
            return sample | {"image": decode(item.codes[...], item.norm), "mask": mask}, None, None
        codes = pad_to(item.codes[...], self.spec.patch_size)
        start = window_start(codes.shape[1:], self.spec.patch_size, rng if self.train else None)
        window = around(start, self.spec.patch_size, size, codes.shape[1:])
        sample["image"] = decode(cut(codes, window.start, window.size), item.norm)
        if item.mask is not None:
            sample["mask"] = torch.from_numpy(cut(item.mask, window.start, window.size).astype(np.float32))
        return sample | label_of(image.label, self.spec.target), window, None


def image_codes_of(path: str, read: Callable[[str], Array], intensity: Intensity) -> Array:
    """Codes (C, rows, columns) uint16 of an image file.

    Raises:
        SslMedError: it cannot be read, or its grey levels cannot be those of the window.
    """
    raw = read(path)
    check_levels(path, float(raw.min()), float(raw.max()), intensity)
    return np.stack([encode(channel, intensity, source=path) for channel in raw])


def check_levels(path: str, low: float, high: float, intensity: Intensity) -> None:
    """Refuses levels that cannot be those of the window 0..255 or less: the image would be white, black or cut."""
    if intensity.kind != "window" or intensity.low < 0 or intensity.high > 255:
        return
    if high > 255 or low < 0 or 0 < high <= 1 < intensity.high:
        raise SslMedError(
            f"{path}: has grey levels from {low:g} to {high:g}, the window is {intensity.low:g} to {intensity.high:g}; set "
            "data.intensity_low and data.intensity_high to the range of the files"
        )


def image_pair(
    codes: Array | Grid,
    rng: np.random.Generator,
    *,
    patch: tuple[int, ...],
    min_iou: float,
    norm: Norm | None = None,
) -> Sample:
    """`image` and `image2`: two overlapping random boxes of codes (C, rows, columns), each resized to `patch`."""
    boxes = image_boxes(codes.shape[1:], rng, min_iou=min_iou, area=(0.2, 1.0))
    pair = {}
    for name, (top, left, height, width) in zip(("image", "image2"), boxes.tolist(), strict=True):
        crop = decode(codes[:, top : top + height, left : left + width])
        pair[name] = standardise(resize(crop, patch).clamp(0, 1).contiguous(), norm)
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
