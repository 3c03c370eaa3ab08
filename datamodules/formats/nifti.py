"""NIfTI (.nii, .nii.gz) by nibabel, with what it passes over: units, the end of the stream, sizes that cannot be."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from datamodules.formats.grids import Array, Header, Remark, Volume, corners, make_header, spatial_shape
from datamodules.formats.raw import check_room
from ssl_med.files import new_file
from ssl_med.spec import SslMedError, first_line

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNITS = {1: (1e3, "metres"), 3: (1e-3, "micrometres")}  # nifti1.h: the low three bits of xyzt_units; 2 is mm
_BROKEN = (OSError, EOFError, ValueError, TypeError, OverflowError, zlib.error, ImageFileError, HeaderDataError)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The image of nibabel, its voxels not read yet. Packed or not is seen by the content, as zlib does it, not by the name."""
    log = logging.getLogger("nibabel.global")
    level, log.level = log.level, logging.CRITICAL + 1  # what it logs of a header becomes a remark or a refusal
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            head = stream.read(4)
            kind = _KINDS.get(int.from_bytes(head, "little")) or _KINDS.get(int.from_bytes(head, "big"))
            if kind is None:
                raise SslMedError(
                    f"{path}: is no readable NIfTI file (its header does not begin as one); copy it again"
                )
            stream.seek(0)
            image: Any = kind.from_file_map({"image": nib.FileHolder(fileobj=stream)}, mmap=False)
            if image.get_data_dtype().kind not in "iuf":
                raise SslMedError(
                    f"{path}: holds {image.get_data_dtype()} values; one number a voxel is needed (no RGB, no phase)"
                )
            yield image, stream, packed
    except SslMedError:
        raise
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except _BROKEN as error:
        raise SslMedError(f"{path}: is no readable NIfTI file ({first_line(error)}); copy it again") from None
    finally:
        log.level = level


_KINDS: dict[int, Any] = {348: nib.Nifti1Image, 540: nib.Nifti2Image}  # by sizeof_hdr, the first number of the file


def nifti_header(path: str) -> Header:
    """Grid of a volume."""
    with _opened(path) as (image, stream, _):
        return _grid(path, image, stream, spatial_shape(path, image.shape))


def nifti_channels_header(path: str) -> tuple[Header, int]:
    """Grid of a file (x, y, z[, channels]), and how many numbers a voxel has."""
    with _opened(path) as (image, stream, _):
        shape = spatial_shape(path, image.shape[:3])
        return _grid(path, image, stream, shape), math.prod(image.shape[3:])


def read_nifti(path: str) -> Volume:
    """Decodes a volume, scale factors applied."""
    with _opened(path) as (image, stream, packed):
        grid = _grid(path, image, stream, spatial_shape(path, image.shape))
        array = _voxels(path, image, stream, packed=packed)
    return Volume(array.reshape(grid.shape), grid.to_world, grid.remarks)


def read_nifti_channels(path: str) -> Volume:
    """Decodes a file of any number of channels: `array` (x, y, z, channels), scale factors applied."""
    with _opened(path) as (image, stream, packed):
        grid = _grid(path, image, stream, spatial_shape(path, image.shape[:3]))
        array = _voxels(path, image, stream, packed=packed)
    return Volume(array.reshape(*grid.shape, -1), grid.to_world, grid.remarks)


def _voxels(path: str, image: Any, stream: Any, *, packed: bool) -> Array:
    need = math.prod(image.shape) * image.get_data_dtype().itemsize
    check_room(path, need=need, size=Path(path).stat().st_size, encoding="gzip" if packed else "raw")
    try:
        array: Array = np.asanyarray(image.dataobj)
        while packed and stream.read(1 << 20):  # to the end, where the checksum and the length are compared
            pass
    except _BROKEN as error:
        why = first_line(error)
        raise SslMedError(f"{path}: is truncated or damaged ({why}); copy or download it again") from None
    return array.astype(np.float64) if array.dtype.itemsize > 8 else array


def _grid(path: str, image: Any, stream: Any, shape: tuple[int, ...]) -> Header:
    """The sform where its code is set, else the qform, else the voxel sizes alone; in mm."""
    header = image.header
    stream.seek(0)
    # as it lies in the file: when an image is opened, nibabel repairs a size of 0 or below
    raw = np.asarray(type(header).from_fileobj(stream, check=False)["pixdim"][1:4], float)
    sizes = " x ".join(f"{size:.4g}" for size in raw)
    scale, unit = _UNITS.get(int(header["xyzt_units"]) & 7, (1.0, ""))
    remarks = [Remark("units", f"lengths in {unit} are turned into mm")] if unit else []
    by_sform, by_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    to_world = _RAS_TO_LPS @ np.asarray(image.affine, float)
    usable = bool(np.isfinite(raw).all() and (raw > 0).all())
    if not by_sform and not usable:
        raise SslMedError(f"{path}: the header has no valid voxel size ({sizes}); repair its pixdim")
    if not by_sform and not by_qform:
        remarks.append(Remark("orientation", "sform and qform codes are 0; axes are taken as L, A, S"))
    if by_sform and (why := _differ(image, raw, sizes, shape, both=by_qform)):
        remarks.append(Remark("forms", f"{why}; the sform is used"))
    to_world[:3] *= scale
    return make_header(path, shape, to_world, remarks)


def _differ(image: Any, raw: Array, sizes: str, shape: tuple[int, ...], *, both: bool) -> str:
    """How the sform disagrees with the voxel sizes or the qform, or ''."""
    sform = image.get_sform()
    own = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(raw, own, rtol=0.01):
        return f"voxel size {sizes}, by the sform {' x '.join(f'{size:.4g}' for size in own)}"
    if not both:
        return ""
    try:
        apart = float(np.linalg.norm((corners(shape) @ (sform - image.get_qform()).T)[:, :3], axis=1).max())
    except _BROKEN:
        return "the qform is not valid"
    return f"sform and qform lie up to {apart:.3g} apart" if apart > 0.5 * own.min() else ""


def write_nifti(path: Path, array: Array, to_world: Array) -> None:
    """Writes a volume (x, y, z) on a grid, whose (4, 4) matrix maps voxels to millimetres in LPS; the file appears whole.

    Raises:
        SslMedError: it cannot be written.
    """
    image = nib.Nifti1Image(array, _RAS_TO_LPS @ to_world)  # its own inverse
    image.header.set_xyzt_units("mm")
    with new_file(path) as file:
        nib.save(image, file)
