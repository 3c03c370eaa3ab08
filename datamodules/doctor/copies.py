"""Copies: finds files that hold the same picture, in three comparisons of rising cost and certainty."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from datamodules.doctor.findings import Finding, row_of
from datamodules.doctor.fingerprint import ALIKE, candidate_pairs, exact_groups, same_above, similarity
from datamodules.doctor.inspect import compare_images
from datamodules.doctor.pool import spread
from datamodules.doctor.source import Place, Progress, Source
from datamodules.formats.grids import Array

_PAIRS = 64  # pairs of fingerprints that a task compares
_USUAL = 60  # pairs taken at random that say how alike different images are


def find_copies(
    source: Source, others: Sequence[Source], parts: dict[str, str], *, workers: int, progress: Progress
) -> list[Finding]:
    """Equal and nearly equal images under different ids, within the data set and between it and the others."""
    places = [
        (one, path) for one in (source, *others) for path in sorted(one.inspections) if not one.inspections[path].mask
    ]
    results = [one.inspections[path] for one, path in places]
    findings, copies = [], set()
    for group in exact_groups([result.digest for result in results]):
        first = group[0]
        if places[first][0] is not source:
            continue  # copies among the others are not the question
        for position in group[1:]:
            copies.add(position)
            finding = _same(places[first], places[position], parts, near=False)
            if finding is not None:
                findings.append(finding)
    for dims in (2, 3):
        shown = {k: r.grid for k, r in enumerate(results) if r.grid is not None and r.grid.ndim == dims}
        chosen = [k for k in shown if k not in copies]
        if len(chosen) < 2:
            continue
        grids = np.stack([shown[k] for k in chosen])
        images = [places[k] for k in chosen]
        alike = [
            (i, j)
            for (i, j), value in _second_look(_askable(grids, images, source, parts), grids, workers, progress)
            if value > ALIKE
        ]
        if not alike:
            continue
        pairs = {(i, j) for i, j in _random_pairs(len(images)) if _apart_subjects(images[i], images[j])}
        values = _third_look([*alike, *sorted(pairs)], images, workers, progress)
        threshold = same_above([values[pair] for pair in sorted(pairs)], len(images) * (len(images) - 1) // 2)
        reported: set[tuple[str, str]] = set()
        for i, j in alike:
            finding = _same(images[i], images[j], parts, near=True, value=values[i, j])
            if values[i, j] > threshold and finding is not None and (finding.path, finding.also_in) not in reported:
                reported.add((finding.path, finding.also_in))
                findings.append(finding)
    return findings


def _apart_subjects(first: Place, second: Place) -> bool:
    return first[0] is not second[0] or first[0].subject(first[1]) != second[0].subject(second[1])


def _askable(grids: Array, images: Sequence[Place], source: Source, parts: dict[str, str]) -> list[tuple[int, int]]:
    """Pairs that may be copies and would say something about the data set itself."""
    return [
        (i, j)
        for i, j in candidate_pairs(grids)
        if images[i][0] is source and _same(images[i], images[j], parts, near=True) is not None
    ]


def _random_pairs(count: int) -> set[tuple[int, int]]:
    """Up to `_USUAL` pairs of `count` images, the same ones each time."""
    drawn = np.random.default_rng(count).integers(0, max(count, 1), (4 * _USUAL, 2)).tolist()
    return set(list(dict.fromkeys((min(a, b), max(a, b)) for a, b in drawn if a != b))[:_USUAL])


def _second_look(
    pairs: Sequence[tuple[int, int]], grids: Array, workers: int, progress: Progress
) -> Iterator[tuple[tuple[int, int], float]]:
    blocks = (pairs[k : k + _PAIRS] for k in range(0, len(pairs), _PAIRS))
    tasks = ((tuple(block), [(grids[i], grids[j]) for i, j in block]) for block in blocks)
    done = 0
    for (block, _), values in spread(_similarities, tasks, workers=workers):
        done += len(block)
        progress("comparing images", done, len(pairs))
        yield from zip(block, values or [-1.0] * len(block), strict=True)


def _third_look(
    pairs: Sequence[tuple[int, int]], images: Sequence[Place], workers: int, progress: Progress
) -> dict[tuple[int, int], float]:
    tasks = {}
    for i, j in pairs:
        first, second = ((str(images[k][0].root), images[k][1]) for k in (i, j))
        tasks[first, second] = (i, j)
    values = {}
    for done, (task, value) in enumerate(spread(compare_images, tasks, workers=workers), 1):
        values[tasks[task]] = -1.0 if value is None else value
        progress("looking at copies", done, len(tasks))
    return values


def _similarities(pairs: tuple[tuple[int, int], ...], grids: list[tuple[Array, Array]]) -> list[float]:
    return [similarity(first, second) for first, second in grids]


def _same(first: Place, second: Place, parts: dict[str, str], *, near: bool, value: float = 1.0) -> Finding | None:
    """What it means that two images are the same one; None when that says nothing about the data set itself."""
    (one, path), (other, further) = first, second
    if row_of(path) is None and os.path.realpath(one.root / path) == os.path.realpath(other.root / further):
        return None  # one file under two names
    detail = f"similarity {value:.3f}" if near else ""
    if one is not other:
        # places begin with the data set itself: two of the others are not its business
        return Finding("near_across" if near else "duplicate_across", path, detail, "", further, other.name)
    subjects = one.subject(path), one.subject(further)
    if subjects[0] == subjects[1] and near:
        return None  # views and follow-ups of one subject do look alike, and cannot leak
    where = [parts.get(subject, "") for subject in subjects]
    if all(where) and where[0] != where[1]:
        detail = "; ".join(part for part in (detail, f"in {where[0]} and {where[1]}") if part)
    kind = "near" if near else "duplicate"
    if near and not one.cases and row_of(path) is None:
        kind = "near_unsure"
    same_case = one.case_of.get(path) is one.case_of.get(further) is not None
    if not near and subjects[0] == subjects[1] and not same_case:
        kind = "repeated"
    return Finding(kind, further, detail, "", path)
