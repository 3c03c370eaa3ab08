"""What a family finds below its root: cases, the files they name, and tables."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from ssl_med.reading import MB, UnreadableError, read_text
from ssl_med.spec import SslMedError

_LARGEST = 1000 * MB  # bytes of a table; LUNA16's candidates have some 70 MB


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


def read_table(path: Path, columns: Collection[str], *, delimiter: str = ",") -> list[dict[str, str]]:
    """Rows of a CSV file as dictionaries, without blanks around names and values.

    Raises:
        SslMedError: missing file or column, a row that breaks off, or no text at all; names the file and the place.
    """
    if not path.is_file():
        raise SslMedError(f"{path}: no such file; it is part of the data set")
    columns, rows = tuple(columns), []
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, limit=_LARGEST), newline=""), delimiter=delimiter)
        names = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = names
        missing = [column for column in columns if column not in names]
        if missing:
            has = "".join(c if c.isprintable() else "?" for c in ", ".join(names))
            raise SslMedError(f"{path}: column '{missing[0]}' is missing; it has {has[:300]}")
        for row in reader:
            if any(row[column] is None for column in columns):
                raise SslMedError(f"{path}: line {reader.line_num} is cut off; download it again")
            rows.append({key: value.strip() for key, value in row.items() if isinstance(value, str)})
    except UnreadableError as error:
        raise SslMedError(f"{path}: is no table that can be read: it {error}") from None
    except csv.Error as error:
        raise SslMedError(f"{path}: is no table of comma-separated values ({error}); download it again") from None
    return rows


def plain_number(text: str) -> str:
    """A number without an empty fraction: programs write the label 1 as 1.0 where a column has blanks."""
    return re.sub(r"(?<=\d)\.0+$", "", text.strip())
