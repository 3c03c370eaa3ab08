"""CheXpert: 224,316 chest radiographs of 65,240 patients with 14 observations (Irvin et al., AAAI 2019; Stanford Hospital).

Licence: see the distributor (Stanford AIMI; registration needed).
Expected below the root (CheXpert-v1.0 or CheXpert-v1.0-small): train.csv, valid.csv and the images that their column Path
names, train/patientNNNNN/studyN/viewN_frontal.jpg. The observations were mined from reports: 1 present, 0 absent, -1 uncertain,
blank not mentioned, which counts as absent.

`uncertain` says what -1 is in training. In validation and test an uncertain observation is left out whatever the policy is, so
that policies are compared on the same labels.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from datamodules.core.cases import read_table
from datamodules.core.configs import LABELLED
from datamodules.core.files import spelled
from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageData2D, TableConfig, has_ending
from datamodules.core.splits import Split
from ssl_med.catalogue import nearest
from ssl_med.setting import setting
from ssl_med.spec import SslMedError, Target

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
_VIEW = re.compile(r"(?:train|valid)/(patient\d+)/study\d+/view\d+_(?:frontal|lateral)\.jpe?g")
TABLES = ("train.csv", "valid.csv")
_VALUES = {"": 0.0, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "-1": float("nan"), "-1.0": float("nan")}
# label smoothing of Pham et al. (Neurocomputing 437, 2021): bounds of the uniform value of an uncertain label
_SMOOTHED = {"zeros": (0.0, 0.0), "ones": (1.0, 1.0), "zeros_smoothed": (0.0, 0.3), "ones_smoothed": (0.55, 0.85)}


@dataclass
class CheXpertConfig(TableConfig):
    """Which radiographs, which observations, and what an uncertain one means."""

    views: Literal["frontal", "lateral", "both"] = "frontal"
    """radiographs that are used; the split does not depend on it"""
    observations: Literal["competition", "all"] = setting(default="competition", needs={"against_rest": ("",)})
    """the five of the competition, or all 14"""
    uncertain: Literal["zeros", "ones", "ignore", "zeros_smoothed", "ones_smoothed"] = setting(
        default="ones", needs={**LABELLED, "against_rest": ("",)}
    )
    """training value of an uncertain label: 0, 1, left out of the loss, or uniform in 0..0.3 or 0.55..0.85"""
    against_rest: str = setting(default="", before="", needs=LABELLED)
    """an observation against the rest, as two classes (Anton et al. 2022: Pleural Effusion); radiographs that are uncertain of
    it are left out of every part; empty: several observations that may come together"""

    def __post_init__(self) -> None:
        if self.against_rest and self.against_rest not in OBSERVATIONS:
            raise SslMedError(
                f"data.against_rest '{self.against_rest}' is unknown{nearest(self.against_rest, list(OBSERVATIONS))}"
            )


class CheXpertData(ImageData2D):
    """Radiographs, split by patient."""

    Config = CheXpertConfig
    public_sets = ("CheXpert",)
    layout = "train.csv, valid.csv and train/patientNNNNN/studyN/*.jpg"
    splits = ("official",)
    public_names = r"(train|valid)/patient\d+/.*"

    @classmethod
    def labels(cls, config: CheXpertConfig) -> tuple[Target, tuple[str, ...]]:
        """Five or 14 observations, or one of them against the rest."""
        if config.against_rest:
            return "class", ("rest", config.against_rest)
        return "multilabel", COMPETITION if config.observations == "competition" else OBSERVATIONS

    @classmethod
    def begins(cls, folder: Path, config: CheXpertConfig) -> bool:
        """Beside one of the tables."""
        return any((folder / name).is_file() for name in TABLES)

    def index(self, root: Path) -> Sequence[Image2D]:
        """Reads the rows of both tables; the patient is part of the path."""
        tables = [root / name for name in TABLES if (root / name).is_file()]
        radiographs = []
        wanted = (self.config.against_rest,) if self.config.against_rest else self.spec.class_names
        found = self.find(root, has_ending(".jpg", ".jpeg")) if tables else []
        files = {spelled(path.relative_to(root).as_posix()): path for path in found}
        for table in tables:
            missing = []
            for number, row in enumerate(read_table(table, ("Path", *wanted))):
                # Path starts with the folder that the archive unpacks to
                inner = row["Path"].partition("/")[2]
                match = _VIEW.fullmatch(spelled(inner))
                if match is None:
                    raise SslMedError(
                        f"{table}: line {number + 2} has the Path '{row['Path']}', which names no radiograph"
                    )
                path = files.get(spelled(inner))
                if path is None:
                    if not self.quarantined(root / inner):
                        missing.append(inner)
                    continue
                try:
                    label = tuple(_VALUES[row[name].strip()] for name in wanted)
                except KeyError as error:
                    raise SslMedError(
                        f"{table}: line {number + 2} holds {error}; observations are 1, 0, -1 or blank"
                    ) from None
                radiographs.append(Image2D(os.path.splitext(inner)[0], match[1], str(path), label))
            self.check_missing(missing, table=table, below=root)
        return radiographs

    def usable(self, case: Any) -> bool:
        """By view; of classes, where the label is certain."""
        seen = self.config.views == "both" or Path(case.path).stem.endswith(self.config.views)
        return bool(seen and not (self.spec.target == "class" and np.isnan(case.label[0])))

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """official: valid.csv, read by three radiologists, is the test part; validation is cut from train.csv's patients."""
        parts: dict[str, set[str]] = {"train": set(), "valid": set()}
        for radiograph in cases:
            parts[radiograph.name.partition("/")[0]].add(radiograph.subject)
        return self.given_test(parts["train"], parts["valid"])

    def dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """Training labels after the policy."""
        return super().dataset(self._policy(cases) if part == "train" else cases, part=part)

    def still_dataset(self, cases: Sequence[Any], *, part: str) -> Dataset[Any]:
        """The policy holds for training labels without augmentation too."""
        return super().still_dataset(self._policy(cases) if part == "train" else cases, part=part)

    def _policy(self, cases: Sequence[Any]) -> Sequence[Any]:
        if not self.labelled or self.config.uncertain not in _SMOOTHED:
            return cases
        return [self._settled(radiograph, *_SMOOTHED[self.config.uncertain]) for radiograph in cases]

    def _settled(self, radiograph: Image2D, low: float, high: float) -> Image2D:
        label = np.array(radiograph.label)
        unknown = np.isnan(label)
        if not unknown.any():
            return radiograph
        # drawn once a radiograph, whatever the order and the number of radiographs
        draws = np.random.default_rng([self.seed, zlib.crc32(radiograph.name.encode())]).uniform(low, high, len(label))
        return replace(radiograph, label=tuple(np.where(unknown, draws, label).tolist()))
