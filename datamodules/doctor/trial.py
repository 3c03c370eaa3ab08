"""Cases read as training reads them: the last word on what can be used is that of the code that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.core.base import MedicalData
from datamodules.core.cases import case_files
from datamodules.core.quarantine import Quarantine
from datamodules.doctor.findings import Finding
from datamodules.doctor.pool import spread
from datamodules.doctor.source import Progress, Source
from ssl_med.spec import SslMedError


def read_cases(source: Source, findings: Sequence[Finding], *, workers: int, progress: Progress) -> list[Finding]:
    """One sample of each usable case without a finding of severity error, cut by the loader's own code."""
    data, faulty = source.data, source.left_out(findings)
    cases = [
        case
        for case in source.cases
        if data.usable(case)
        and all(faulty.find(path) is None for path in (case.name, *case_files(case, masks=data.labelled)))
    ]
    if data.container():  # rows of one file, which was decoded already
        cases = list({getattr(case, "part", ""): case for case in cases}.values())
    found = []
    for done, ((_, case), said) in enumerate(spread(read_case, ((data, case) for case in cases), workers=workers), 1):
        progress("reading as training does", done, len(cases))
        if said != "":
            reason = "reading it ended the process: out of memory?" if said is None else said
            files = case_files(case) or [data.container()]
            path = named_file(reason, source) or source.relative(files[0])
            if path in source.tables or path == ".":
                path = source.relative(files[0])
            found.append(Finding("unusable", path, local=reason))
    return found


def read_case(data: MedicalData, case: Any) -> str:
    """What training would say when it reads a case; '' when it can."""
    try:
        samples: Any = data.dataset([case], part="test" if data.labelled else "train")
        if len(samples):
            samples[0, 0]
    except SslMedError as error:
        return str(error)
    except Exception as error:  # a traceback in training is no less of an obstacle
        return f"{type(error).__name__}: {error}"
    return ""


def divide(data: MedicalData, cases: Sequence[Any], left_out: Quarantine) -> str:
    """What training would say of the split and the label budget without what is left out; '' when it can be made."""
    before = data.config, data.quarantine, list(data.notes), data.parts
    data.config = replace(data.config, store="", quarantine_budget=1.0)
    data.quarantine = left_out
    try:
        data.divide(cases)
    except SslMedError as error:
        return str(error)
    finally:
        data.config, data.quarantine, data.notes, data.parts = before
    return ""


def named_file(text: str, source: Source) -> str:
    """The file or folder that a message begins with, relative to the root; '' when it names none."""
    front = text
    while ": " in front:  # a name may hold a colon
        front = front.rpartition(": ")[0]
        place = Path(front)
        try:
            if place.is_relative_to(source.root) and (place.exists() or place.is_symlink()):
                return place.relative_to(source.root).as_posix()
        except (OSError, ValueError):  # too long for a name
            continue
    return ""
