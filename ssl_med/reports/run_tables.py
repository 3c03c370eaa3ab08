"""The tables of a run folder read back: metrics.jsonl, tables of test cases, pictures."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from ssl_med.reading import MB, UnreadableError, mismatch, parse_json, read_text
from ssl_med.reports.escape import from_cell
from ssl_med.spec import SslMedError

_JOURNAL, _TABLE, _PICTURE = (
    512 * MB,
    256 * MB,
    32 * MB,
)  # largest metrics.jsonl, table of cases and picture that is read
_PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of every PNG

Line = dict[str, float]
Case = dict[str, str | float]


def read_journal(path: Path) -> tuple[list[Line], int]:
    """Lines of metrics.jsonl, null as nan, and how many could not be read: half a line of a killed process, a damaged one.

    A run that was resumed repeats the steps after its checkpoint: the later account of a step replaces the earlier one,
    so steps never fall. Without the file there are no lines.

    Raises:
        SslMedError: the file cannot be read.
    """
    if not path.exists():
        return [], 0
    try:
        texts = read_text(path, limit=_JOURNAL, damaged=True).splitlines()
    except UnreadableError as error:
        raise SslMedError(f"{path}: {error}; remove it, or choose another folder") from None
    lines: list[Line] = []
    lost = 0
    for text in filter(str.strip, texts):
        try:
            line = _line(text)
        except UnreadableError:
            lost += 1
            continue
        if lines and line["step"] < lines[-1]["step"]:
            lines = [old for old in lines if old["step"] < line["step"]]
        lines.append(line)
    return lines, lost


def read_table(path: Path) -> list[Case]:
    """A table of test cases, numbers as float, an empty cell as nan; [] without the file.

    Raises:
        SslMedError: the table cannot be read, names no cases, or a row has more or fewer cells than the head.
    """
    if not path.exists():
        return []
    remedy = "run the same command again in another folder"
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, limit=_TABLE), newline="")))
    except (UnreadableError, csv.Error) as error:
        raise SslMedError(f"{path}: {error}; {remedy}") from None
    head = rows[0] if rows else []
    if head.count("case") != 1 or len(set(head)) < len(head):
        raise SslMedError(f"{path}: its head must name a column 'case', and no column twice; {remedy}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise SslMedError(f"{path}: row {number} has {len(row)} cells and the head {len(head)}; {remedy}")
    return [
        {key: from_cell(text) if key == "case" else _cell(text) for key, text in zip(head, row, strict=True)}
        for row in rows[1:]
    ]


def pictures(folder: Path) -> list[Path]:
    """PNG files of a folder, by name; a link that leads out of it, or a file of another kind, is none of the run's."""
    return [
        path for path in sorted(folder.glob("*.png")) if path.resolve().parent == folder.resolve() and _is_png(path)
    ]


def number(value: Any) -> float:
    """A number of a summary or a journal; null is nan."""
    return math.nan if value is None else float(value)


def _line(text: str) -> Line:
    raw = parse_json(text)
    if wrong := mismatch(dict[str, float | None], raw, "line"):
        raise UnreadableError(wrong)
    line = {key: number(value) for key, value in raw.items()}
    if not math.isfinite(line.get("step", math.nan)):
        raise UnreadableError("has no step")
    return line


def _cell(text: str) -> str | float:
    if not text:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return text


def _is_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_PNG)) == _PNG and path.stat().st_size <= _PICTURE
    except OSError:
        return False
