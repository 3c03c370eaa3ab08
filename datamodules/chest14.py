"""ChestX-ray14: 112,120 frontal radiographs of 30,805 patients with 14 findings (Wang et al., CVPR 2017; NIH Clinical Center).

Expected below the root: images/*.png or images_0NN/images/*.png, Data_Entry_2017*.csv, train_val_list.txt, test_list.txt. The
findings were mined from reports; by the authors' account about one in ten is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.core.cases import plain_number, read_table
from datamodules.core.configs import LABELLED
from datamodules.core.files import spelled, visible
from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageData2D, TableConfig, has_ending
from datamodules.core.splits import Split
from ssl_med.catalogue import nearest
from ssl_med.reading import UnreadableError, read_text
from ssl_med.setting import setting
from ssl_med.spec import SslMedError, Target

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)


TABLE = "Data_Entry_2017*.csv"


@dataclass
class Chest14Config(TableConfig):
    """Whether findings may come together."""

    classes: tuple[str, ...] = setting(default=(), before=[], needs=LABELLED)
    """findings that are classes, of radiographs with one finding alone, such as the seven of ChestX in few-shot
    learning (Guo et al., ECCV 2020); empty: 14 findings that may come together"""

    def __post_init__(self) -> None:
        for name in self.classes:
            if name not in FINDINGS:
                raise SslMedError(f"data.classes: finding '{name}' is unknown{nearest(name, list(FINDINGS))}")
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise SslMedError(f"data.classes {list(self.classes)} must be two different findings or more")


class Chest14Data(ImageData2D):
    """Radiographs, split by patient."""

    Config = Chest14Config
    public_sets = ("ChestX-ray14",)
    layout = "images/*.png or images_0NN/images/*.png, and Data_Entry_2017*.csv"
    splits = ("official",)
    public_names = r"\d{8}_\d{3}\.png"

    @classmethod
    def labels(cls, config: Any) -> tuple[Target, tuple[str, ...]]:
        """14 findings, or some of them as classes."""
        return ("class", config.classes) if config.classes else ("multilabel", FINDINGS)

    @classmethod
    def begins(cls, folder: Path, config: TableConfig) -> bool:
        """Beside the table, or the folders of images."""
        return any(visible(path.name) for pattern in (TABLE, "images*") for path in folder.glob(pattern))

    def index(self, root: Path) -> Sequence[Image2D]:
        """Rows of the table with their files."""
        files: dict[str, Path] = {}
        for path in self.find(root, lambda path: has_ending(".png")(path) and _in_images(path.relative_to(root))):
            if (name := spelled(path.name)) not in files:
                files[name] = path
            elif not self.quarantined(path):
                raise SslMedError(f"{path}: is a second copy of {files[name]}; keep one")
        tables = sorted(path for path in root.glob(TABLE) if visible(path.name))
        if not files and not tables:
            return []
        if len(tables) != 1:
            raise SslMedError(f"{root}: needs one {TABLE}, it holds {len(tables)}")
        radiographs, missing = [], []
        listed: set[str] = set()
        for row in read_table(tables[0], ("Image Index", "Finding Labels", "Patient ID")):
            name = row["Image Index"]
            if name in listed:
                raise SslMedError(f"{tables[0]}: names image {name} twice; remove one row")
            listed.add(name)
            if spelled(name) not in files:
                if not self.quarantined(root / name):
                    missing.append(name)
                continue
            found = row["Finding Labels"].split("|")
            unknown = [word for word in found if word not in (*FINDINGS, "No Finding")]
            if unknown:
                raise SslMedError(f"{tables[0]}: image {name} has the unknown finding '{unknown[0]}'")
            patient = plain_number(row["Patient ID"])
            if not patient.isdigit():
                raise SslMedError(f"{tables[0]}: image {name} has the Patient ID '{row['Patient ID']}', not a number")
            label = self._label(found)
            radiographs.append(Image2D(name, str(int(patient)), str(files[spelled(name)]), label))
        self.check_missing(missing, table=tables[0], below=root)
        return radiographs

    def _label(self, found: Sequence[str]) -> tuple[int, ...]:
        """One value for each finding; of classes the number of the only finding, or nothing."""
        classes = self.config.classes
        if not classes:
            return tuple(int(finding in found) for finding in FINDINGS)
        return (classes.index(found[0]),) if len(found) == 1 and found[0] in classes else ()

    def usable(self, case: Any) -> bool:
        """Where classes are learned, radiographs that are of one."""
        return not (self.spec.target == "class" and not case.label)

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """official: test_list.txt is the test part; validation is cut from the patients of train_val_list.txt."""
        root = Path(self.config.root)
        subject_of = {radiograph.name: radiograph.subject for radiograph in cases}
        members = {}
        for file in ("train_val_list.txt", "test_list.txt"):
            try:
                lines = [line.strip() for line in read_text(root / file).splitlines() if line.strip()]
            except UnreadableError as error:
                raise SslMedError(f"{root / file}: {error}; data.split=official needs it") from None
            absent = [line for line in lines if line not in subject_of]
            if absent and not self.config.allow_missing:
                raise SslMedError(
                    f"{root / file}: image {absent[0]} is not in the table or not on disk ({len(absent)} in all)"
                )
            members[file] = {subject_of[line] for line in lines if line in subject_of}
        both = sorted(members["train_val_list.txt"] & members["test_list.txt"])
        if both:
            raise SslMedError(
                f"{root / 'test_list.txt'}: patient {both[0]} is also in train_val_list.txt; repair the lists"
            )
        return self.given_test(members["train_val_list.txt"], members["test_list.txt"])


def _in_images(relative: Path) -> bool:
    """images/NAME, images_NNN/NAME or images_NNN/images/NAME."""
    return re.fullmatch(r"images(/|_[^/]*/(images/)?)[^/]+", relative.as_posix()) is not None
