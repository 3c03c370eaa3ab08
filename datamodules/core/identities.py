"""Who takes part: the names under which subjects and files leave a data module.

Three kinds of names. *Published* names, which the data set's authors gave, may be shown. All *other* names may be a patient's,
so what is shown of them is a salted hash. *Keys* of the leakage ledger tell whether two runs saw the same person: they are
salted before they are written, and are equal only where it is sure that the person is the same.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.core.cases import case_files, has_uid
from datamodules.core.readers import voxel_file
from ssl_med.ledger import salted

HASHED = r"(image|case)-[0-9a-f]{12,}"  # what a family makes that hashes names itself
UID = r"[0-2](\.(0|[1-9]\d*)){5,}|2\.25\.\d{20,}"  # DICOM PS3.5, 9: one of a kind in the world

Parts = Mapping[str, Sequence[Any]]


def public_name(name: str, published: str) -> str:
    """The name where the regular expression `published` matches all of it, else a salted hash of it."""
    return name if re.fullmatch(published, name) else f"case-{salted(name)[:12]}"


def renamed(case: Any, name: str) -> Any:
    """The case under another name; the same object where it has that name already."""
    return case if name == case.name else dataclasses.replace(case, name=name)


def ledger_keys(parts: Parts, *, data: str, root: str, published: str) -> dict[str, list[str]]:
    """Who takes part in which part, as `ssl_med.ledger` compares it between data sets.

    A DICOM uid stands for itself; a case of another name that knows its series' uid has both keys. A published case
    belongs to its data set, wherever that lies; a case of anybody's own to this folder, since two hospitals may both have
    a patient "12".

    Args:
        parts: cases of each part.
        data: name of the data set.
        root: its folder.
        published: regular expression of the names that its authors published.
    """
    here = Path(root).resolve()

    def key(case: Any) -> str:
        if re.fullmatch(UID, case.subject):
            return f"uid:{case.subject}"
        # names that a family hashed say nothing of the data set: they are of this folder
        if published != HASHED and re.fullmatch(published, case.name):
            return f"{data}:{case.subject}"
        return f"{data}:{here}:{case.subject}"

    return {
        part: sorted({key(case) for case in cases} | {f"uid:{case.uid}" for case in cases if has_uid(case)})
        for part, cases in parts.items()
        if cases
    }


def shared_files(cases: Iterable[Any]) -> frozenset[str]:
    """Files that hold more than one subject: their bytes tell nobody apart, so the ledger leaves them out."""
    owners: dict[str, set[str]] = {}
    for case in cases:
        for path in case_files(case):
            owners.setdefault(path, set()).add(case.subject)
    return frozenset(path for path, subjects in owners.items() if len(subjects) > 1)


def image_files(parts: Parts, *, shared: frozenset[str]) -> dict[str, list[str]]:
    """The files that hold the images of each part, without those in `shared`."""
    return {
        part: sorted(
            {str(voxel_file(path)) for case in cases for path in case_files(case, masks=False) if path not in shared}
        )
        for part, cases in parts.items()
        if cases
    }
