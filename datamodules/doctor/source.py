"""A data set under examination: its cases, files and what was read of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.core.base import MedicalData
from datamodules.core.cases import case_files
from datamodules.core.quarantine import Entry, Quarantine
from datamodules.doctor.files import Found
from datamodules.doctor.findings import Finding, quarantine_of
from datamodules.doctor.inspect import Inspection
from ssl_med.ledger import salted

Progress = Callable[[str, int, int], None]  # what is done, how many of how many


@dataclass
class Source:
    """A data set as it is found: files, what they are, and whose."""

    name: str
    root: Path
    data: MedicalData
    files: list[Found]
    tables: list[str]
    inspections: dict[str, Inspection] = field(default_factory=dict)
    cases: Sequence[Any] = ()
    case_of: dict[str, Any] = field(default_factory=dict)  # file -> the first case that names it
    named: dict[str, Any] = field(default_factory=dict)  # name -> case
    listed: Quarantine = field(default_factory=Quarantine)  # what data.quarantine leaves out before anything is read
    usable: int = 0  # cases that a run of the asked use can take
    total: int = 0  # cases that there would be without a fault

    @property
    def use(self) -> str:
        """What the cases are looked at for."""
        return "finetune" if self.data.labelled else "pretrain"

    def subject(self, path: str) -> str:
        """Whose image a file is; a file without a case belongs to the case that its folder is named like, or to itself."""
        case = self.case_of.get(path)
        if case is None:
            folders = Path(path).parts[:-1]
            case = next((self.named[folder] for folder in folders if folder in self.named), None)
        return case.subject if case is not None else path

    def public_id(self, path: str) -> str:
        """What a report may call a file: the case that the data set published, else a salted hash."""
        case = self.case_of.get(path)
        if case is None:
            base = path.rpartition("/")[2]
            for known in (base, base.partition(".")[0]):
                if self.data.public_name(known) == known:
                    return known
            return "the folder" if path == "." else f"file-{salted(path)[:12]}"
        name = self.data.public_name(case.name)
        files = case_files(case)
        if len(files) < 2:
            return name
        mask = self.inspections[path].mask if path in self.inspections else False
        number = [self.relative(file) for file in files].index(path) + 1
        return f"{name} ({'mask' if mask else f'image {number}'})"

    def left_out(self, findings: Iterable[Finding]) -> Quarantine:
        """What a run leaves out that obeys data.quarantine and the quarantine that these findings make."""
        listed = [Entry(path, reason) for path, reason in self.listed.reasons.items()]
        return Quarantine([*listed, *quarantine_of(findings)], root=self.root)

    def shown(self, text: str, path: str) -> str:
        """A message fit to be shared: files below the root by public id, names of this path's folders too."""
        known = {*self.inspections, *self.case_of, *self.tables, path}
        front, *rest = text.split(f"{self.root}{os.sep}")
        for part in rest:
            found = max((name for name in known if part.startswith(name)), key=len, default="")
            name = found or re.split(r"[,;:\s]", part)[0]
            front += self.public_id(name) + part[len(name) :]
        text = front.replace(str(self.root), "data.root")
        for name in sorted({part for word in Path(path).parts for part in (word, word.partition(".")[0])}, key=len)[
            ::-1
        ]:
            if len(name) > 2 and self.data.public_name(name) != name:
                text = re.sub(rf"(?<![\w]){re.escape(name)}(?![\w])", self.public_id(path), text)
        return text

    def relative(self, file: str) -> str:
        """A path as the cases name it -> relative to the root."""
        path = Path(file)
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


Place = tuple[Source, str]  # an image: its data set, and its path there
