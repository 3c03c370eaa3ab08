"""Tables and lists against the files on disk, without knowing the family: a column is one of ids when files bear its values."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.core.dicom import ENDINGS as DICOM
from datamodules.doctor.files import IMAGES, VOLUMES
from datamodules.doctor.findings import Finding
from ssl_med.reading import parse_json, read_text

_LARGEST = 500_000_000  # bytes of a table
_ENDINGS = (*VOLUMES, *IMAGES, *DICOM, ".npy", ".raw", ".zraw")
_PART = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass
class Listed:
    """A list of ids: the table (or part of a table) that holds it, and the parts of a split that its name mentions."""

    table: str
    where: str
    ids: list[str]
    files: list[str] = field(default_factory=list)  # those of the ids that are on disk

    @property
    def parts(self) -> frozenset[str]:
        """{'train', 'val'} for train_val_list.txt."""
        words = re.split(r"[^a-z]+", f"{PurePosixPath(self.table).stem} {self.where}".lower())
        return frozenset(_PART[word] for word in words if word in _PART)


def check_tables(root: Path, tables: Iterable[str], files: Iterable[str]) -> tuple[list[Finding], list[Listed]]:
    """Compares tables with images and masks, all relative to the root; returns findings and the lists of files it met."""
    files = list(files)
    known = _names(files)
    findings, lists = [], []
    for table in tables:
        try:
            lists += [one for one in _lists(root / table, table, known) if _is_of_files(one, known, len(files))]
        except (OSError, ValueError, csv.Error, RecursionError) as error:
            findings.append(Finding("unread_table", table, local=str(error)))
    absent: dict[str, Finding] = {}
    for one in lists:
        for name in dict.fromkeys(one.ids):
            if name in known:
                continue
            spelled = PurePosixPath(name).as_posix()
            kind = "absent" if name.lower().endswith(_ENDINGS) else "unknown_id"
            absent.setdefault(spelled, Finding(kind, spelled, local=f"named in {one.table}"))
    findings += absent.values()
    named = {file for one in lists for file in one.files}
    if len(named) * 2 > len(files):
        findings += [Finding("unlisted", file) for file in files if file not in named]
    return findings, lists


def _names(files: Iterable[str]) -> dict[str, str]:
    """Every way in which a table may spell a file -> the file."""
    known: dict[str, str] = {}
    for file in files:
        name = file.rpartition("/")[2]
        ending = max((e for e in _ENDINGS if name.lower().endswith(e)), key=len, default="")
        for spelled in (file, f"./{file}", name, name[: len(name) - len(ending)]):
            known.setdefault(spelled, file)
    return known


def _is_of_files(one: Listed, known: Mapping[str, str], count: int) -> bool:
    """Half of the ids are files, or half of the files are among the ids."""
    distinct = set(one.ids)
    one.files = [known[name] for name in distinct if name in known]
    return bool(one.files) and 2 * len(set(one.files)) >= min(len(distinct), count)


def _lists(path: Path, table: str, known: Mapping[str, str]) -> Iterator[Listed]:
    if path.stat().st_size > _LARGEST:
        return
    text = read_text(path, limit=_LARGEST)
    if path.suffix.lower() == ".json":
        yield from _json_lists(parse_json(text), table, "")
        return
    lines = [line for line in text.splitlines() if line.strip()]
    if path.suffix.lower() == ".txt":
        # lists such as PCRL's have labels behind the name, and a name may hold blanks
        yield Listed(table, "", [line.strip() if line.strip() in known else line.split()[0] for line in lines])
        return
    rows = list(csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    if len(rows) < 2:
        return
    columns = []
    for number, column in enumerate(rows[0]):
        values = [row[number].strip() for row in rows[1:] if len(row) > number and row[number].strip()]
        # a number is no name of a file: counts and measures stay out
        if values and not all(re.fullmatch(r"[-+\d.eE]{1,24}", value) for value in values[:100]):
            columns.append(Listed(table, column, values))
    yield from columns


def _json_lists(tree: Any, table: str, where: str) -> Iterator[Listed]:
    """One list of file names for each key of the top that holds some."""
    for key, value in tree.items() if isinstance(tree, dict) else [("", tree)]:
        names = [text for text in _strings(value) if text.lower().endswith(_ENDINGS)]
        if names:
            yield Listed(table, f"{where} {key}".strip(), names)


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _strings(value)


def straddling(lists: Iterable[Listed], subjects: Mapping[str, str]) -> Iterator[Finding]:
    """Subjects that two lists claim whose names speak of different parts; `subjects`: file -> whose it is."""
    of_list = [(one, {subjects.get(file, file) for file in one.files}) for one in lists if one.parts]
    for k, (first, mine) in enumerate(of_list):
        for second, theirs in of_list[k + 1 :]:
            if first.parts & second.parts:
                continue
            places = " and ".join(" or ".join(sorted(one.parts)) for one in (first, second))
            for subject in sorted(mine & theirs):
                yield Finding("straddling", second.table, f"in {places}", f"subject {subject}, also in {first.table}")
