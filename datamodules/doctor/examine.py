"""The whole examination of a data set: every file, how they belong together, copies, tables and splits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.core.base import MedicalData
from datamodules.core.cases import case_files
from datamodules.core.quarantine import Entry, Quarantine
from datamodules.core.readers import PLACEHOLDER, assumed_headers
from datamodules.doctor.copies import find_copies
from datamodules.doctor.files import Found, is_image, walk
from datamodules.doctor.findings import KINDS, Finding
from datamodules.doctor.inspect import Inspection, inspect
from datamodules.doctor.pool import spread
from datamodules.doctor.source import Progress, Source
from datamodules.doctor.tables import check_tables, straddling
from datamodules.formats.grids import Header
from ssl_med.spec import SslMedError

_APART = 0.5  # voxels that corners of mask and image may lie apart


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
        entries: dict[str, str] = {}
        for finding in self.findings:
            if finding.severity == "error" and finding.kind not in ("straddling", "split", "table"):
                reason = f"{finding.kind}: {finding.detail or KINDS[finding.kind].title}"
                entries.setdefault(finding.path, reason)
        return [Entry(path, reason) for path, reason in sorted(entries.items())]


def examine(
    data_class: type[MedicalData],
    config: Any,
    *,
    others: Sequence[tuple[str, type[MedicalData], Any]] = (),
    workers: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Checkup:
    """Reads everything once and compares it.

    Args:
        data_class: the family.
        config: its config with `root`.
        others: name, family and config of data sets to look for copies in; their own faults are not reported.
        workers: processes.
        progress: called once for each file.

    Raises:
        SslMedError: a root is missing or holds no image.
    """
    start = time.monotonic()
    source = _open(data_class, config, config.name)
    further = [_open(family, settings, name) for name, family, settings in others]
    for one in (source, *further):
        _inspect(one, one.files, workers=workers, progress=progress)
    named = [item.path for item in source.files if item.kind != "arrays"]
    findings, lists = check_tables(source.root, source.tables, named)
    findings += _find_cases(source, [finding.path for finding in findings if finding.kind == "absent"])
    for one in further:
        _find_cases(one, [])
    for one in (source, *further):
        _inspect(one, _missed(one), workers=workers, progress=progress)
    findings += straddling(lists, {path: source.subject(path) for path in named})
    findings += _check_cases(source)
    findings += [finding for result in source.inspections.values() for finding in result.findings]
    findings += find_copies(source, further, _parts(source, findings), workers=workers, progress=progress)
    order = list(KINDS)
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.path, finding.other))
    return Checkup(source, tuple(further), tuple(findings), time.monotonic() - start)


def _open(data_class: type[MedicalData], config: Any, name: str) -> Source:
    root = Path(config.root)
    if not config.root or not root.is_dir():
        raise SslMedError(f"data.root={config.root}: no such folder; point it at the data set, data.root=DIR")
    data = _module(data_class, config)
    files, tables = walk(root, flat=data.spec.spatial_dims == 2)
    if not files:
        raise SslMedError(f"data.root={root}: holds no image; is this {name}? It should hold {data.layout}")
    return Source(name, root, data, files, tables)


def _module(data_class: type[MedicalData], config: Any, *, labelled: bool = True) -> MedicalData:
    """Builds the data with labels where the family has some, so that everything a task needs is required."""
    try:
        return data_class(config, labelled=labelled, batch_size=1)
    except SslMedError:
        if not labelled:
            raise
        return _module(data_class, config, labelled=False)


def _inspect(source: Source, items: Sequence[Found], *, workers: int, progress: Progress) -> None:
    tasks = ((str(source.root), item) for item in items)
    for done, ((_, item), results) in enumerate(spread(inspect, tasks, workers=workers), 1):
        if results is None:
            results = [Inspection(item.path, item.mask)]
            results[0].add("unreadable", "reading it ended the process: out of memory?")
        for result in results:
            source.inspections[result.path] = result
        progress(f"reading {source.name}", done, len(items))


def _find_cases(source: Source, absent: Iterable[str]) -> list[Finding]:
    """The family's own index, with the files that it refuses left out one by one; findings for what it refused."""
    findings: list[Finding] = []
    headers: dict[str, Header] = {path: result.header or PLACEHOLDER for path, result in source.inspections.items()}
    faulty = [path for path, result in source.inspections.items() if not result.sound]
    entries = [Entry(path, "absent") for path in absent] + [Entry(path, "faulty") for path in faulty]
    while True:
        source.data.quarantine = Quarantine(entries, root=source.root)
        try:
            with assumed_headers(headers, root=source.root):
                source.cases = source.data.index(source.root)
            break
        except SslMedError as error:
            path = _named_file(str(error), source)
            if path in source.tables or path in ("", "."):
                findings.append(Finding("table" if path in source.tables else "refused", path or ".", local=str(error)))
            elif path not in {entry.path for entry in entries}:
                findings.append(Finding("refused", path, local=str(error)))
                entries.append(Entry(path, "refused"))
                continue
            if not source.data.labelled:
                break
            # without labels fewer files are required: cases are needed to know subjects and masks
            source.data = _module(type(source.data), source.data.config, labelled=False)
    source.named = {case.name: case for case in source.cases}
    for case in source.cases:
        for file in case_files(case):
            source.case_of.setdefault(source.relative(file), case)
    return findings


def _named_file(text: str, source: Source) -> str:
    """The file or folder that a message begins with, relative to the root; '' when it names none."""
    place = Path(text.partition(": ")[0])
    try:
        return place.relative_to(source.root).as_posix() if place.exists() else ""
    except ValueError:
        return ""


def _missed(source: Source) -> list[Found]:
    """What the cases name that was not looked at, or not as what it is: only the family knows its masks for sure."""
    missed = []
    for case in source.cases:
        images = set(case_files(case, masks=False))
        for file in case_files(case):
            path, mask = source.relative(file), file not in images
            known = source.inspections.get(path)
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
            if result.header is not None and result.header.shape != first.shape:
                findings.append(Finding("channels", result.path, _shapes(result.header, first)))
        unplaced = any(finding.kind in ("orientation", "geometry") for result in seen for finding in result.findings)
        for path in masks:
            mask = source.inspections.get(path)
            if mask is None or mask.header is None:
                continue
            if mask.header.shape != first.shape:
                findings.append(Finding("mask_shape", path, _shapes(mask.header, first)))
            elif not unplaced and not (apart := _apart(mask.header, first)) <= _APART:
                findings.append(Finding("mask_geometry", path, f"up to {apart:.3g} voxels apart"))
            strange = [label for label in mask.labels or () if known and label not in known]
            if strange:
                findings.append(Finding("labels", path, f"holds {', '.join(map(str, strange[:5]))}"))
    return findings


def _shapes(mine: Header, image: Header) -> str:
    return " and ".join("x".join(map(str, header.shape)) for header in (mine, image))


def _apart(mask: Header, image: Header) -> float:
    """Largest distance of equal corners of a mask and its image, in the image's smallest voxel size; images: 0."""
    if len(image.shape) != 3:
        return 0.0
    last = np.maximum(np.array(image.shape) - 1, 1)
    corners = np.array([[*(corner * last), 1.0] for corner in np.ndindex(2, 2, 2)])
    offsets = (corners @ (mask.to_world - image.to_world).T)[:, :3]
    return float(np.abs(offsets).max()) / float(np.linalg.norm(image.to_world[:3, :3], axis=0).min())


def _parts(source: Source, findings: list[Finding]) -> dict[str, str]:
    """Subject -> part under data.split; a split that cannot be made becomes a finding."""
    if not source.cases:
        return {}
    try:
        split = source.data.split(source.cases)
    except SslMedError as error:
        if not any(finding.kind == "straddling" for finding in findings):
            findings.append(Finding("split", ".", local=str(error)))
        return {}
    return {subject: part for part, members in split.items() for subject in members}
