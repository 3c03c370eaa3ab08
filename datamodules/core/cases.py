"""What a family finds below its root: cases, the files they name, and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from ssl_med.spec import SslMedError


class AbsentError(SslMedError):
    """A table names files that are not there; `paths` are those that data.quarantine may leave out."""

    def __init__(self, message: str, *, paths: Sequence[str]) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


class Case(Protocol):
    """One scan, image or candidate list: a public name and the subject that it belongs to."""

    name: str
    subject: str


def has_uid(case: Any) -> bool:
    """Whether a case knows the DICOM uid of its series."""
    return bool(getattr(case, "uid", ""))


def case_files(case: Any, *, masks: bool = True) -> list[str]:
    """The files that a case names: its fields that are called path, image, mask or file, alone or in the plural."""
    found: list[str] = []
    for field in dataclasses.fields(case):
        words = field.name.removesuffix("s").split("_")
        if {"path", "image", "file", "mask"}.isdisjoint(words) or ("mask" in words and not masks):
            continue
        value = getattr(case, field.name)
        found += [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, str) and item]
    return found


def read_table(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Rows of a CSV file as dictionaries.

    Raises:
        SslMedError: missing file or column, a row that breaks off, or no text at all; names the file and the place.
    """
    import csv

    if not path.is_file():
        raise SslMedError(f"{path}: no such file; it is part of the data set")
    columns, rows = tuple(columns), []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise SslMedError(
                    f"{path}: column '{missing[0]}' is missing; it has {', '.join(reader.fieldnames or [])}"
                )
            for row in reader:
                if any(row[column] is None for column in columns):
                    raise SslMedError(f"{path}: line {reader.line_num} is cut off; download it again")
                rows.append(row)
        except (UnicodeDecodeError, csv.Error):
            raise SslMedError(f"{path}: is no table of text in UTF-8; download it again") from None
    return rows
