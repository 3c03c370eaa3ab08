"""DICOM series -> volume, file -> image (PS3.3 C.7.6.2, image plane; C.11.1, modality LUT), by the optional pydicom.

A folder holds one series. Slices are ordered by position along their normal, never by file name. What a message names is
the folder, a file name, a count or a length: no value of a patient's attribute leaves this module.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.grids import Array, Header, Volume, make_header
from ssl_med.spec import SslMedError

ENDINGS = (".dcm", ".dicom", ".ima")
_PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_TAGS: list[str] = [
    *(*_PLANE, "Rows", "Columns", "SeriesInstanceUID", "SOPInstanceUID", "Modality", "SamplesPerPixel"),
    *("NumberOfFrames", "RescaleSlope", "RescaleIntercept", "BitsAllocated", "ModalityLUTSequence"),
    *("PatientID", "PhotometricInterpretation"),
]
_STEP_TOLERANCE = 0.1  # share of a step: scanners round positions, a missing slice doubles the step


@contextmanager
def _silent() -> Iterator[None]:
    """Pydicom's warnings and log lines quote values of the header."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class Series:
    """One series in order. `files` and `images` (SOP instance UIDs) run along z of `grid`; `uid` is the series' own."""

    grid: Header
    files: tuple[str, ...]
    images: tuple[str, ...]
    uid: str


def is_dicom(path: Path) -> bool:
    """By ending; a file without one by the mark at byte 128."""
    if path.name.startswith("."):
        return False
    if path.suffix.lower() in ENDINGS:
        return True
    if path.suffix and not path.suffix[1:].isdigit():  # 1.2.840.1 is a usual name
        return False
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"
    except OSError:
        return False


def holds_series(folder: str, names: list[str]) -> bool:
    """Whether a folder with these files holds DICOM images."""
    return any(is_dicom(Path(folder, name)) for name in names)


@_silent()
def modality_of(folder: str) -> str:
    """CT, MR, DX, ... as the first image says."""
    name = min(name for name in os.listdir(folder) if is_dicom(Path(folder, name)))
    return str(_read(os.path.join(folder, name), pixels=False).get("Modality", ""))


@_silent()
def read_series_header(folder: str) -> Series:
    """Checks and orders the images of a folder, without their pixels.

    Raises:
        SslMedError: pydicom is absent; no, unreadable, multi-frame or color images; several series or patients; mixed
            orientations, sizes or spacings; two images at one place; a gap; slices that are shifted in their plane.
    """
    names = sorted(name for name in os.listdir(folder) if is_dicom(Path(folder, name)))
    found = [_read(os.path.join(folder, name), pixels=False) for name in names]
    for name, image in zip(names, found, strict=True):
        _check_frames(folder, name, image)
    if len(names) < 2:
        raise SslMedError(f"{folder}: holds {len(names)} DICOM images; a volume needs two or more")
    for name, image in zip(names, found, strict=True):
        lacking = [tag for tag in (*_PLANE, "Rows", "Columns", "SOPInstanceUID") if not image.get(tag)]
        if lacking:
            raise SslMedError(f"{folder}: {name} has no {lacking[0]}; it is no image of a volume")
        if _in_color(image):
            raise SslMedError(f"{folder}: {name} is a color image; one value a voxel is needed")
    series = {str(image.get("SeriesInstanceUID", "")) for image in found}
    if len(series) > 1:
        raise SslMedError(f"{folder}: holds {len(series)} DICOM series; keep one series a folder")
    patients = {str(image.PatientID) for image in found if image.get("PatientID")}
    if len(patients) > 1:
        raise SslMedError(f"{folder}: holds images of {len(patients)} patients; keep those of one in a folder")
    _same(folder, "size", [(int(image.Rows), int(image.Columns)) for image in found])
    spacing = _same(folder, "pixel spacing", [_numbers(folder, image, "PixelSpacing", 2) for image in found])
    cosines = _same(folder, "orientation", [_numbers(folder, image, "ImageOrientationPatient", 6) for image in found])
    across, down = cosines[:3], cosines[3:]
    places = np.array([_numbers(folder, image, "ImagePositionPatient", 3) for image in found])
    order, step = _ordered(folder, names, places, np.cross(across, down), pixel=float(spacing.min()))
    to_world = np.eye(4)
    # PixelSpacing is (between rows, between columns); the first cosines run along a row
    to_world[:3, 0], to_world[:3, 1], to_world[:3, 2] = across * spacing[1], down * spacing[0], step
    to_world[:3, 3] = places[order[0]]
    grid = make_header(folder, (int(found[0].Columns), int(found[0].Rows), len(found)), to_world)
    files = tuple(os.path.join(folder, names[i]) for i in order)
    images = tuple(str(found[i].SOPInstanceUID) for i in order)
    return Series(grid, files, images, series.pop())


@_silent()
def read_series(folder: str) -> Volume:
    """Voxels (x, y, z), rescale slope and intercept applied: int16 when that holds them exactly, else float32.

    Raises:
        SslMedError: as `read_series_header`, and for pixels that are missing, truncated or compressed by a method that
            no installed decoder knows.
    """
    series = read_series_header(folder)
    array: Array | None = None
    for k, path in enumerate(series.files):
        scaled, _ = _values(path, _read(path, pixels=True))
        if scaled.shape != (series.grid.shape[1], series.grid.shape[0]):
            raise SslMedError(f"{path}: holds {scaled.shape} pixels, its header says otherwise; copy it again")
        if array is None:  # only now: the header may ask for more than the files hold
            array = np.empty(series.grid.shape, np.int16)
        if array.dtype == np.int16 and not _fits_int16(scaled):
            array = array.astype(np.float32)  # what was read so far is held exactly
        array[:, :, k] = scaled.T
    assert array is not None
    return Volume(array, series.grid.to_world, series.grid.remarks)


@_silent()
def read_dicom_image(path: str) -> Array:
    """Values (rows, columns) float32 of one image, modality LUT applied; MONOCHROME1 (bright is low) is turned over.

    Raises:
        SslMedError: pydicom is absent; an unreadable, multi-frame or color file; pixels as in `read_series`.
    """
    image = _read(path, pixels=True)
    _check_frames(os.path.dirname(path), os.path.basename(path), image)
    if _in_color(image):
        raise SslMedError(f"{path}: is a color image; one grey image a file is needed")
    values, ends = _values(path, image)
    if image.get("PhotometricInterpretation", "") == "MONOCHROME1":
        if ends is None:
            raise SslMedError(f"{path}: is MONOCHROME1 but says no range of its pixels (BitsStored); export it again")
        values = ends[0] + ends[1] - values
    grey: Array = values.astype(np.float32)
    return grey


def _in_color(image: Any) -> bool:
    """Whether a number of a pixel is no grey level: one of three colors, or a place in a palette."""
    return bool(image.get("SamplesPerPixel", 1) != 1 or image.get("PhotometricInterpretation", "") == "PALETTE COLOR")


def _check_frames(folder: str, name: str, image: Any) -> None:
    frames = image.get("NumberOfFrames", 1) or 1
    if frames != 1:
        raise SslMedError(
            f"{os.path.join(folder, name)}: is multi-frame ({frames} frames in one file), which is not read; "
            "convert it to NIfTI, or to one file a frame"
        )


def _values(path: str, image: Any) -> tuple[Array, tuple[float, float] | None]:
    """Pixels after the modality LUT (PS3.3 C.11.1: a table, or slope and intercept), and the ends of their range after it."""
    stored = _pixels(path, image)
    ends = _ends(image)
    table = image.get("ModalityLUTSequence")
    if not table:
        slope, intercept = (_number(path, image, tag, other) for tag, other in _RESCALE.items())
        scaled = stored.astype(np.float64) * slope + intercept
        return scaled, None if ends is None else (ends[0] * slope + intercept, ends[1] * slope + intercept)
    if "RescaleSlope" in image or "RescaleIntercept" in image:
        raise SslMedError(
            f"{path}: has a Modality LUT Sequence and a rescale slope, of which DICOM allows one; export it again"
        )
    from pydicom.pixels.processing import apply_modality_lut

    try:
        looked_up: Array = apply_modality_lut(stored, image)
        every = apply_modality_lut(np.arange(65536).astype(stored.dtype), image)
    except Exception as error:  # what a damaged table raises has no common base
        raise SslMedError(f"{path}: its Modality LUT is damaged ({type(error).__name__}); export it again") from None
    return looked_up.astype(np.float64), (float(every.min()), float(every.max()))


def _ends(image: Any) -> tuple[float, float] | None:
    """The lowest and highest number that BitsStored can hold."""
    try:
        bits, signed = int(image.BitsStored), bool(image.PixelRepresentation)
    except (AttributeError, TypeError, ValueError):
        return None
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


def _fits_int16(values: Array) -> bool:
    low, high = float(values.min()), float(values.max())
    return low >= -(2**15) and high < 2**15 and bool((values == np.rint(values)).all())


_RESCALE = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
_RLE, _DEFLATE = 64, 1032  # bytes that one byte stands for at most: PS3.5 G.3.1, two for 128; deflate, two bits for 258


def _ordered(folder: str, names: list[str], places: Array, normal: Array, *, pixel: float) -> tuple[Array, Array]:
    """Order of the slices along the normal, and the vector from one to the next in mm."""
    along = places @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    usual = float(np.median(steps))
    close = np.flatnonzero(steps <= max(_STEP_TOLERANCE * usual, 1e-3))
    if close.size:
        first, second = (names[order[close[0] + k]] for k in (0, 1))
        raise SslMedError(
            f"{folder}: {first} and {second} lie at one position ({close.size} such pairs); keep one of each"
        )
    gaps = np.flatnonzero(np.abs(steps - usual) > _STEP_TOLERANCE * usual)
    if gaps.size:
        lost = round(float((steps[gaps] / usual - 1).clip(0).sum()))
        raise SslMedError(
            f"{folder}: slices are {usual:.3g} mm apart, but {steps[gaps[0]]:.3g} mm after {names[order[gaps[0]]]} "
            f"({gaps.size} such gaps, about {lost} of {len(names) + lost} slices missing); complete or remove the series"
        )
    step = (places[order[-1]] - places[order[0]]) / (len(names) - 1)
    drift = np.linalg.norm(step - (step @ normal) * normal) * (len(names) - 1)
    if drift > pixel:
        raise SslMedError(
            f"{folder}: slices are shifted by {drift:.3g} mm in their plane (tilted gantry); resample the series first"
        )
    return order, step


def _same(folder: str, what: str, values: list[Any]) -> Array:
    """The value that all images share."""
    rows = np.array(values, float)
    kinds = np.unique(np.round(rows, 3), axis=0)
    if np.abs(rows - rows[0]).max() > 1e-3:
        raise SslMedError(
            f"{folder}: images differ in {what} ({len(kinds)} kinds); remove localizers, or give each part its own folder"
        )
    first: Array = rows[0]
    return first


def _numbers(folder: str, image: Any, tag: str, count: int) -> Array:
    try:
        values = np.array([float(value) for value in image.get(tag)])
    except (TypeError, ValueError):
        values = np.zeros(0)
    if len(values) != count or not np.isfinite(values).all():
        raise SslMedError(f"{folder}: an image has no {tag} of {count} numbers; repair or remove the series")
    return values


def _number(path: str, image: Any, tag: str, default: float) -> float:
    try:
        value = float(image.get(tag, default) if image.get(tag, default) is not None else default)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise SslMedError(f"{path}: {tag} is no number; repair or remove the file")
    return value


def _pixels(path: str, image: Any) -> Array:
    from pydicom.pixels.decoders.base import get_decoder

    meta = getattr(image, "file_meta", None)
    syntax = getattr(meta, "TransferSyntaxUID", None)
    packed = bool(syntax is not None and getattr(syntax, "is_compressed", False))
    try:
        known = not packed or get_decoder(str(syntax)).is_available
    except NotImplementedError:
        known = False
    if not known:
        raise SslMedError(
            f"{path}: its pixels are compressed ({getattr(syntax, 'name', 'unknown')}) and no decoder is installed; "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress the files"
        )
    need = (
        int(image.get("Rows", 0) or 0) * int(image.get("Columns", 0) or 0) * int(image.get("BitsAllocated", 8) or 8) / 8
    )
    limit = _DEFLATE if getattr(syntax, "is_deflated", False) else _RLE if packed else 1
    rle = str(getattr(syntax, "name", "")).startswith("RLE")
    if (not packed or rle) and need > limit * os.path.getsize(path):
        raise SslMedError(f"{path}: its pixels are missing or truncated; copy or download it again")
    try:
        values: Array = image.pixel_array
    except Exception:  # a damaged stream makes the decoders raise what they like; the text may quote the header
        raise SslMedError(
            f"{path}: its pixels are missing or truncated, or damaged; copy or download it again"
        ) from None
    return values


def _read(path: str, *, pixels: bool) -> Any:
    try:
        import pydicom
    except ImportError:
        raise SslMedError(f"{path}: reading DICOM needs pydicom; pip install 'ssl-med[dicom]'") from None
    if os.path.exists(path) and not os.path.isfile(path):
        raise SslMedError(f"{path}: is a pipe, a socket or a device, no file; remove it, or give it another name")
    try:
        if pixels:
            return pydicom.dcmread(path)
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except Exception as error:  # what a damaged file raises has no common base, and its text may quote the header
        raise SslMedError(f"{path}: is no readable DICOM file ({type(error).__name__}); copy it again") from None
