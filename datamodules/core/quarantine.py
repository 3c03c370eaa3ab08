"""Files that the user leaves out: written by `ssl-med check`, honoured through `data.quarantine=FILE`.

One line a file: its path relative to the root, a tab, the reason. A folder means all files in it. Lines that begin with
'#' count for nothing. A path with a character that does not print, or a leading '#' or '"', is written as a JSON string.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from datamodules.core.cases import case_files
from ssl_med.reading import UnreadableError, parse_json, read_text
from ssl_med.spec import SslMedError


class Entry(NamedTuple):
    """A path relative to the root, '/' between folders, and why it is left out: "kind: what was seen"."""

    path: str
    reason: str


class Quarantine:
    """What to leave out below one root; empty without a file."""

    def __init__(self, entries: Iterable[Entry] = (), *, root: Path = Path()) -> None:
        self.root = root
        self.reasons = {entry.path: entry.reason for entry in entries}
        self.skipped: set[str] = set()  # entries that `skips` was asked about and found

    @classmethod
    def read(cls, file: str, *, root: Path) -> Quarantine:
        """`file` "" leaves nothing out.

        Raises:
            SslMedError: the file cannot be read, or a line names no path relative to the root.
        """
        if not file:
            return cls(root=root)
        try:
            lines = read_text(Path(file)).split("\n")  # only this ends a line: a name may hold other breaks
        except UnreadableError as error:
            raise SslMedError(f"data.quarantine={file}: {error}; make one with ssl-med check") from None
        entries = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            path, _, reason = line.partition("\t")
            try:
                path = str(parse_json(path)) if path.startswith('"') else path.strip()
            except ValueError:
                path = ""
            if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise SslMedError(f"data.quarantine={file}: line {number} must name a path relative to data.root")
            entries.append(Entry(PurePosixPath(path).as_posix(), reason.strip() or "listed"))
        return cls(entries, root=root)

    def find(self, path: str) -> str | None:
        """The entry that leaves a path out (below the root, or relative to it), or None."""
        if not self.reasons:
            return None
        text, top = path.replace(os.sep, "/"), f"{self.root.as_posix().rstrip('/')}/"
        text = text.removeprefix(top).removeprefix("./")
        while text:
            if text in self.reasons:
                return text
            text = text.rpartition("/")[0]
        return None

    def skips(self, path: str) -> bool:
        """Whether a path is left out; the entry is remembered, since what an index skips never becomes a case."""
        entry = self.find(path)
        if entry is not None:
            self.skipped.add(entry)
        return entry is not None

    def count(self, entries: Iterable[str]) -> str:
        """'3 truncated, 2 nan' for the given entries."""
        kinds = Counter(self.reasons[entry].partition(":")[0].strip() for entry in entries)
        return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def without_quarantined(
    cases: Sequence[Any], quarantine: Quarantine, *, masks: bool, file: str, budget: float
) -> tuple[list[Any], str]:
    """The cases without those that need a file in quarantine, and a note that counts them by reason.

    Args:
        cases: what the index found.
        quarantine: what is left out.
        masks: whether label maps are needed too.
        file: data.quarantine, for messages.
        budget: largest share of the cases that may be left out.

    Raises:
        SslMedError: more than that would be left out.
    """
    kept, found = [], []
    for case in cases:
        entries = [quarantine.find(path) for path in (case.name, *case_files(case, masks=masks))]
        entry = next((entry for entry in entries if entry is not None), None)
        if entry is None:
            kept.append(case)
        else:
            found.append(entry)
    found += sorted(quarantine.skipped.difference(found))  # what the index itself had to skip is no case any more
    total = len(kept) + len(found)
    if len(found) > budget * total:
        raise SslMedError(
            f"data.quarantine={file}: would leave out {len(found)} of {total} cases, more than "
            f"data.quarantine_budget={budget:g}; repair the files or raise the budget"
        )
    listed = quarantine.count(found) or "none"
    return kept, f"quarantine: {len(found)} of {total} cases are left out ({Path(file).name}: {listed})"


def quarantine_line(entry: Entry) -> str:
    """One line of the file."""
    path = entry.path
    if not path.isprintable() or path.startswith(("#", '"')) or path != path.strip():
        path = json.dumps(path)  # also the bytes of names that are no UTF-8
    reason = " ".join(entry.reason.split()).encode(errors="backslashreplace").decode()
    return f"{path}\t{reason}"
