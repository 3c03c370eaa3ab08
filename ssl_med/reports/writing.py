"""The run folder as files, written crash-safe during a run."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_med.files import explaining, write_text
from ssl_med.reports.escape import cell
from ssl_med.reports.run_folder import CASES, METRICS, SUMMARY
from ssl_med.reports.summary import FORMAT


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON; a reader sees the old file or the new, never half; nan and infinity become null."""
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json of a run."""
    write_json(folder / SUMMARY, {"format": FORMAT, **summary})


def append_metrics(folder: Path, step: int, values: Mapping[str, float]) -> None:
    """Adds one line {"step": step, ...values} to metrics.jsonl; a value that is not finite becomes null."""
    line = json.dumps(_plain({"step": step, **values}), allow_nan=False) + "\n"
    with explaining(folder / METRICS), (folder / METRICS).open("ab+") as file:
        # a killed process may have left half a line: keep it from swallowing this one
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())


def write_cases(folder: Path, rows: Sequence[Mapping[str, Any]], *, name: str = CASES, first: str = "case") -> None:
    """Writes test_cases.csv or the table `name`: a row per test case, `first` first, then every key in order of appearance."""
    columns = list(dict.fromkeys([first, *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: cell(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows
    )
    write_text(folder / name, text.getvalue())


def cut_metrics(folder: Path, size: int) -> None:
    """Takes back the lines after the first `size` bytes, which a run that is resumed from its checkpoint writes again."""
    path = folder / METRICS
    if path.is_file() and path.stat().st_size > size:
        with explaining(path):
            os.truncate(path, size)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable) and getattr(value, "shape", None) != ():
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy or torch
        return _plain(value.item())
    raise TypeError(f"{type(value).__name__} has no place in a run folder")
