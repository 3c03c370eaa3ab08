"""Any folder tree of .png, .jpg, .tif, .bmp or .dcm images, with or without a table of labels.

Expected below the root: images in any folders. What may not straddle a split, the subject, is by default the single image; with
several images a person say how the person is found: data.subject_pattern, a regular expression on the path relative to the root
(its first group is the subject), or data.subject_column of the table.

Labels, for tasks: a CSV file (data.labels, relative to the root) with a column of paths and either one column of class names or
numbers (data.label_columns=[x] data.class_names=[a,b]) or several columns of 0, 1 or blank for not known
(data.label_columns=[x,y]); without a CSV the folder that is named like a class (data.class_names=[a,b]). Or a datalist of
MONAI (data.labels=FILE.json data.split=datalist): lists training, validation and test of {image, label}, where a label is the
number of a class or a list of findings, each 0, 1 or null. Give the same settings when pretraining, so that both share one
split. DICOM files need the extra `dicom`.

Cases are named by a hash of their path, since paths often name patients; data.show_names=true shows the paths instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from datamodules.core.cases import plain_number, read_table
from datamodules.core.datalist import (
    class_names_of,
    images_of,
    label_of_row,
    listed_split,
    read_file,
    rows_of,
    target_of,
)
from datamodules.core.dicom import is_dicom, read_dicom_image
from datamodules.core.files import spelled
from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import GREY, ImageData2D, TableConfig
from datamodules.core.splits import PARTS, Split
from datamodules.formats.grids import Array
from ssl_med.ledger import salted
from ssl_med.ranges import Range
from ssl_med.setting import setting
from ssl_med.spec import RGB, Intensity, SslMedError, Target

_LISTS, _PLACE = "datalist", " list and fold"  # a split; a key that no row has
_PARTS = {**{part: part for part in PARTS}, "valid": "val", "validation": "val"}


@dataclass
class ImagesConfig(TableConfig):
    """How images, their subjects and their labels are found."""

    color: bool = False
    """three channels; otherwise colour is reduced to luminance"""
    intensity: Literal["window", "percentile"] = "window"
    """intensity_low and intensity_high are grey levels, or percentiles of each image and channel (for DICOM: 1 and 99)"""
    subject_pattern: str = ""
    """regular expression on the relative path whose first group names the subject; empty: each image is one"""
    labels: str = ""
    """CSV file of labels, or a datalist of MONAI (.json) whose rows have image, label and perhaps subject and fold, relative to
    the root; empty: folders are named like classes"""
    file_column: str = "file"
    """its column of image paths, relative to the root"""
    subject_column: str = ""
    """its column of subjects, in place of subject_pattern"""
    label_columns: tuple[str, ...] = ()
    """one column of classes, or several of findings"""
    class_names: tuple[str, ...] = ()
    """the classes as the column spells them, in order; findings: names to show, the columns' by default"""
    fold: Annotated[int, Range(0, 10**4, special=(-1,))] = setting(
        default=-1, affects="result", before=-1, needs={"split": (_LISTS,)}
    )
    """split=datalist: training rows of this fold validate; -1: the list validation does"""
    show_names: bool = False
    """name cases by path in test_cases.csv and figures; only where paths reveal nothing about a patient"""


class ImagesData(ImageData2D):
    """Images by path; labels by table or folder."""

    Config = ImagesConfig
    store_keys = ("color",)
    layout = "images (.png, .jpg, .tif, .bmp, .dcm) in any folders"
    splits = ("folders", _LISTS)

    @classmethod
    def labels(cls, config: ImagesConfig) -> tuple[Target, tuple[str, ...]]:
        """Classes for one column or folders, findings for several columns; of a datalist by its labels."""
        if _is_datalist(config):
            for key in ("label_columns", "subject_column"):
                if getattr(config, key):
                    raise SslMedError(
                        f"data.{key} is of a CSV file; rows of a datalist have label and subject, leave it out"
                    )
            path, tree = _datalist(config)
            rows = [row for _, row in rows_of(path, tree)]
            target = target_of(path, rows)
            if target not in ("class", "multilabel"):
                raise SslMedError(
                    f"{path}: has no label that is the number of a class or a list of findings, as data=images needs"
                )
            return target, class_names_of(path, list(config.class_names) or tree.get("labels"), rows)
        columns, names = tuple(config.label_columns), tuple(config.class_names)
        if len(columns) > 1:
            if names and len(names) != len(columns):
                raise SslMedError(f"data.class_names has {len(names)} names for {len(columns)} data.label_columns")
            return "multilabel", names or columns
        if config.labels and not columns:
            raise SslMedError("data.label_columns is missing: name the column or columns of data.labels to learn")
        if columns and not config.labels:
            raise SslMedError("data.labels is missing: name the CSV file that has data.label_columns")
        if len(set(names)) < 2:
            raise SslMedError("data.class_names is missing: list the classes in order, for example [normal,sick]")
        return "class", names

    @classmethod
    def channels(cls, config: ImagesConfig) -> tuple[str, ...]:
        """As configured."""
        return RGB if config.color else GREY

    @classmethod
    def intensity(cls, config: ImagesConfig) -> Intensity:
        """Window or percentiles."""
        unit = "grey level" if config.intensity == "window" else "percentile"
        return config.intensity_of(config.intensity, unit)

    @classmethod
    def begins(cls, folder: Path, config: ImagesConfig) -> bool:
        """Beside the table, or the folders of the split; images alone may lie anywhere."""
        if config.labels:
            return (folder / config.labels).is_file()
        return config.split != "folders" or any((folder / part).is_dir() for part in _PARTS)

    def index(self, root: Path) -> Sequence[Image2D]:
        """All images below the root, with subject and label."""
        if self.config.split == _LISTS and not _is_datalist(self.config):
            raise SslMedError("data.split=datalist needs data.labels=FILE.json, a datalist of MONAI")
        listed = self._listed(root)

        def named(path: Path) -> bool:
            relative = path.relative_to(root)
            if self.config.split == "folders" and relative.parts[0] not in _PARTS:
                return False
            if self.config.labels:
                return spelled(relative.as_posix()) in listed
            return not self.config.class_names or not set(relative.parts[:-1]).isdisjoint(self.config.class_names)

        found = self.find(root, self.reads, prefer=named)
        files = {path.relative_to(root).as_posix(): path for path in found}
        rows: dict[str, Any] = self._rows(root, files) if files and self.config.labels else {}
        self._places = {name: row[_PLACE] for name, row in rows.items() if _PLACE in row}
        if self._places and self.config.split == "random":
            self.notes.append("the lists of the datalist are no parts: data.split=datalist takes them")
        images = []
        for name, path in files.items():
            label = self._label(name, rows) if self.labelled else ()
            images.append(Image2D(name, self._subject(name, rows.get(name)), str(path), label))
        known = {name: row for name, row in rows.items() if not _is_datalist(self.config) or label_of_row(row)}
        self._labelled_subjects = {self._subject(name, row) for name, row in known.items()}
        if files and len({image.subject for image in images}) == len(images) and not self.config.show_names:
            given = [key for key in ("subject_pattern", "subject_column") if getattr(self.config, key)]
            why = (
                f"data.{given[0]} finds no two of one"
                if given
                else "data.subject_pattern or subject_column changes that"
            )
            self.notes.append(f"each image counts as its own subject ({why})")
        unlabelled = sum(not image.label for image in images)
        if self.labelled and unlabelled:
            self.notes.append(f"{unlabelled} of {len(images)} images have no label and are left out")
        return images

    def _listed(self, root: Path) -> set[str]:
        """The images that the table names, as `spelled`; none without a table."""
        if not self.config.labels or not (root / self.config.labels).is_file():
            return set()
        if _is_datalist(self.config):
            path, tree = _datalist(self.config)
            return {spelled(_relative(images_of(row)[0])) for _, row in rows_of(path, tree)}
        rows = read_table(root / self.config.labels, (self.config.file_column,))
        return {spelled(_relative(row[self.config.file_column])) for row in rows}

    def _rows(self, root: Path, files: dict[str, Path]) -> dict[str, dict[str, Any]]:
        """Rows of the table by image; those that are not there are reported."""
        config = self.config
        table = root / config.labels
        rows: dict[str, dict[str, Any]] = {}
        missing = []
        spellings = {spelled(name): name for name in files}
        for place, row in self._read_rows(table):
            name = _relative(row[config.file_column])
            name = name if name in files else spellings.get(spelled(name), name)
            if name in rows:
                raise SslMedError(f"{table}: {place} names {name} a second time; keep one row an image")
            if name in files:
                rows[name] = row
            elif not self.quarantined(root / name):
                missing.append(name)
        self.check_missing(missing, table=table, below=root)
        return rows

    def _read_rows(self, table: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Place and row of each image in a table or a datalist."""
        config = self.config
        if not _is_datalist(config):
            extra = (config.subject_column,) if config.subject_column else ()
            for number, read in enumerate(read_table(table, (config.file_column, *config.label_columns, *extra))):
                yield f"line {number + 2}", dict(read)
            return
        for number, (part, row) in enumerate(rows_of(table, _datalist(config)[1]), 1):
            images, fold = images_of(row), row.get("fold", -1)
            if len(images) > 1:
                raise SslMedError(
                    f"{table}: row {number} names {len(images)} images; data=images has one file an image"
                )
            place = part, fold if isinstance(fold, int) else -1
            yield f"row {number}", {**row, config.file_column: images[0], _PLACE: place}

    def _label(self, name: str, rows: dict[str, dict[str, Any]]) -> tuple[float, ...]:
        config, names = self.config, self.spec.class_names
        if not config.labels:
            found = [folder for folder in PurePosixPath(name).parts[:-1] if folder in names]
            if len(found) > 1:
                raise SslMedError(
                    f"{Path(config.root) / name}: lies below two class folders, {found[0]} and {found[1]}"
                )
            return (names.index(found[0]),) if found else ()
        if name not in rows:
            return ()
        if _is_datalist(config):
            return label_of_row(rows[name])
        values = [rows[name][column] for column in config.label_columns]
        where = f"{Path(config.root) / config.labels}: the row of {name}"
        if self.spec.target == "class":
            if values[0] not in names:  # a number with a point is the class without it
                values[0] = plain_number(values[0])
            if values[0] not in names:
                raise SslMedError(
                    f"{where} has the class '{values[0]}', which is not in data.class_names {list(names)}"
                )
            return (names.index(values[0]),)
        try:
            label = tuple({"": float("nan"), "0": 0.0, "1": 1.0}[plain_number(value)] for value in values)
        except KeyError as error:
            raise SslMedError(f"{where} holds {error}; findings are 0, 1 or blank for not known") from None
        return label

    def _subject(self, name: str, row: dict[str, Any] | None) -> str:
        config = self.config
        if _is_datalist(config) and row is not None and row.get("subject"):
            return str(row["subject"])
        if config.subject_column:
            if row is None:
                return f"no row: {name}"
            if not row[config.subject_column].strip():
                raise SslMedError(
                    f"{Path(config.root) / config.labels}: the row of {name} names no {config.subject_column}"
                )
            return str(row[config.subject_column]).strip()
        if not config.subject_pattern:
            return name
        try:
            match = re.search(config.subject_pattern, name)
        except re.error as error:
            raise SslMedError(
                f"data.subject_pattern '{config.subject_pattern}' is no regular expression ({error})"
            ) from None
        found = (match[1] if match.re.groups else match[0]) if match else None
        if not found:
            raise SslMedError(
                f"{Path(config.root) / name}: data.subject_pattern '{config.subject_pattern}' finds no subject"
            )
        return found

    def public_name(self, name: str) -> str:
        """The relative path where the user shows it, else a salted hash."""
        return name if self.config.show_names else f"image-{salted(name)[:12]}"

    def split_group(self, case: Any) -> str:
        """Subjects with and without labels are split apart, so that both uses of a table agree on who is tested."""
        return "labelled" if case.subject in self._labelled_subjects else ""

    def usable(self, case: Any) -> bool:
        """Labelled use takes the images with labels."""
        return bool(case.label) or not self.labelled

    def named_split(self, name: str, cases: Sequence[Any]) -> Split:
        """folders: by the first folder below the root, train, val (valid, validation) or test; datalist: by its lists."""
        if name == _LISTS:
            files = {image.path: Path(image.path).relative_to(self.config.root).as_posix() for image in cases}
            listed = [image for image in cases if files[image.path] in self._places]
            split, note = listed_split(
                listed,
                labelled=lambda image: image.subject in self._labelled_subjects,
                place=lambda image: self._places[files[image.path]],
                group=self.split_group,
                config=self.config,
            )
            self.notes += [note] if note else []
            rest = {image.subject for image in cases} - {subject for part in split.values() for subject in part}
            return {**split, "train": sorted({*split["train"], *rest})}
        found: dict[str, set[str]] = {part: set() for part in PARTS}
        for image in cases:
            first = Path(image.path).relative_to(self.config.root).parts[0]
            if first not in _PARTS:
                raise SslMedError(
                    f"{Path(self.config.root) / first}: data.split=folders needs all images below train, val or test"
                )
            found[_PARTS[first]].add(image.subject)
        return {part: sorted(members) for part, members in found.items()}

    def reads(self, path: Path) -> bool:
        """Also DICOM."""
        return super().reads(path) or is_dicom(path)

    def read(self, path: str) -> Array:
        """DICOM through its own reader."""
        if not is_dicom(Path(path)):
            return super().read(path)
        if self.config.color:
            raise SslMedError(f"{path}: DICOM images are read in grey; set data.color=false")
        return read_dicom_image(path)[None]


def _is_datalist(config: ImagesConfig) -> bool:
    return Path(config.labels).suffix.lower() == ".json"


def _datalist(config: ImagesConfig) -> tuple[Path, Mapping[str, Any]]:
    """The datalist that data.labels names."""
    if not config.root:
        raise SslMedError(f"data.root is missing: data.labels={config.labels} lies below it, data.root=DIR")
    return read_file(Path(config.root) / config.labels)


def _relative(path: str) -> str:
    """A path of a table as one of this system."""
    return PurePosixPath(path.strip().replace("\\", "/")).as_posix()
