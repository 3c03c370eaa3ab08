"""A data set under examination: its cases, files and what was read of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.core.base import MedicalData
from datamodules.core.cases import case_files
from datamodules.doctor.files import Found
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

    def relative(self, file: str) -> str:
        """A path as the cases name it -> relative to the root."""
        path = Path(file)
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


Place = tuple[Source, str]  # an image: its data set, and its path there
