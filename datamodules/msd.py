"""Medical Segmentation Decathlon, any of its tasks (Antonelli et al., Nature Communications 13, 2022; CC BY-SA 4.0).

Expected below the root, the folder of one task: dataset.json, imagesTr/, labelsTr/, imagesTs/ with .nii[.gz] files, 3D or
4D with the modalities along the last axis. dataset.json names modalities, labels and cases, and so decides channels,
classes and the intensity (CT: HU window, else percentiles). imagesTs is used for pretraining only; where labelsTs/ lies beside
it, `ssl-med external` tests on it. A case counts as a patient: the files name no other unit.

nnU-Net's form of such a folder is read too: CASE_0000.nii.gz, CASE_0001.nii.gz, one file a channel, and its own dataset.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.core.decathlon import IGNORE, TABLE, Listed, Task
from datamodules.core.readers import VOLUME_ENDINGS, check_channels, read_channels, read_header
from datamodules.core.scans import Scan, ScanData
from datamodules.core.volume_settings import (
    AnyIntensityConfig,
    SegmentationConfig,
    any_content,
    any_intensity,
    volume_spec,
)
from datamodules.core.volumes import Content
from datamodules.formats.grids import Array, Header, Volume
from ssl_med.ranges import Side
from ssl_med.spec import DataSpec, SslMedError


@dataclass
class MsdConfig(AnyIntensityConfig, SegmentationConfig):
    """Channels and classes are those of dataset.json unless chosen here."""

    patch_size: tuple[Side, ...] = (64, 64, 32)
    modalities: tuple[str, ...] = ()
    """channels, in this order, by name or number in dataset.json; empty: all"""
    classes: tuple[str, ...] = ()
    """mask channels by name or number of a label, a+b for a union, as in liver+cancer; empty: one channel per label"""


@dataclass(frozen=True)
class MsdScan(Scan):
    """A case. `separate`: one file a channel, as nnU-Net keeps them; `held_out`: its label map is for tests only."""

    separate: bool = False
    held_out: bool = False


class MsdData(ScanData):
    """Cases of dataset.json."""

    Config = MsdConfig
    public_sets = ("MSD",)
    layout = "dataset.json, imagesTr/ and labelsTr/ of one task"
    public_names = r"(BRATS|la|liver|hippocampus|prostate|lung|pancreas|hepaticvessel|spleen|colon)_\d+"
    store_keys: ClassVar[tuple[str, ...]] = ("orientation", "spacing_mm", "modalities", "mask_header")

    @classmethod
    def make_spec(cls, config: MsdConfig, *, labelled: bool) -> DataSpec:
        """Channels and classes of dataset.json; without a root one nameless channel and class."""
        config = cls.located(config)
        nothing = Task(Path(), ("image",), {1: "foreground"}, {}, ())
        task = cls.task_of(config) if config.root else nothing
        chosen = [task.modalities[k] for k in task.channels(config.modalities if config.root else ())]
        classes = task.classes(config.classes if config.root else ())
        if labelled and not classes:
            raise SslMedError(f"{task.table}: 'labels' has no label besides 0")
        if labelled and task.ignore:
            raise SslMedError(
                f"{task.table}: 'labels' has '{IGNORE}', a label that counts for nothing, which is not read; "
                "give those voxels a class"
            )
        ct = all(name.upper().startswith("CT") for name in chosen)
        return volume_spec(
            config,
            channels=tuple(chosen),
            intensity=any_intensity(config, auto="window" if ct else "percentile"),
            target="mask" if labelled else "none",
            class_names=tuple(classes),
            exclusive=len({number for part in classes.values() for number in part}) == sum(map(len, classes.values())),
        )

    def new_scan(self, name: str, files: tuple[str, ...]) -> Any:
        """One file a channel, or a NIfTI file of the channels that the run was trained on."""
        self.stored_channels, self.channel_numbers = self.spec.in_channels, list(range(self.spec.in_channels))
        return MsdScan(name, name, files, separate=len(files) == self.spec.in_channels)

    def holds_channels(self, path: Path) -> bool:
        """Refused at reading when they are another number."""
        return True

    @property
    def content(self) -> Content | None:
        """Against empty crops."""
        return any_content(self.config)

    @classmethod
    def begins(cls, folder: Path, config: MsdConfig) -> bool:
        """Beside dataset.json."""
        return (folder / TABLE).is_file()

    def index(self, root: Path) -> Sequence[Scan]:
        """All cases of dataset.json; files that it does not name are noted."""
        task = self.task_of(self.config)
        self.channel_numbers = task.channels(self.config.modalities)
        self.labels_of_class = task.classes(self.config.classes)
        self.known_labels = (0, *task.labels)
        self.stored_channels = len(task.modalities)
        scans = [self._scan(case) for case in self.listed(task, root)]
        if self.labelled and not any(self.usable(scan) for scan in scans):
            raise SslMedError(f"{task.table}: names no case with a label")
        return scans

    @classmethod
    def task_of(cls, config: Any) -> Task:
        """What the table of the data set says."""
        return Task.read(Path(config.root), layout=cls.layout)

    def listed(self, task: Task, root: Path) -> list[Listed]:
        """The cases that the table names."""
        paths = self.find(root, lambda path: path.name.lower().endswith(VOLUME_ENDINGS))
        cases, notes = task.cases(paths, left_out=self.quarantined, alone=self.only_test == "all")
        self.notes += notes
        return cases

    def _scan(self, case: Listed) -> MsdScan:
        separate = len(case.images) > 1 or not case.images[0].name.lower().endswith((".nii", ".nii.gz"))
        numbers = self.channel_numbers if len(case.images) > 1 else [0]
        images = tuple(str(case.images[number]) for number in numbers)
        if self.store is not None:
            voxels = 0
        elif separate:
            voxels = self.voxels_of(self.noted(read_header(images[0])))
        else:
            voxels = self.voxels(images[0])
        return MsdScan(case.name, case.name, images, str(case.mask or ""), voxels, separate, case.held_out)

    def split_group(self, case: Any) -> str:
        """A label map that is for tests only leaves its case among those without labels."""
        return "labelled" if case.mask and not case.held_out else ""

    def grid_of(self, path: str) -> Header:
        """Header of a file, whose channels must be those of dataset.json."""
        return check_channels(path, self.stored_channels)

    def image_grid(self, case: Any, path: str) -> Header:
        """That of a file with all channels, or with one."""
        return read_header(path) if case.separate else self.grid_of(path)

    def usable(self, case: Any) -> bool:
        """Labelled use takes the cases with a label map; those of labelsTs only where there is nothing but a test."""
        return not self.labelled or bool(case.mask and (self.only_test == "all" or not case.held_out))

    def stored(self, scan: Any) -> Iterator[tuple[str, Volume]]:
        """The chosen modalities, of one file or of one file each."""
        if scan.separate:
            yield from super().stored(scan)
            return
        found = read_channels(scan.images[0], self.stored_channels)
        for number in self.channel_numbers:
            yield scan.images[0], found[number]

    def regions(self, labels: Array, *, source: str) -> Array:
        """One mask per class."""
        return np.stack([np.isin(labels, numbers) for numbers in self.labels_of_class.values()]).astype(np.uint8)
