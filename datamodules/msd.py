"""Medical Segmentation Decathlon, any of its tasks (Antonelli et al., Nature Communications 13, 2022; CC BY-SA 4.0).

Expected below the root, the folder of one task: dataset.json, imagesTr/, labelsTr/, imagesTs/ with .nii[.gz] files, 3D or
4D with the modalities along the last axis. dataset.json names modalities, labels and cases, and so decides channels,
classes and the intensity (CT: HU window, else percentiles). imagesTs has no labels and is used for pretraining only. A
case counts as a patient: the files name no other unit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.core.files import stem
from datamodules.core.readers import check_channels, read_channels
from datamodules.core.scans import (
    AnyIntensityConfig,
    Scan,
    ScanData,
    SegmentationConfig,
    any_content,
    any_intensity,
    volume_spec,
)
from datamodules.core.volumes import Content
from datamodules.formats.grids import Array, Header, Volume
from ssl_med.catalogue import nearest
from ssl_med.spec import DataSpec, SslMedError

TABLE = "dataset.json"


@dataclass
class MsdConfig(AnyIntensityConfig, SegmentationConfig):
    """Channels and classes are those of dataset.json unless chosen here."""

    patch_size: tuple[int, ...] = (64, 64, 32)
    modalities: tuple[str, ...] = ()
    """channels, in this order, by name or number in dataset.json; empty: all"""
    classes: tuple[str, ...] = ()
    """mask channels by name or number of a label, a+b for a union, as in liver+cancer; empty: one channel per label"""


@dataclass(frozen=True)
class _Task:
    """What dataset.json says: names of the channels, label -> name without background, (image, label) files."""

    modalities: tuple[str, ...]
    labels: dict[int, str]
    files: tuple[tuple[Path, Path | None], ...]

    @classmethod
    def read(cls, root: Path) -> _Task:
        path = root / TABLE
        if not root.is_dir():
            raise SslMedError(f"data.root={root}: no such folder; it should hold {MsdData.layout}")
        if not path.is_file():
            below = sorted(p.parent.name for p in root.glob(f"*/{TABLE}"))
            hint = f"; it holds {', '.join(below)}: point data.root at one of them" if below else ""
            raise SslMedError(f"data.root={root}: is this msd? It should hold {MsdData.layout}{hint}")
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            modalities = {int(key): str(name) for key, name in tree["modality"].items()}
            labels = {int(key): str(name) for key, name in tree["labels"].items()}
            rows = [row for key in ("training", "validation", "test") for row in tree.get(key, [])]
            pairs = [(row["image"], row.get("label")) if isinstance(row, Mapping) else (str(row), None) for row in rows]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__} {error}"
            raise SslMedError(
                f"{path}: is no table of a Decathlon task ({what}); it needs modality, labels and training"
            ) from None
        if sorted(modalities) != list(range(len(modalities))) or not modalities:
            raise SslMedError(f"{path}: 'modality' must number the channels 0, 1, ..., it has {sorted(modalities)}")
        if any(not 0 <= number <= 255 for number in labels):
            raise SslMedError(f"{path}: 'labels' must be numbers 0..255, it has {sorted(labels)}")
        files = tuple((root / image, root / label if label else None) for image, label in pairs)
        names = {number: name for number, name in sorted(labels.items()) if number}
        return cls(tuple(modalities[k] for k in range(len(modalities))), names, files)

    def channels(self, chosen: Sequence[str]) -> list[int]:
        """Numbers of the chosen modalities."""
        numbers = [_number(word, dict(enumerate(self.modalities)), key="data.modalities") for word in chosen]
        if len(set(numbers)) < len(numbers):
            raise SslMedError(f"data.modalities {list(chosen)} names a modality twice")
        return numbers or list(range(len(self.modalities)))

    def classes(self, chosen: Sequence[str]) -> dict[str, list[int]]:
        """Class name -> its labels."""
        if not chosen:
            return {name: [number] for number, name in self.labels.items()}
        return {
            word: [_number(part, self.labels, key="data.classes") for part in _parts(word, self.labels)]
            for word in chosen
        }


class MsdData(ScanData):
    """Cases of dataset.json."""

    Config = MsdConfig
    layout = "dataset.json, imagesTr/ and labelsTr/ of one task"
    public_names = r"(BRATS|la|liver|hippocampus|prostate|lung|pancreas|hepaticvessel|spleen|colon)_\d+"
    store_keys = ("orientation", "spacing_mm", "modalities")

    @classmethod
    def make_spec(cls, config: MsdConfig, *, labelled: bool) -> DataSpec:
        """Channels and classes of dataset.json; without a root one nameless channel and class."""
        task = _Task.read(Path(config.root)) if config.root else _Task(("image",), {1: "foreground"}, ())
        chosen = [task.modalities[k] for k in task.channels(config.modalities if config.root else ())]
        classes = task.classes(config.classes if config.root else ())
        if labelled and not classes:
            raise SslMedError(f"{Path(config.root) / TABLE}: 'labels' has no label besides 0")
        ct = all(name.upper().startswith("CT") for name in chosen)
        return volume_spec(
            config,
            channels=tuple(chosen),
            intensity=any_intensity(config, auto="window" if ct else "percentile"),
            target="mask" if labelled else "none",
            class_names=tuple(classes),
        )

    @property
    def content(self) -> Content | None:
        """Against empty crops."""
        return any_content(self.config)

    def index(self, root: Path) -> Sequence[Scan]:
        """All cases of dataset.json; files that it does not name are noted."""
        task = _Task.read(root)
        self.channel_numbers = task.channels(self.config.modalities)
        self.labels_of_class = task.classes(self.config.classes)
        self.known_labels = (0, *task.labels)
        self.stored_channels = len(task.modalities)
        scans: dict[str, Scan] = {}
        for image, label in task.files:
            for path in (image, label):
                if path is not None and not path.is_file() and not self.quarantined(path):
                    raise SslMedError(f"{root / TABLE}: names {path}, which is absent; complete the download")
            name = stem(image)
            if name in scans:
                raise SslMedError(f"{root / TABLE}: names case '{name}' twice; keep one")
            scans[name] = Scan(name, name, (str(image),), str(label or ""), self.voxels(str(image)))
        named = {image for image, _ in task.files}
        extra = [
            path
            for folder in ("imagesTr", "imagesTs")
            for path in (root / folder).glob("*.nii*")
            if path not in named and not path.name.startswith(".")
        ]
        if extra:
            self.notes.append(f"{len(extra)} images of imagesTr and imagesTs are not named by {TABLE} and are left out")
        if self.labelled and not any(scan.mask for scan in scans.values()):
            raise SslMedError(f"{root / TABLE}: names no case with a label")
        return [scans[name] for name in sorted(scans)]

    def grid_of(self, path: str) -> Header:
        """Header of a file, whose channels must be those of dataset.json."""
        return check_channels(path, self.stored_channels)

    def usable(self, case: Any) -> bool:
        """Labelled use takes the cases with a label map."""
        return bool(case.mask) or not self.labelled

    def stored(self, scan: Any) -> Iterator[tuple[str, Volume]]:
        """The chosen modalities of one file."""
        found = read_channels(scan.images[0], self.stored_channels)
        for number in self.channel_numbers:
            yield scan.images[0], found[number]

    def regions(self, labels: Array, *, source: str) -> Array:
        """One mask per class."""
        return np.stack([np.isin(labels, numbers) for numbers in self.labels_of_class.values()]).astype(np.uint8)


def _parts(word: str, labels: Mapping[int, str]) -> list[str]:
    return [word] if word in labels.values() else [part.strip() for part in word.split("+")]


def _number(word: str, names: Mapping[int, str], *, key: str) -> int:
    """Number of a name, or of a number written as text."""
    found = [number for number, name in names.items() if word in (name, str(number))]
    if not found:
        raise SslMedError(f"{key}: '{word}' is not in {TABLE}{nearest(word, list(names.values()))}")
    return found[0]
