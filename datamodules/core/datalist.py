"""A datalist of MONAI: JSON lists of cases under training, validation and test, each with image and label or mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.core.decathlon import TABLE
from ssl_med.reading import UnreadableError, read_json
from ssl_med.spec import SslMedError

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
            mask = next((row[one] for one in MASKS if row.get(one) is not None), None)
            if mask is not None and not isinstance(mask, str):
                raise SslMedError(
                    f"{path}: row {number} of {key} has label {mask!r}; data=monai learns masks, a label must be the file of a "
                    "label map (classes of images: data=images)"
                )
            yield part, row


def images_of(row: Mapping[str, Any]) -> list[str]:
    """Files of the channels; none where the row does not name them."""
    image = row.get("image")
    images: list[Any] = image if isinstance(image, list) else [image]
    return images if all(isinstance(one, str) and one for one in images) else []


def mask_of(row: Mapping[str, Any]) -> str:
    """File of the label map, or ''."""
    return next((str(row[key]) for key in MASKS if row.get(key)), "")


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
