"""Tables that a user gives to an analysis."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ssl_med.ledger import salted
from ssl_med.reading import UnreadableError, read_text
from ssl_med.spec import SslMedError


def read_columns(file: str, columns: Sequence[str], *, key: str) -> list[tuple[int, tuple[str, ...]]]:
    """Line number and entries of each row of a CSV table, without blanks around them; rows without any entry are left out.

    Args:
        file: the table.
        columns: that are read; others may be there.
        key: setting that names the file.

    Raises:
        SslMedError: no such table or column.
    """
    needs = f"the columns {' and '.join(columns)}"
    try:
        reader = csv.DictReader(io.StringIO(read_text(Path(file)), newline=""))
        names = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        rows = [(reader.line_num, tuple((row.get(name) or "").strip() for name in columns)) for row in reader]
    except (UnreadableError, OSError, csv.Error) as error:
        raise SslMedError(f"{key}: {file}: {error}; give a CSV table with {needs}") from None
    if missing := [name for name in columns if name not in names]:
        raise SslMedError(f"{key}: {file}: column '{missing[0]}' is missing; it needs {needs}")
    return [(line, entries) for line, entries in rows if any(entries)]


def content_name(file: str) -> str:
    """What a table says, whatever its name, so that a run with another table is another run."""
    return salted(Path(file).read_bytes()) if file and Path(file).is_file() else file
