"""dataset.json of a Decathlon task or of nnU-Net, and the files that belong to its cases.

Two forms. The Decathlon's (and nnU-Net's first): `modality`, `labels` as {number: name} and lists `training` and `test`. The
second of nnU-Net: `channel_names`, `labels` as {name: number or numbers}, and no list: what lies in imagesTr and imagesTs are
the cases.
nnU-Net keeps each channel in a file of its own, CASE_0000.nii.gz, CASE_0001.nii.gz and so on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.core.cases import AbsentError
from datamodules.core.files import CHANNEL, spelled, stem
from ssl_med.catalogue import nearest
from ssl_med.reading import UnreadableError, read_json
from ssl_med.spec import SslMedError

TABLE = "dataset.json"
_IMAGES = ("imagestr", "imagests")  # folders, whatever the case of their letters
IGNORE = "ignore"  # nnU-Net's name of a label that counts for nothing


@dataclass(frozen=True)
class Listed:
    """A case: one file with all channels, or one a channel. `held_out`: its label map is of labelsTs, for tests only."""

    name: str
    images: tuple[Path, ...]
    mask: Path | None
    held_out: bool = False


@dataclass(frozen=True)
class Task:
    """What dataset.json says.

    * modalities: names of the channels. * labels: number -> name, without background.
    * unions: name -> numbers, where classes are regions of several labels. * rows: (image, label) as listed; None: no list.
    * ignore: there is a label that counts for nothing. * source: the table itself, for messages; "": dataset.json of the root.
    """

    root: Path
    modalities: tuple[str, ...]
    labels: dict[int, str]
    unions: dict[str, tuple[int, ...]]
    rows: tuple[tuple[str, str | None], ...] | None
    ignore: bool = False
    source: str = ""

    @property
    def table(self) -> str:
        """File that says all this."""
        return self.source or str(self.root / TABLE)

    @classmethod
    def read(cls, root: Path, *, layout: str) -> Task:
        """Raises `SslMedError` for a folder without a table, or a table of another form."""
        path = root / TABLE
        if not root.is_dir():
            raise SslMedError(f"data.root={root}: no such folder; it should hold {layout}")
        if not path.is_file():
            below = sorted(p.parent.name for p in root.glob(f"*/{TABLE}"))
            hint = f"; it holds {', '.join(below)}: point data.root at one of them" if below else ""
            raise SslMedError(f"data.root={root}: is this msd? It should hold {layout}{hint}")
        try:
            tree = read_json(path)
            second = "channel_names" in tree
            modalities = {int(key): str(name) for key, name in tree["channel_names" if second else "modality"].items()}
            labels, unions = read_labels(tree["labels"])
            rows = None if second and "training" not in tree else _rows(tree)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = str(error) if isinstance(error, UnreadableError) else f"{type(error).__name__} {error}"
            raise SslMedError(
                f"{path}: is no table of a Decathlon task ({what}); it needs modality, labels and training, or those of "
                "nnU-Net: channel_names and labels"
            ) from None
        if sorted(modalities) != list(range(len(modalities))) or not modalities:
            raise SslMedError(f"{path}: 'modality' must number the channels 0, 1, ..., it has {sorted(modalities)}")
        if any(not 0 <= number <= 255 for number in labels):
            raise SslMedError(f"{path}: 'labels' must be numbers 0..255, it has {sorted(labels)}")
        for image, label in rows or ():
            for name in (image, label):
                if name and (PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts):
                    raise SslMedError(f"{path}: names {name}, which lies outside of {root}; name files below it")
        ignore = IGNORE in labels.values()
        named = {number: name for number, name in sorted(labels.items()) if number and name != IGNORE}
        return cls(root, distinct([modalities[k] for k in range(len(modalities))]), named, unions, rows, ignore)

    def channels(self, chosen: Sequence[str]) -> list[int]:
        """Numbers of the chosen modalities."""
        numbers = [self._number(word, dict(enumerate(self.modalities)), key="data.modalities") for word in chosen]
        if len(set(numbers)) < len(numbers):
            raise SslMedError(f"data.modalities {list(chosen)} names a modality twice")
        return numbers or list(range(len(self.modalities)))

    def classes(self, chosen: Sequence[str]) -> dict[str, list[int]]:
        """Class name -> its labels."""
        if not chosen and self.unions:
            return {name: list(numbers) for name, numbers in self.unions.items()}
        if not chosen:
            return {name: [number] for number, name in self.labels.items()}
        return {
            word: list(self.unions[word])
            if word in self.unions
            else [self._number(part, self.labels, key="data.classes") for part in _parts(word, self.labels)]
            for word in chosen
        }

    def _number(self, word: str, names: Mapping[int, str], *, key: str) -> int:
        """Number of a name, or of a number written as text."""
        found = [number for number, name in names.items() if word in (name, str(number))]
        if not found:
            raise SslMedError(f"{key}: '{word}' is not in {Path(self.table).name}{nearest(word, list(names.values()))}")
        return found[0]

    def cases(
        self, paths: Sequence[Path], *, left_out: Callable[[Path], bool], alone: bool
    ) -> tuple[list[Listed], list[str]]:
        """The cases, by name, and notes.

        Args:
            paths: the volume files below the root.
            left_out: whether the user leaves a path out, so that its absence is no fault.
            alone: a test set by itself: cases of imagesTs with a label map count though no list names them, and a training
                part that is not there is no fault.

        Raises:
            SslMedError: a listed file is absent, a channel is missing, a case is there twice.
        """
        files = _Files(self, paths, left_out)
        notes: list[str] = []
        rows = list(self.rows) if self.rows is not None else files.unlisted(set())
        if alone:
            lost = [row for row in rows if not files.has_folder(PurePosixPath(row[0]).parts[0])]
            rows = [row for row in rows if row not in lost]
            if lost:
                notes.append(f"{len(lost)} cases of {TABLE} lie in a folder that is not there and are left out")
        found: dict[str, Listed] = {}
        for row in rows:
            case = files.case(*row)
            if case.name in found:
                raise SslMedError(f"{self.root / TABLE}: names case '{case.name}' twice; keep one")
            found[case.name] = case
        used = {path for case in found.values() for path in case.images}
        if alone:
            more = [case for row in files.unlisted(used) if (case := files.case(*row)).held_out]
            found |= {case.name: case for case in more if case.name not in found}
            used |= {path for case in more for path in case.images}
        extra = sum(len(images) for images in (files.names(folder) for folder in _IMAGES)) - len(used & files.images)
        if extra:
            notes.append(f"{extra} images of imagesTr and imagesTs are not named by {TABLE} and are left out")
        return [found[name] for name in sorted(found)], notes


class _Files:
    """The files below a task's root as the table may name them."""

    def __init__(self, task: Task, paths: Sequence[Path], left_out: Callable[[Path], bool]) -> None:
        self.task, self.left_out = task, left_out
        self.known = {spelled(path.relative_to(task.root).as_posix()): path for path in paths}
        self.images = {path for folder in _IMAGES for path in self.names(folder).values()}
        self.labels = {
            folder: {stem(path): path for path in self.names(folder).values()} for folder in ("labelstr", "labelsts")
        }

    def names(self, folder: str) -> dict[str, Path]:
        """Files directly in a folder of the root, whatever the case of its letters."""
        return {name: path for name, path in self.known.items() if name.lower().rpartition("/")[0] == folder}

    def has_folder(self, folder: str) -> bool:
        """Whether anything lies in it."""
        return any(name.startswith(f"{folder}/") for name in self.known)

    def unlisted(self, without: set[Path]) -> list[tuple[str, str | None]]:
        """(image, label) of what lies in imagesTr and imagesTs, the channels of a case as one image CASE.ENDING."""
        rows: dict[str, str | None] = {}
        for folder in _IMAGES:
            for name, path in sorted(self.names(folder).items()):
                if path in without:
                    continue
                plain = stem(Path(name))
                ending, channel = Path(name).name[len(plain) :], CHANNEL.fullmatch(plain)
                first = f"{name.rpartition('/')[0]}/{channel[1]}_0000{ending}" if channel else ""
                numbered = channel and first in self.known and int(channel[2]) < len(self.task.modalities)
                case = channel[1] if channel and numbered else plain
                label = self.labels["labelstr"].get(case) if folder == "imagestr" else None
                place = label.relative_to(self.task.root).as_posix() if label else None
                rows[f"{name.rpartition('/')[0]}/{case}{ending}"] = place
        return list(rows.items())

    def case(self, image: str, label: str | None) -> Listed:
        """The case of a row."""
        images = self._channels(image)
        mask = self._file(label) if label else None
        name = stem(Path(image))
        held_out = mask is None and PurePosixPath(image).parts[0].lower() == "imagests"
        if held_out:
            mask = self.labels["labelsts"].get(name)
        return Listed(name, images, mask, held_out and mask is not None)

    def _channels(self, image: str) -> tuple[Path, ...]:
        """The file of an image, or one file a channel."""
        name = spelled(PurePosixPath(image).as_posix())
        plain = name[: len(name) - len(Path(name).name) + len(stem(Path(name)))]
        parts = [f"{plain}_{k:04d}{name[len(plain) :]}" for k in range(len(self.task.modalities))]
        present = [self.known[part] for part in parts if part in self.known]
        if name in self.known or not present:
            return (self._file(image),)
        absent = [part for part in parts if part not in self.known]
        if absent and not self.left_out(present[0]):
            raise SslMedError(f"{present[0]}: its case has no channel {absent[0]}; complete the case or leave it out")
        return tuple(self.known.get(part, self.task.root / part) for part in parts)

    def _file(self, name: str) -> Path:
        path, table = self.task.root / PurePosixPath(name).as_posix(), self.task.root / TABLE
        found = self.known.get(spelled(PurePosixPath(name).as_posix()))
        if found is not None or self.left_out(path):
            return found or path
        if not path.is_file():
            raise AbsentError(f"{table}: names {path}, which is absent; complete the download", paths=[str(path)])
        twin = next((one for one in self.known.values() if os.path.realpath(one) == os.path.realpath(path)), None)
        if twin is not None:  # the walk gives each file once
            raise SslMedError(f"{path}: is another name of {twin}; keep one of the two in {TABLE}")
        return path


def read_labels(tree: Mapping[str, Any]) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Number -> name, and name -> numbers where a class is a region of several labels."""
    if all(str(key).isdigit() for key in tree):
        return {int(key): str(name) for key, name in tree.items()}, {}
    several = any(isinstance(value, list) for value in tree.values())
    numbers = {str(name): tuple(map(int, v if isinstance(v, list) else [v])) for name, v in tree.items()}
    if not several:
        return {value[0]: name for name, value in numbers.items()}, {}
    regions = {name: value for name, value in numbers.items() if value != (0,) and name != IGNORE}
    names = {number: str(number) for value in numbers.values() for number in value}
    names |= {value[0]: name for name, value in numbers.items() if len(value) == 1}
    return names, regions


def _rows(tree: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    rows = [row for key in ("training", "validation", "test") for row in tree.get(key, [])]
    pairs = [(row["image"], row.get("label")) if isinstance(row, Mapping) else (row, None) for row in rows]
    return tuple((str(image), str(label) if label else None) for image, label in pairs)


def _parts(word: str, labels: Mapping[int, str]) -> list[str]:
    return [word] if word in labels.values() else [part.strip() for part in word.split("+")]


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names of channels, equal ones numbered: two CT scans of a patient are both called CT, as nnU-Net asks for it."""
    return tuple(f"{name} ({names[:k].count(name) + 1})" if name in names[:k] else name for k, name in enumerate(names))
