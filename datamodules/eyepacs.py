"""EyePACS: 35,126 photographs of the fundus graded for diabetic retinopathy (Kaggle Diabetic Retinopathy Detection, 2015).

Licence: see the distributor (Kaggle competition rules).
Expected below the root: trainLabels.csv with image,level and train/<patient>_<left|right>.jpeg; for data.split=official also
retinopathy_solution.csv and test/. Levels: 0 none, 1 mild, 2 moderate, 3 severe, 4 proliferative. The two eyes of a patient
stay in one part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.core.cases import plain_number, read_table
from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageData2D, TableConfig, has_ending
from datamodules.core.splits import Split
from ssl_med.spec import RGB, SslMedError, Target

_TABLES = {"train": "trainLabels.csv", "test": "retinopathy_solution.csv"}


class EyePacsData(ImageData2D):
    """Five grades, split by patient."""

    Config = TableConfig
    public_sets = ("EyePACS",)
    layout = "trainLabels.csv and train/<patient>_<left|right>.jpeg"
    splits = ("official",)
    public_names = r"(train|test)/\d+_(left|right)"

    @classmethod
    def labels(cls, config: TableConfig) -> tuple[Target, tuple[str, ...]]:
        """Five ordered grades."""
        return "class", ("none", "mild", "moderate", "severe", "proliferative")

    @classmethod
    def channels(cls, config: TableConfig) -> tuple[str, ...]:
        """Colour."""
        return RGB

    @classmethod
    def begins(cls, folder: Path, config: TableConfig) -> bool:
        """Beside train/ or its table."""
        return (folder / "train").is_dir() or (folder / _TABLES["train"]).is_file()

    def index(self, root: Path) -> Sequence[Image2D]:
        """Rows of trainLabels.csv; the competition's test images only for its own split."""
        if not (root / "train").is_dir() and not (root / _TABLES["train"]).is_file():
            return []
        images = self._part(root, "train")
        if self.config.split == "official":
            images += self._part(root, "test")
        return images

    def _part(self, root: Path, part: str) -> list[Image2D]:
        pictures = self.find(root / part, has_ending(".jpeg", ".jpg", ".png")) if (root / part).is_dir() else []
        files: dict[str, Path] = {}
        for path in pictures:
            if path.stem not in files:
                files[path.stem] = path
            elif not self.quarantined(path):
                raise SslMedError(f"{path}: is a second copy of {files[path.stem]}; keep one")
        table = root / _TABLES[part]
        if not self.labelled and not table.is_file():
            return [self._image(part, name, path, source=path) for name, path in sorted(files.items())]
        images, missing = [], []
        for number, row in enumerate(read_table(table, ("image", "level"))):
            name, source = row["image"], f"{table}: line {number + 2}"
            if name not in files:
                if not self.quarantined(root / part / name):
                    missing.append(name)
                continue
            level = plain_number(row["level"])
            if level not in ("0", "1", "2", "3", "4"):
                raise SslMedError(f"{source} has the level '{row['level']}'; it must be 0 to 4")
            images.append(self._image(part, name, files[name], int(level), source=source))
        self.check_missing(missing, table=table, below=root / part)
        return images

    def _image(self, part: str, name: str, path: Path, *label: int, source: object) -> Image2D:
        match = re.fullmatch(r"(\d+)_(left|right)", name)
        if match is None:
            raise SslMedError(f"{source}: image '{name}' is not of the form <patient>_left or <patient>_right")
        return Image2D(f"{part}/{name}", match[1], str(path), label)

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """official: the competition's test images; validation is cut from the patients of train."""
        parts: dict[str, set[str]] = {"train": set(), "test": set()}
        for image in cases:
            parts[image.name.partition("/")[0]].add(image.subject)
        return self.given_test(parts["train"], parts["test"])
