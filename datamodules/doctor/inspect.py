"""One file, read once: what is wrong with it, and what it takes to compare it with others. Runs in worker processes."""

from __future__ import annotations

import importlib
import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from datamodules.core.dicom import is_dicom
from datamodules.core.geometry import reorient, spacing_of
from datamodules.core.readers import read_stack, read_volume, whole_labels
from datamodules.doctor.files import IMAGES, Found
from datamodules.doctor.findings import Finding, file_of, row_of
from datamodules.doctor.fingerprint import grid_of, texture_similarity, voxel_hash
from datamodules.formats.grids import Array, Header, Volume
from datamodules.formats.pictures import colors_of, read_image2d
from datamodules.formats.raw import check_room
from ssl_med.spec import SslMedError

_TURNED = 1.0  # degrees that still count as along the axis
_THUMBNAIL = 128  # pixels


@dataclass
class Inspection:
    """What one image or mask is; `header` is None when it has no usable grid, `labels` None when it is no label map."""

    path: str
    mask: bool = False
    findings: list[Finding] = field(default_factory=list)
    header: Header | None = None
    labels: tuple[int, ...] | None = None
    digest: str = ""
    grid: Array | None = None

    def add(self, kind: str, detail: str = "", local: str = "") -> None:
        """Notes a finding."""
        self.findings.append(Finding(kind, self.path, detail, local))

    @property
    def sound(self) -> bool:
        """No finding of severity error."""
        return all(finding.severity != "error" for finding in self.findings)


class _UnusableError(Exception):
    """The file cannot be looked at any further; carries the kind and what was said."""


def inspect(root: str, item: Found) -> list[Inspection]:
    """Looks at one file; a file of arrays gives one inspection an image. Whatever is wrong with it becomes a finding."""
    result = Inspection(item.path, item.mask)
    path = str(Path(root) / item.path)
    try:
        if item.kind == "arrays":
            return list(_arrays(path, item.path)) or [result]
        if item.kind == "volume":
            _volume(path, result)
        else:
            _image(path, result, dicom=item.kind == "dicom")
    except _UnusableError as stop:
        kind, text = stop.args
        result.add(kind, local=text)
    except MemoryError:
        result.add("unreadable", "too large for the memory")
    except Exception as error:  # a reader may fail in ways of its own; the next file must still be read
        result.add("unreadable", local=f"{type(error).__name__}: {error}")
    return [result]


# ---------------------------------------------------------------------------------------------------- volumes


def _volume(path: str, result: Inspection) -> None:
    volume = _stack(path)
    array = volume.array
    if array.ndim > 3:
        result.add("dimensions", f"shape {' x '.join(map(str, array.shape))}")
    result.header = volume.grid
    if result.mask:
        _check_labels(path, array, result)
        return
    if not path.lower().endswith(".npy"):  # those never say where they lie
        for remark in volume.remarks:
            result.add(remark.kind, remark.text)
    _check_grid(result.header, result)
    _check_values(array, result)
    if array.ndim == 3 and result.sound:
        placed = reorient(volume, "LPS").array
        result.digest, result.grid = voxel_hash(placed), grid_of(placed)


# what a reader's message tells of the kind of fault; the first that is found in it counts
_FAULTS = (
    ("NaN or infinite", "nan"),
    ("one 3D volume", "dimensions"),
    ("valid voxel size", "geometry"),
    ("truncated", "truncated"),
    ("download it again", "truncated"),
)


def _stack(path: str) -> Volume:
    """The volume as training reads it, or with all numbers of its voxels."""
    try:
        return read_stack(path)
    except SslMedError as error:
        text = str(error)
        raise _UnusableError(next((kind for words, kind in _FAULTS if words in text), "unreadable"), text) from None


def _check_grid(header: Header, result: Inspection) -> None:
    """Direction of an image's axes."""
    if any(finding.kind == "orientation" for finding in result.findings):
        return  # what the matrix says of directions is a guess
    matrix = header.to_world[:3, :3]
    turned = float(np.degrees(np.arccos(np.clip(np.abs(matrix / spacing_of(header.to_world)).max(0), 0, 1))).max())
    if turned > _TURNED:
        result.add("oblique", f"{turned:.1f} degrees")
    if np.linalg.det(matrix) < 0:  # LPS and RAS turn the same way
        result.add("left_handed")


def _check_values(array: Array, result: Inspection) -> None:
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            result.add("nan", f"{bad} of {array.size} voxels")
            return
    low, high = array.min(), array.max()
    if low == high:
        result.add("constant", f"all are {low:g}")


def _check_labels(path: str, array: Array, result: Inspection) -> None:
    try:
        labels = whole_labels(path, array)
    except SslMedError:
        result.add("labels", f"values {array.min():g} to {array.max():g}, not whole numbers from 0 to 255")
        return
    result.labels = tuple(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())
    if result.labels == (0,):
        result.add("empty_mask")


# ------------------------------------------------------------------------------------------ images and arrays


def _image(path: str, result: Inspection, *, dicom: bool) -> None:
    try:
        if dicom:
            array: Array = importlib.import_module("datamodules.core.dicom").read_dicom_image(path)
        else:
            array = read_image2d(path)
            if colors := colors_of(path):
                result.add("color", colors)
    except SslMedError as error:
        text = str(error)
        raise _UnusableError("truncated" if "truncated" in text.lower() else "unreadable", text) from None
    result.header = Header(array.shape, np.eye(4))
    if result.mask:
        if array.dtype.kind in "iu" and not array.any():
            result.add("empty_mask")
        return
    _check_values(array, result)
    if result.sound:
        result.digest, result.grid = voxel_hash(array), grid_of(array)


def _arrays(path: str, name: str) -> Iterator[Inspection]:
    """Images of a file in the layout of MedMNIST: <part>_images, (N, rows, columns[, 3]) or (N, x, y, z)."""
    try:
        with np.load(path) as file:
            keys = [key for key in file.files if key.endswith("_images")]
            for key in keys:
                images = file[key]
                for row, image in enumerate(images):
                    result = Inspection(f"{name}#{key}/{row}")
                    array = image.mean(-1) if image.ndim == 3 and image.shape[-1] == 3 else image
                    _check_values(array, result)
                    if result.sound and array.ndim in (2, 3):
                        result.digest, result.grid = voxel_hash(image), grid_of(array)
                    yield result
    except (OSError, ValueError, EOFError, zlib.error, KeyError) as error:
        result = Inspection(name)
        result.add("unreadable", local=str(error))
        yield result


# ------------------------------------------------------------------------------------------ looking once more


def load_image(root: str, path: str) -> Array:
    """An image that was inspected, read again: (x, y, z) towards L, P, S, (rows, columns), or a row of a file of arrays."""
    name, row = file_of(path), row_of(path)
    file = str(Path(root) / name)
    if row is not None:
        with np.load(file) as arrays:
            stored: Array = arrays[row[0]][row[1]]
        return stored.mean(-1) if stored.ndim == 3 and stored.shape[-1] == 3 else stored
    if name.lower().endswith(IMAGES):
        return read_image2d(file)
    if Path(file).is_file() and is_dicom(Path(file)):
        image: Array = importlib.import_module("datamodules.core.dicom").read_dicom_image(file)
        return image
    return reorient(read_volume(file), "LPS").array


def compare_images(first: tuple[str, str], second: tuple[str, str]) -> float:
    """Texture similarity of two images, each (root, path); -1 when one cannot be read any more."""
    try:
        return texture_similarity(load_image(*first), load_image(*second))
    except (OSError, ValueError):
        return -1.0


def thumbnail(root: str, path: str) -> bytes:
    """The middle slice, or the image, as a small PNG between its 1st and 99th percentile; b"" when it cannot be read."""
    try:
        if path.lower().endswith((".nii", ".nii.gz")):  # also what `read_volume` refuses
            file = Path(root) / path
            image: Any = nib.load(str(file))
            need, packed = math.prod(image.shape) * image.get_data_dtype().itemsize, path.lower().endswith(".gz")
            check_room(file, need=need, size=file.stat().st_size, encoding="gzip" if packed else "raw")
            array: Array = np.asanyarray(image.dataobj)
        else:
            array = load_image(root, path)
        array = np.abs(array) if array.dtype.kind == "c" else array
        while array.ndim > 3:
            array = array[..., 0]
        plane = array[:, :, array.shape[2] // 2].T if array.ndim == 3 else array
        plane = np.nan_to_num(plane.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = np.percentile(plane, [1, 99])
        grey = np.clip((plane - low) / max(float(high - low), 1e-12), 0, 1) * 255
        picture = Image.fromarray(grey.astype(np.uint8))
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        content = io.BytesIO()
        picture.save(content, "PNG")
        return content.getvalue()
    except Exception:  # a faulty file often has no picture; its finding says why
        return b""
