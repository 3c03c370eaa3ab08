"""One file, read once: what is wrong with it, and what it takes to compare it with others. Runs in worker processes."""

from __future__ import annotations

import importlib
import io
import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from datamodules.core.dicom import is_dicom
from datamodules.core.geometry import reorient, spacing_of
from datamodules.core.readers import read_header, read_volume
from datamodules.doctor.files import IMAGES, Found
from datamodules.doctor.findings import Finding, file_of, row_of
from datamodules.doctor.fingerprint import grid_of, texture_similarity, voxel_hash
from datamodules.formats.grids import Array, Header, Volume
from ssl_med.spec import SslMedError

THINNEST, THICKEST, LONGEST = 0.01, 50.0, 3000.0  # mm: voxels outside and longer axes are no medical scan
_TURNED = 1.0  # degrees that still count as along the axis
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
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
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it warns of becomes a finding
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
    low = path.lower()
    array, to_world = _nifti(path, result) if low.endswith((".nii", ".nii.gz")) else _other(path, result)
    valid = bool(np.isfinite(to_world).all()) and abs(np.linalg.det(to_world[:3, :3])) > 1e-9
    if valid or result.mask:  # the image's geometry counts: a mask needs none of its own
        result.header = Header(tuple(array.shape[:3]), to_world)
    if result.mask:
        _check_labels(array, result)
        return
    if result.header is not None and result.sound:
        _check_grid(result.header, result)
    elif result.header is None and result.sound:
        result.add("geometry", f"voxel size {_words(spacing_of(to_world))}, no valid direction")
    _check_values(array, result)
    if array.ndim == 3 and result.sound:
        placed = reorient(Volume(array, to_world), "LPS").array
        result.digest, result.grid = voxel_hash(placed), grid_of(placed)


def _nifti(path: str, result: Inspection) -> tuple[Array, Array]:
    try:
        image: Any = nib.load(path)
    except (EOFError, zlib.error) as error:
        raise _UnusableError("truncated", str(error)) from None
    except (OSError, ValueError, ImageFileError, HeaderDataError) as error:
        raise _UnusableError("unreadable", str(error)) from None
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        result.add("dimensions", f"shape {' x '.join(map(str, shape))}")
    if image.get_data_dtype().fields is not None:
        raise _UnusableError("unreadable", "its voxels are colours")
    if "sform_code" in image.header and not result.mask:
        _check_forms(path, image, result)
    try:
        array: Array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _UnusableError("truncated", str(error)) from None
    if len(shape) < 3:
        raise _UnusableError("dimensions", f"{len(shape)} dimensions")
    return array.reshape(shape), _RAS_TO_LPS @ np.asarray(image.affine, float)


def _check_forms(path: str, image: Any, result: Inspection) -> None:
    """The three places where a NIfTI header speaks of geometry: voxel size, qform and sform."""
    with ImageOpener(path) as file:  # nibabel repairs a size of 0 when it loads
        raw = np.asarray(type(image.header).from_fileobj(file, check=False)["pixdim"][1:4], float)
    if not np.isfinite(raw).all() or (raw <= 0).any():
        result.add("geometry", f"voxel size {_words(raw)}")
        return
    codes = int(image.header["sform_code"]), int(image.header["qform_code"])
    if codes == (0, 0):
        result.add("orientation", "sform and qform codes are 0")
    sform = image.get_sform()
    if not codes[0] or abs(np.linalg.det(sform[:3, :3])) < 1e-9:
        return
    if not np.allclose(raw, spacing_of(sform), rtol=0.01):
        result.add("forms", f"voxel size {_words(raw)}, by the sform {_words(spacing_of(sform))}")
        return
    if not codes[1]:
        return
    last = np.maximum(np.array(image.shape[:3]) - 1, 1)
    corners = np.array([[*(corner * last), 1.0] for corner in np.ndindex(2, 2, 2)])
    try:
        apart = np.abs(corners @ (sform - image.get_qform()).T)[:, :3].max()
    except (ValueError, HeaderDataError):
        result.add("forms", "the qform is not valid")
        return
    if apart > 0.5 * min(spacing_of(sform)):
        result.add("forms", f"up to {apart:.3g} mm apart")


def _other(path: str, result: Inspection) -> tuple[Array, Array]:
    """Formats whose readers speak for themselves: header first, so that what fails later are the voxels."""
    try:
        read_header(path)
    except SslMedError as error:
        text = str(error)
        kind = "dimensions" if "one 3D volume" in text else "geometry" if "valid voxel size" in text else "unreadable"
        raise _UnusableError(kind, text) from None
    try:
        volume = read_volume(path)
    except SslMedError as error:
        text = str(error)
        raise _UnusableError("nan" if "NaN or infinite" in text else "truncated", text) from None
    return volume.array, volume.to_world


def _check_grid(header: Header, result: Inspection) -> None:
    """Voxel size, extent and direction of an image."""
    size, matrix = np.array(spacing_of(header.to_world)), header.to_world[:3, :3]
    long = float((size * header.shape).max())
    if size.min() < THINNEST or size.max() > THICKEST or long > LONGEST:
        result.add("geometry", f"voxel size {_words(size)}, {long:.4g} mm long")
        return
    if any(finding.kind == "orientation" for finding in result.findings):
        return  # what the matrix says of directions is a guess
    turned = float(np.degrees(np.arccos(np.clip(np.abs(matrix / size).max(0), 0, 1))).max())
    if turned > _TURNED:
        result.add("oblique", f"{turned:.1f} degrees")
    if np.linalg.det(matrix) < 0:  # LPS and RAS turn the same way
        result.add("left_handed")


def _words(size: Iterable[float]) -> str:
    return " x ".join(f"{s:.4g}" for s in size) + " mm"


def _check_values(array: Array, result: Inspection) -> None:
    if array.dtype.kind in "fc":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            result.add("nan", f"{bad} of {array.size} voxels")
            return
    low, high = array.min(), array.max()
    if low == high:
        result.add("constant", f"all are {low:g}")


def _check_labels(array: Array, result: Inspection) -> None:
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        result.add("nan", f"{int(np.count_nonzero(~np.isfinite(array)))} of {array.size} voxels")
        return
    low, high = float(array.min()), float(array.max())
    labels = array.astype(np.uint8) if low >= 0 and high <= 255 else None
    if labels is None or (array.dtype.kind == "f" and not np.array_equal(labels, array)):
        result.add("labels", f"values {low:g} to {high:g}, not whole numbers from 0 to 255")
        return
    result.labels = tuple(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())
    if result.labels == (0,):
        result.add("empty_mask")


# ------------------------------------------------------------------------------------------ images and arrays


def _image(path: str, result: Inspection, *, dicom: bool) -> None:
    if dicom:
        array: Array = importlib.import_module("datamodules.core.dicom").read_dicom_image(path)
    else:
        try:
            with Image.open(path) as image:
                if image.mode not in ("1", "L", "I", "F", "P") and not image.mode.startswith("I;16"):
                    result.add("color", image.mode)
                keep = image.mode in ("L", "I", "F") or image.mode.startswith("I;16")
                try:
                    array = np.asarray(image if keep else image.convert("L"))
                except (OSError, ValueError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG chunk
                    raise _UnusableError("truncated", str(error)) from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise _UnusableError("unreadable", str(error)) from None
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
        with Image.open(file) as opened:
            grey: Array = np.asarray(opened.convert("F"))
        return grey
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
            array: Array = np.asanyarray(nib.load(str(Path(root) / path)).dataobj)
        else:
            array = load_image(root, path)
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
