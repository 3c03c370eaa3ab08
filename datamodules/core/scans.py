"""Families of volumes: from files to cached intensity codes, and the loaders' datasets."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.arrays import StoredArray
from datamodules.core.base import MedicalData
from datamodules.core.files import CHANNEL, stem
from datamodules.core.geometry import (
    change_between,
    laid_on,
    misfit,
    reorient,
    resample,
    resampled_shape,
    shapes_differ,
)
from datamodules.core.intensity import encode, norm_of
from datamodules.core.lazy import LazyMask, lazy_codes, stored_norm, stored_starts
from datamodules.core.readers import check_inside, read_header, read_label_volume, read_volume
from datamodules.core.starts import Starts
from datamodules.core.store import Item
from datamodules.core.volumes import Cache, Content, Crops, LabelledCrops, Loaded, WholeVolumes, grow, grown_world
from datamodules.formats.grids import Array, Header, Volume
from ssl_med.spec import SslMedError


@dataclass(frozen=True)
class Scan:
    """A scan on disk: one file per channel, and its label map when there is one."""

    name: str
    subject: str
    images: tuple[str, ...]
    mask: str = ""
    voxels: int = 0


_MASK_REMEDY = ", or set data.mask_header=ignored if the mask's header is wrong and its voxels are those of the image"


class ScanData(MedicalData):
    """A family whose cases are `Scan`s. A leaf gives `index`, `make_spec` and `regions`."""

    known_labels: tuple[int, ...] = ()  # values that a label map may hold
    store_keys: ClassVar[tuple[str, ...]] = ("orientation", "spacing_mm")
    takes_whole: ClassVar[bool] = True  # masks are learned of whole scans, so that one without any mark can be answered

    def new_scan(self, name: str, files: tuple[str, ...]) -> Any:
        """A scan that is no part of the data set, as `load` takes it; one file a channel, or one that holds all."""
        return Scan(name, name, files)

    def channel_of(self, path: Path) -> tuple[str, int] | None:
        """The scan and the number of the channel that a new file's name says, CASE_0001 or CASE_<channel>; None: none."""
        whole = stem(path)
        if numbered := CHANNEL.fullmatch(whole):
            number = int(numbered[2])
            return (numbered[1], number) if number < self.spec.in_channels else None
        for number, channel in enumerate(self.spec.channel_names):
            if match := re.fullmatch(rf"(.+)[-_. ]{re.escape(channel)}", whole, re.IGNORECASE):
                return match[1], number
        return None

    def holds_channels(self, path: Path) -> bool:
        """Whether a new file holds all channels."""
        return False

    def regions(self, labels: Array, *, source: str) -> Array:
        """Label map (x, y, z) uint8 of the file `source` -> one mask per class name (K, x, y, z) uint8.

        What a voxel belongs to depends on its label and on which labels the whole map holds, not on its place.
        """
        raise NotImplementedError  # unreachable: unlabelled families read no masks

    @property
    @abstractmethod
    def content(self) -> Content | None:
        """Filter of unlabelled crops."""

    def margin(self) -> tuple[int, ...] | None:
        """Voxels at each end of an axis that unlabelled crops leave out."""
        return None

    def voxels(self, path: str) -> int:
        """Size of a scan after resampling, from its header; refuses an unreadable header. Not needed with a store."""
        if self.store is not None:
            return 0
        return self.voxels_of(self.noted(self.grid_of(path)))

    def noted(self, header: Header) -> Header:
        """The header, what is odd about it kept for a note."""
        for remark in header.remarks:
            self.odd.setdefault(remark.kind, []).append(remark.text)
        return header

    def voxels_of(self, header: Header) -> int:
        """Size of a grid after resampling."""
        if self.config.spacing_mm is None:
            return math.prod(header.shape)
        # axes of the file and of `orientation` differ in order; for a budget of memory that does not matter
        return math.prod(resampled_shape(header.shape, header.to_world, self.config.spacing_mm))

    def grid_of(self, path: str) -> Header:
        """Grid of a scan from its header."""
        return read_header(path)

    def image_grid(self, case: Any, path: str) -> Header:
        """Grid of a channel of a case, where that needs more than the path."""
        return self.grid_of(path)

    def find_cases(self, root: Path) -> Sequence[Any]:
        """As for every family; adds a note for each kind of odd header."""
        self.odd.clear()
        cases = super().find_cases(root)
        for said in self.odd.values():
            more = "" if len(set(said)) == 1 else ", and the like"
            self.notes.append(f"in {len(said)} files {said[0]}{more} (ssl-med check names them)")
        return cases

    def split_group(self, case: Any) -> str:
        """Scans with and without labels are split apart, so that both uses agree on who is tested."""
        return "labelled" if case.mask else ""

    def cache_need(self, cases: Sequence[Any]) -> int:
        """Two bytes a voxel and channel, one a voxel and mask; a store is read crop by crop."""
        if self.store is not None:
            return 0
        masks = len(self.spec.class_names) if self.spec.target == "mask" else 0
        return sum(case.voxels * (2 * self.spec.in_channels + masks) for case in cases)

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Crops for training, whole volumes for labelled evaluation."""
        config, patch = self.config, self.spec.patch_size
        read = Cache(self.load, gigabytes=config.cache_gb)
        if not self.labelled:
            return Crops(
                cases,
                read,
                patch=patch,
                per_case=config.crops_per_volume,
                seed=self.seed,
                need=self.need,
                content=self.content,
                fixed=part != "train",
                margin=self.margin(),
            )
        if part == "train":
            return LabelledCrops(
                cases,
                read,
                patch=patch,
                per_case=config.crops_per_volume,
                seed=self.seed,
                foreground_p=config.foreground_p,
            )
        return WholeVolumes(cases, read)

    def eval_batch(self) -> int:
        """Whole volumes differ in size, so labelled evaluation takes one at a time."""
        return 1 if self.labelled else super().eval_batch()

    def stored(self, scan: Any) -> Iterator[tuple[str, Volume]]:
        """File and volume of each channel as it lies on disk; one file a channel."""
        for path in scan.images:
            yield path, read_volume(path)

    def labels_on(self, scan: Any, grid: Header) -> Volume:
        """Label map (x, y, z) uint8 on the grid of its image; refuses one that lies elsewhere."""
        labels = read_label_volume(scan.mask)
        if self.config.mask_header == "used":
            return laid_on(labels, grid, path=scan.mask, source=scan.images[0], remedy=_MASK_REMEDY)
        if labels.array.shape != tuple(grid.shape):
            raise misfit(scan.mask, scan.images[0], shapes_differ(labels.array.shape, grid.shape))
        return Volume(labels.array, grid.to_world)

    def load(self, scan: Any) -> Loaded:
        """Reads, orients, resamples and windows one scan, or opens it in the store."""
        if self.store is not None:
            return self._load_stored(scan)
        channels = []
        grid, placed = None, None
        for path, volume in self._channels(scan):
            grid, placed = volume.grid, self.place(volume)
            channels.append(encode(placed.array, self.spec.intensity, source=path))
        assert grid is not None
        assert placed is not None
        mask = None
        if self.labelled and scan.mask:
            labels = self.place(self._labels(scan, grid), nearest=True)
            mask = self.regions(labels.array, source=scan.mask)
        codes = np.stack(channels)
        norm = norm_of(codes, self.spec.intensity)
        return grow(Loaded(codes, mask, placed.to_world, norm=norm), self.spec.patch_size)

    def _channels(self, scan: Any) -> Iterator[tuple[str, Volume]]:
        """File and volume of each channel, all on the grid of the first."""
        grid: Header | None = None
        for path, volume in self.stored(scan):
            if grid is None:
                grid = volume.grid
            else:
                volume = laid_on(volume, grid, path=path, source=scan.images[0])
            yield path, volume
            del volume  # before the next one is read

    def _labels(self, scan: Any, grid: Header) -> Volume:
        """The label map on the grid of its image; refuses one that holds unknown labels."""
        labels = self.labels_on(scan, grid)
        self.check_labels(np.unique(labels.array), source=scan.mask)
        return labels

    def check_labels(self, found: Array, *, source: str) -> None:
        """Refuses labels of the file `source` that the family does not know, or that contradict each other."""
        strange = np.setdiff1d(found, self.known_labels)
        if strange.size:
            raise SslMedError(f"{source}: holds label {strange[0]}; {self.spec.name} has {self.known_labels}")
        if self.labelled:
            self.regions(found.astype(np.uint8).reshape(-1, 1, 1), source=source)

    def check_case(self, case: Any) -> None:
        """Refuses, by headers alone, files that lie outside of the root or not on one grid.

        Raises:
            SslMedError: names the file and the reason.
        """
        paths = [path for path in self.grid_files(case) if not self.quarantined(path)]
        for path in paths:
            check_inside(path, root=Path(self.config.root))
        if self.store is not None or len(paths) < 2:
            return  # what is in a store was on one grid when it was made
        first = self.image_grid(case, paths[0])
        for path in paths[1:]:
            image = path in case.images
            why = self.misfit_of(self.image_grid(case, path) if image else read_header(path), first, image=image)
            if why:
                raise misfit(path, paths[0], why, remedy="" if image else _MASK_REMEDY)

    def misfit_of(self, grid: Header, first: Header, *, image: bool) -> str:
        """Why a channel, or else a label map, does not lie on the first channel, or ''."""
        if image or self.config.mask_header == "used":
            return change_between(grid, first)[1]
        return shapes_differ(grid.shape, first.shape)

    def grid_files(self, case: Any) -> list[str]:
        """The files of a case that must lie on one grid: its channels, and its label map where that is used."""
        return [*case.images, *((case.mask,) if self.labelled and case.mask else ())]

    def place(self, volume: Volume, *, nearest: bool = False) -> Volume:
        """Orients and resamples; whole numbers stay whole, so that a store keeps them in two bytes."""
        volume = reorient(volume, self.config.orientation)
        if self.config.spacing_mm is None:
            return volume
        return resample(volume, self.config.spacing_mm, nearest=nearest)

    def items(self, case: Any, *, labels: bool) -> list[Item]:
        """The channels together, and the label map with the image that it lies on."""
        found = [Item("image", case.images)]
        if labels and case.mask:
            found.append(Item("labels", (case.mask, case.images[0])))
        return found

    def contents(self, case: Any, item: Item, grid: Header | None) -> Iterator[Volume]:
        """Channels, or labels."""
        if item.kind == "image":
            for _, volume in self._channels(case):
                yield volume
                del volume
        else:
            assert grid is not None
            # a store's record has no remarks, on which it depends whether the two headers can be compared
            yield self._labels(case, replace(grid, remarks=self.image_grid(case, case.images[0]).remarks))

    def _load_stored(self, scan: Any) -> Loaded:
        assert self.store is not None
        store, patch = self.store, self.spec.patch_size
        image, *others = self.items(scan, labels=self.labelled)
        record = store.record(image)

        def opener(item: Item, number: int) -> Callable[[], StoredArray]:
            array = store.record(item).arrays[number]
            return lambda: store.array(array, item.files[min(number, len(item.files) - 1)])

        codes = lazy_codes(store, [opener(image, k) for k in range(len(record.arrays))], self.spec.intensity, patch)
        norm = stored_norm(store, codes, [array.name for array in record.arrays], self.spec.intensity)
        to_world = grown_world(codes.inner, np.array(record.to_world), patch)

        def filtered(
            sizes: Sequence[tuple[int, ...]], content: Content, margin: tuple[int, ...] | None
        ) -> dict[Any, Starts]:
            return stored_starts(store, codes, record.arrays[0].name, sizes, content, margin)

        if not others:
            return Loaded(codes, None, to_world, filtered=filtered, norm=norm)
        labels = opener(others[0], 0)
        values = labels().values
        assert values is not None  # labels are bytes
        present = values.astype(np.uint8)
        regions = self.regions(present.reshape(-1, 1, 1), source=scan.mask)
        table = np.zeros((len(regions), 256), np.uint8)
        table[:, present] = regions[:, :, 0, 0]
        mask = LazyMask(labels, table, patch)
        rows = np.concatenate(list(opener(others[0], 1)().slabs()))
        return Loaded(codes, mask, to_world, foreground=mask.foreground(rows), norm=norm)
