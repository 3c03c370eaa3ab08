"""A datalist of MONAI: JSON lists of cases under training, validation and test, each with image and label or mask.

A label is the file of a label map, the number of a class, or a list of findings, each 0, 1 or null for not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.core.decathlon import TABLE
from datamodules.core.division import random_parts
from datamodules.core.splits import PARTS, Split, random_split
from ssl_med.reading import UnreadableError, read_json
from ssl_med.spec import SslMedError, Target

LISTS = {"training": "train", "validation": "val", "test": "test", "testing": "test"}
MASKS = ("label", "mask")
NAMES = ("datalist.json", TABLE)  # of the file, where it lies below the root


def read_datalist(config: Any) -> tuple[Path, Mapping[str, Any]]:
    """The datalist and where it lies."""
    root = Path(config.root)
    path = Path(config.datalist) if config.datalist else next(
        (root / name for name in NAMES if (root / name).is_file()), root / "datalist.json"
    )  # fmt: skip
    if not path.is_file():
        raise SslMedError(
            f"{path}: no such file; data.datalist=FILE.json names the training, validation and test cases"
        )
    return read_file(path)


def read_file(path: Path) -> tuple[Path, Mapping[str, Any]]:
    """A datalist and its path."""
    if not path.is_file():
        raise SslMedError(f"{path}: no such file; it should be a datalist of MONAI")
    try:
        tree = read_json(path)
    except UnreadableError as error:
        raise SslMedError(f"{path}: {error}") from None
    if not isinstance(tree, Mapping) or not any(isinstance(tree.get(key), list) for key in LISTS):
        raise SslMedError(
            f"{path}: is no datalist; it needs lists of {{image, label}} under training, validation and test"
        )
    return path, tree


def rows_of(path: Path | str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Part and row of every case."""
    for key, part in LISTS.items():
        for number, row in enumerate(tree.get(key) or [], 1):
            row = {"image": row} if isinstance(row, str) else row
            if not isinstance(row, Mapping) or not images_of(row):
                raise SslMedError(f"{path}: row {number} of {key} has no image; a row is {{image: FILE, label: FILE}}")
            label = row.get("label")
            if label is not None and not (isinstance(label, str) or _is_class(label) or _is_findings(label)):
                raise SslMedError(
                    f"{path}: row {number} of {key} has label {label!r}; a label is the file of a label map, the number of a "
                    "class, or a list of findings, each 0, 1 or null"
                )
            if not isinstance(row.get("mask") or "", str):
                raise SslMedError(
                    f"{path}: row {number} of {key} has mask {row['mask']!r}; a mask is the file of a label map"
                )
            yield part, row


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


def _is_findings(label: Any) -> bool:
    return isinstance(label, list) and bool(label) and all(one is None or one in (0, 1) for one in label)


def target_of(path: Path | str, rows: Sequence[Mapping[str, Any]]) -> Target:
    """What the labels of all rows are; "none" where no row has one.

    Raises:
        SslMedError: they are of more than one kind, or lists of different length.
    """
    found: dict[tuple[Target, int], Mapping[str, Any]] = {}
    for row in rows:
        label = label_of_row(row)
        if mask_of(row):
            found.setdefault(("mask", 1), row)
        elif label:
            found.setdefault(("multilabel" if isinstance(row["label"], list) else "class", len(label)), row)
    if len(found) > 1:
        one, other = (images_of(row)[0] for row in list(found.values())[:2])
        raise SslMedError(
            f"{path}: labels of {one} and {other} are of different kinds; let all be files, class numbers, or "
            "lists of one length"
        )
    return next((target for target, _ in found), "none")


def label_of_row(row: Mapping[str, Any]) -> tuple[float, ...]:
    """(number of the class,), or one value a finding, nan for null; () where the row has neither."""
    label = row.get("label")
    if label is None or isinstance(label, str):
        return ()
    return tuple(math.nan if one is None else float(one) for one in (label if isinstance(label, list) else [label]))


def class_names_of(path: Path | str, said: Any, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the classes or findings by number.

    Args:
        path: of the datalist, for messages.
        said: {number: name}, {name: number} or a list of names; empty: numbers are the names.
        rows: of the datalist.

    Raises:
        SslMedError: names that are no such thing, a number without a name, or fewer than two classes.
    """
    labels = [label_of_row(row) for row in rows if label_of_row(row)]
    several = target_of(path, rows) == "multilabel"
    count = len(labels[0]) if several else max((int(label[0]) for label in labels), default=-1) + 1
    if isinstance(said, Mapping) and said:
        by_number = all(str(key).isdigit() for key in said)
        pairs = [(key, name) if by_number else (name, key) for key, name in said.items()]
        numbered = {int(key): str(name) for key, name in pairs if str(key).isdigit()}
        said = [numbered.get(k) for k in range(len(pairs))]
    names = list(said) if isinstance(said, list) and said else [str(k) for k in range(count)]
    if any(not isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise SslMedError(f"{path}: 'labels' must name the classes 0, 1, 2 ..., each once: {{normal: 0, sick: 1}}")
    if len(names) < count or (several and len(names) != count):
        kind = "findings a row" if several else "classes"
        raise SslMedError(f"{path}: has {count} {kind}, but {len(names)} names: {', '.join(names)}; name each")
    if not several and len(names) < 2:
        raise SslMedError(f"{path}: all rows have the class {names[0]}; a task needs two")
    return tuple(names)


def listed_split(
    cases: Sequence[Any],
    *,
    labelled: Callable[[Any], bool],
    place: Callable[[Any], tuple[str, int]],
    group: Callable[[Any], str],
    config: Any,
) -> tuple[Split, str]:
    """The lists of the file as parts, and a note on what they do not name for labelled cases, which is cut from training.

    Args:
        cases: all rows.
        labelled: whether a case has a label; those without are for pretraining.
        place: list and fold of a case, -1 for none.
        group: see `MedicalData.split_group`.
        config: fold, split_ratios and split_seed.

    Raises:
        SslMedError: no training row has the fold.
    """
    fold = config.fold
    split: dict[str, set[str]] = {part: set() for part in PARTS}
    for case in cases:
        part, own = place(case)
        chosen = "val" if part == "train" and fold >= 0 and own == fold else part
        split[chosen if labelled(case) else "train"].add(case.subject)
    if fold >= 0 and all(place(case) != ("train", fold) for case in cases):
        folds = sorted({own for _, own in map(place, cases) if own >= 0})
        raise SslMedError(
            f"data.fold={fold}: no training row has it; there are: {', '.join(map(str, folds)) or 'none'}"
        )
    trained = [case for case in cases if labelled(case) and case.subject in split["train"]]
    missing = [part for part in ("val", "test") if not split[part]]
    train, val, test = config.split_ratios
    note = ""
    if missing and trained:
        if len(missing) == 2:
            cut = random_parts(trained, group, ratios=config.split_ratios, seed=config.split_seed)
        else:
            share = (val if missing == ["val"] else test) / (train + (val if missing == ["val"] else test))
            names = {case.subject for case in trained}
            halves = random_split(names, ratios=(1 - share, share, 0.0), seed=config.split_seed)
            cut = {"train": halves["train"], **{part: [] for part in PARTS[1:]}, missing[0]: halves["val"]}
        for part in missing:
            split[part] = set(cut[part])
            split["train"] -= split[part]
        words = {"val": "validation", "test": "test"}
        note = f"the datalist has no labelled list {' and no list '.join(words[part] for part in missing)}: cut from training"
    return {part: sorted(members) for part, members in split.items()}, note


def images_of(row: Mapping[str, Any]) -> list[str]:
    """Files of the channels; none where the row does not name them."""
    image = row.get("image")
    images: list[Any] = image if isinstance(image, list) else [image]
    return images if all(isinstance(one, str) and one for one in images) else []


def mask_of(row: Mapping[str, Any]) -> str:
    """File of the label map, or ''."""
    return next((row[key] for key in MASKS if isinstance(row.get(key), str) and row[key]), "")


def modalities_of(path: Path | str, tree: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the channels; "image" where the datalist does not say."""
    said, count = tree.get("modality"), len(images_of(rows[0])) if rows else 1
    if isinstance(said, str):
        return [said] * count
    if isinstance(said, Mapping) and said:
        try:
            return [str(said[key]) for key in sorted(said, key=int)]
        except (TypeError, ValueError):
            raise SslMedError(f'{path}: \'modality\' must number the channels, {{"0": "CT"}}') from None
    return ["image"] * count
