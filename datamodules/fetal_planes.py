"""FETAL_PLANES_DB: 12,400 ultrasound images of 1,792 pregnant women, by the plane that they show.

Paper: Burgos-Artizzu et al., "Evaluation of deep convolutional neural networks for automatic classification of common maternal
fetal ultrasound planes", Scientific Reports 10, 2020. Licence: CC BY 4.0 (Zenodo 3904280).
Expected below the root: FETAL_PLANES_DB_data.csv, separated by semicolons, with Image_name, Patient_num, Plane and, for
data.split=official, Train (1 or 0); and the images of those names with .png, in any folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.core.cases import plain_number, read_table
from datamodules.core.files import spelled
from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageData2D, TableConfig, has_ending
from datamodules.core.splits import Split
from ssl_med.spec import SslMedError, Target

TABLE = "FETAL_PLANES_DB_data.csv"
PLANES = ("Fetal abdomen", "Fetal brain", "Fetal femur", "Fetal thorax", "Maternal cervix", "Other")


class FetalPlanesData(ImageData2D):
    """Six planes, split by the mother."""

    Config = TableConfig
    public_sets = ("FETAL_PLANES_DB",)
    layout = f"{TABLE} and Images/*.png"
    splits = ("official",)
    public_names = r"Patient\d+_Plane\d+_\d+_of_\d+"

    @classmethod
    def labels(cls, config: TableConfig) -> tuple[Target, tuple[str, ...]]:
        """Six planes."""
        return "class", PLANES

    @classmethod
    def begins(cls, folder: Path, config: TableConfig) -> bool:
        """Beside the table."""
        return (folder / TABLE).is_file()

    def index(self, root: Path) -> Sequence[Image2D]:
        """Rows of the table with their files."""
        table = root / TABLE
        if not table.is_file():
            return []
        files: dict[str, Path] = {}
        for path in self.find(root, has_ending(".png")):
            if (name := spelled(path.stem)) not in files:
                files[name] = path
            elif not self.quarantined(path):
                raise SslMedError(f"{path}: is a second copy of {files[name]}; keep one")
        columns = ("Image_name", "Patient_num", "Plane", *(("Train",) if self.config.split == "official" else ()))
        images: list[Image2D] = []
        missing: list[str] = []
        self._tested: set[str] = set()
        for number, row in enumerate(read_table(table, columns, delimiter=";")):
            name, source = row["Image_name"], f"{table}: line {number + 2}"
            if row["Plane"] not in PLANES:
                raise SslMedError(f"{source} has the Plane '{row['Plane']}'; it must be one of {', '.join(PLANES)}")
            if not row["Patient_num"]:
                raise SslMedError(f"{source}: image {name} has no Patient_num")
            if spelled(name) not in files:
                if not self.quarantined(root / f"{name}.png"):
                    missing.append(name)
                continue
            mother = plain_number(row["Patient_num"])
            if "Train" in columns:
                part = plain_number(row["Train"])
                if part not in ("0", "1"):
                    raise SslMedError(f"{source} has the Train '{row['Train']}'; it must be 1 or 0")
                if part == "0":
                    self._tested.add(mother)
            images.append(Image2D(name, mother, str(files[spelled(name)]), (PLANES.index(row["Plane"]),)))
        self.check_missing(missing, table=table, below=root)
        return images

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """official: women of the test images (Train 0) are the test part; validation is cut from the others."""
        mothers = {case.subject for case in cases}
        return self.given_test(mothers - self._tested, mothers & self._tested)
