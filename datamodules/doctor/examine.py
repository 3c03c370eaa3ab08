"""The whole examination of a data set: every file, how they belong together, copies, tables and splits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datamodules.core.base import MedicalData
from datamodules.core.cases import AbsentError, case_files
from datamodules.core.geometry import change_between, shapes_differ
from datamodules.core.quarantine import Entry, Quarantine
from datamodules.core.readers import PLACEHOLDER, assumed_headers
from datamodules.core.scans import ScanData
from datamodules.doctor.copies import find_copies
from datamodules.doctor.files import Found, is_image, listing
from datamodules.doctor.findings import KINDS, Finding, file_of, quarantine_of
from datamodules.doctor.inspect import Inspection, inspect
from datamodules.doctor.pool import spread
from datamodules.doctor.source import Progress, Source
from datamodules.doctor.tables import check_tables, straddling
from datamodules.doctor.trial import divide, named_file, read_cases
from datamodules.formats.grids import Header
from ssl_med.spec import SslMedError

Use = Literal["auto", "pretrain", "finetune"]
OF_FILES = (
    "unreadable", "truncated", "dimensions", "nan", "constant", "geometry", "labels", "mask_shape", "mask_geometry", "channels",
    "duplicate", "near",
)  # fmt: skip


@dataclass(frozen=True)
class Checkup:
    """The outcome: findings of the data set, sorted by kind and path, and what was read."""

    source: Source
    others: tuple[Source, ...]
    findings: tuple[Finding, ...]
    seconds: float

    def of_kind(self, kind: str) -> list[Finding]:
        """Findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    @property
    def clean(self) -> bool:
        """No finding of severity error."""
        return all(finding.severity != "error" for finding in self.findings)

    def quarantine(self) -> list[Entry]:
        """Files with errors that leaving them out would cure, one entry each."""
        return quarantine_of(self.findings)


def examine(
    data_class: type[MedicalData],
    config: Any,
    *,
    use: Use = "auto",
    others: Sequence[tuple[str, type[MedicalData], Any]] = (),
    workers: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Checkup:
    """Reads everything once and compares it.

    Args:
        data_class: the family.
        config: its config with `root`.
        use: what the data are for. pretrain needs no labels; finetune needs them; auto: finetune where there are labels.
        others: name, family and config of data sets to look for copies in; their own faults are not reported.
        workers: processes.
        progress: called once for each file.

    Raises:
        SslMedError: a root is missing or holds no image.
    """
    start = time.monotonic()
    source = _open(data_class, config, config.name, use)
    further = [_open(family, settings, name, "auto") for name, family, settings in others]
    for one in (source, *further):
        _inspect(one, one.files, workers=workers, progress=progress)
    named = [item.path for item in source.files if item.kind != "arrays"]
    findings, lists = check_tables(source.root, source.tables, named)
    findings = [finding for finding in findings if source.listed.find(finding.path) is None]
    findings += _find_cases(source, [finding.path for finding in findings if finding.kind == "absent"], use=use)
    for one in further:
        _find_cases(one, [], use="auto")
    for one in (source, *further):
        _inspect(one, _missed(one), workers=workers, progress=progress)
    findings += straddling(lists, {path: source.subject(path) for path in named})
    findings += _check_cases(source)
    findings += [finding for result in source.inspections.values() for finding in result.findings]
    findings = _of_this_use(source, findings)
    findings += read_cases(source, findings, workers=workers, progress=progress)
    findings += _split(source, findings, use=use)
    # after the split: a copy says in which parts its two files are
    findings += _of_this_use(source, find_copies(source, further, _parts(source), workers=workers, progress=progress))
    order = list(KINDS)
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.path, finding.other))
    _count(source, findings)
    return Checkup(source, tuple(further), tuple(findings), time.monotonic() - start)


def _open(data_class: type[MedicalData], config: Any, name: str, use: Use) -> Source:
    if not config.root or not Path(config.root).is_dir():
        raise SslMedError(f"data.root={config.root}: no such folder; point it at the data set, data.root=DIR")
    data = _module(data_class, config, use)
    root = Path(data.config.root)
    data.quarantine = Quarantine.read(data.config.quarantine, root=root)
    files, tables = listing(root, flat=data.spec.spatial_dims == 2)
    if not files:
        raise SslMedError(f"data.root={root}: holds no image; is this {name}? It should hold {data.layout}")
    read = [item for item in files if data.quarantine.find(item.path) is None]
    return Source(name, root, data, read, tables, listed=data.quarantine)


def _module(data_class: type[MedicalData], config: Any, use: Use) -> MedicalData:
    """The data as the use takes them; auto: with labels where the settings say which."""
    if use == "pretrain":
        return data_class(config, labelled=False, batch_size=1)
    try:
        data = data_class(config, labelled=True, batch_size=1)
    except SslMedError:
        if use == "finetune":
            raise
        return data_class(config, labelled=False, batch_size=1)
    if data.spec.target != "none":
        return data
    if use == "finetune":
        raise SslMedError(f"data={config.name} has no labels to fine-tune on; say use=pretrain")
    return data_class(config, labelled=False, batch_size=1)


def _inspect(source: Source, items: Sequence[Found], *, workers: int, progress: Progress) -> None:
    tasks = ((str(source.root), item) for item in items)
    for done, ((_, item), results) in enumerate(spread(inspect, tasks, workers=workers), 1):
        if results is None:
            results = [Inspection(item.path, item.mask)]
            results[0].add("unreadable", "reading it ended the process: out of memory?")
        for result in results:
            source.inspections[result.path] = result
        progress(f"reading {source.name}", done, len(items))


def _find_cases(source: Source, absent: Iterable[str], *, use: Use) -> list[Finding]:
    """The family's own index, with the files that it refuses left out one by one; findings for what it refused.

    With use=auto a folder without a single labelled case is one for pretraining.
    """
    left_out = [*source.listed.reasons, *absent]
    findings = _index(source, left_out)
    data = source.data
    if (
        use == "auto"
        and data.labelled
        and not any(
            data.usable(case) and all(data.quarantine.find(file) is None for file in case_files(case))
            for case in source.cases
        )
    ):
        source.data = _module(type(source.data), source.data.config, "pretrain")
        findings = _index(source, left_out)
    source.named = {case.name: case for case in source.cases}
    for case in source.cases:
        for file in case_files(case):
            source.case_of.setdefault(source.relative(file), case)
    if not source.cases and not findings:
        findings.append(Finding("empty", ".", local=f"{source.root}: should hold {source.data.layout}"))
    return findings


def _index(source: Source, left_out: Iterable[str]) -> list[Finding]:
    findings: list[Finding] = []
    headers: dict[str, Header] = {path: result.header or PLACEHOLDER for path, result in source.inspections.items()}
    faulty = [path for path, result in source.inspections.items() if not result.sound]
    entries = {path: Entry(path, "left out") for path in (*left_out, *faulty)}
    source.cases = ()
    while True:
        headers |= {path: PLACEHOLDER for path in entries if path not in headers}
        source.data.quarantine, source.data.notes = Quarantine(entries.values(), root=source.root), []
        try:
            with assumed_headers(headers, root=source.root):
                source.cases = source.data.index(source.root)
            return findings
        except AbsentError as error:
            new = {path: Entry(path, "absent") for path in map(source.relative, error.paths) if path not in entries}
            if not new:
                return [*findings, Finding("refused", ".", local=str(error))]
            table = str(error).partition(": ")[0]
            findings += [Finding("absent", path, local=f"named in {table}") for path in new]
            entries |= new
        except SslMedError as error:
            path = named_file(str(error), source)
            if path in source.tables or path in ("", ".") or path in entries:
                kind = "table" if path in source.tables else "refused"
                return [*findings, Finding(kind, path or ".", local=str(error))]
            findings.append(Finding("refused", path, local=str(error)))
            entries[path] = Entry(path, "refused")


def _of_this_use(source: Source, findings: Iterable[Finding]) -> list[Finding]:
    """Faults of files that no case of the use needs are no errors of it: training does not read them."""
    data = source.data
    needed = {source.relative(file) for case in source.cases for file in case_files(case, masks=data.labelled)}
    asked = needed | data.quarantine.skipped
    container = source.relative(data.container()) if data.container() else ""
    found = []
    for finding in findings:
        path, about = file_of(finding.path), KINDS[finding.kind]
        if finding.kind == "absent" and (path not in asked or getattr(data.config, "allow_missing", False)):
            finding = replace(finding, kind="unknown_id")
        elif finding.kind in OF_FILES and path not in asked and path != container:
            finding = replace(finding, kind="unused", detail="; ".join(filter(None, (about.title, finding.detail))))
        found.append(finding)
    return found


def _split(source: Source, findings: list[Finding], *, use: Use) -> list[Finding]:
    """What training says of parts and label budget; lists that contradict each other count where they are used."""
    said = ""
    if source.cases:
        said = divide(source.data, source.cases, source.left_out(findings))
    for number, finding in enumerate(findings):
        if finding.kind == "straddling" and not said:
            findings[number] = replace(finding, kind="straddling_unused")
    if not said or any(finding.kind == "straddling" for finding in findings):
        return []
    if use == "auto" and source.data.labelled:
        images = _module(type(source.data), source.data.config, "pretrain")
        images.quarantine = source.left_out(findings)
        try:
            with assumed_headers(dict.fromkeys(images.quarantine.reasons, PLACEHOLDER), root=source.root):
                cases = images.index(source.root)
            if not divide(images, cases, images.quarantine):
                return [Finding("split_labelled", ".", local=said)]
        except SslMedError:
            pass
    return [Finding("split", ".", local=said)]


def _count(source: Source, findings: Sequence[Finding]) -> None:
    """How many of how many cases a run can take, with the files at fault left out."""
    data = source.data
    faults = source.left_out(findings)
    paths = [(case.name, *case_files(case, masks=data.labelled)) for case in source.cases if data.usable(case)]
    source.usable = sum(all(faults.find(path) is None for path in one) for one in paths)
    container = data.container()
    if container and faults.find(source.relative(container)) is not None:
        source.usable = 0
    known = set(source.case_of) | {Path(path).parent.as_posix() for path in source.case_of}
    lost = {f.path for f in findings if f.kind in ("refused", "absent") and f.path != "." and f.path not in known}
    source.total = len(source.cases) + len(lost)


def _missed(source: Source) -> list[Found]:
    """What the cases name that was not looked at, or not as what it is: only the family knows its masks for sure."""
    missed = []
    for case in source.cases:
        images = set(case_files(case, masks=False))
        for file in case_files(case):
            path, mask = source.relative(file), file not in images
            known = source.inspections.get(path)
            if source.listed.find(path) is not None:
                continue
            if known is None and is_image(path, root=source.root):  # a table of outlines is the family's to read
                missed.append(Found(path, "volume", mask))
            elif known is not None and known.mask != mask:
                kind = "volume" if source.data.spec.spatial_dims == 3 else "image"
                missed.append(Found(path, kind, mask))
    return missed


def _check_cases(source: Source) -> list[Finding]:
    """Masks on their images, channels on each other, labels in the family's range; several channels in one file."""
    findings = []
    known = frozenset(getattr(source.data, "known_labels", ()))
    for case in source.cases:
        images = [source.relative(file) for file in case_files(case, masks=False)]
        masks = [path for path in map(source.relative, case_files(case)) if path not in images]
        seen = [source.inspections[path] for path in images if path in source.inspections]
        stored = getattr(source.data, "stored_channels", source.data.spec.in_channels)
        if len(images) == 1 and stored > 1:  # the family reads four dimensions as channels
            for result in seen:
                result.findings = [finding for finding in result.findings if finding.kind != "dimensions"]
        first = next((result.header for result in seen if result.header is not None), None)
        if first is None:
            continue
        for result in seen:
            if result.header is not None and (why := _apart(result.header, first)):
                findings.append(Finding("channels", result.path, why))
        for path in masks:
            mask = source.inspections.get(path)
            if mask is None or mask.header is None:
                continue
            if why := _misfit(source, mask.header, first):
                findings.append(Finding("mask_shape" if "shape" in why else "mask_geometry", path, why))
            strange = [label for label in mask.labels or () if known and label not in known]
            if strange:
                findings.append(Finding("labels", path, f"holds {', '.join(map(str, strange[:5]))}"))
    return findings


def _apart(channel: Header, first: Header) -> str:
    return change_between(channel, first)[1] if len(first.shape) == 3 else shapes_differ(channel.shape, first.shape)


def _misfit(source: Source, mask: Header, image: Header) -> str:
    """Why a mask does not lie on its image, or ''; images have no position."""
    if len(image.shape) == 3 and isinstance(source.data, ScanData):
        return source.data.misfit_of(mask, image, image=False)
    return shapes_differ(mask.shape, image.shape)


def _parts(source: Source) -> dict[str, str]:
    """Subject -> part under data.split; nothing where that cannot be made, which is a finding of its own."""
    try:
        split = source.data.split(source.cases) if source.cases else {}
    except SslMedError:
        return {}
    return {subject: part for part, members in split.items() for subject in members}
