"""Files -> arrays with their geometry: MetaImage by numpy and zlib, NIfTI by nibabel, films by PIL."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from PIL import Image

from ssl_med.spec import SslMedError

Array = np.ndarray[Any, Any]

_ELEMENTS = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # MetaIO: a long has 4 bytes on every machine, a long long 8
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Header:
    """Grid of a scan. `to_world` (4, 4) maps voxel indices to millimetres in LPS (x left, y back, z up)."""

    shape: tuple[int, ...]
    to_world: Array


@dataclass(frozen=True)
class Volume:
    """A scan as it lies on disk. `array` (x, y, z) in stored units, `to_world` as in `Header`."""

    array: Array
    to_world: Array


def is_metaimage(path: str) -> bool:
    """True for .mhd and .mha."""
    return path.lower().endswith((".mhd", ".mha"))


def read_header(path: str) -> Header:
    """Grid of a MetaImage or NIfTI file without decoding it; raises `SslMedError` that names the file."""
    if is_metaimage(path):
        return _MetaHeader.read(path).grid
    image = _open_nifti(path)
    return Header(_spatial_shape(path, image.shape), _checked(path, _RAS_TO_LPS @ image.affine))


def read_volume(path: str) -> Volume:
    """Decodes a MetaImage or NIfTI scan, scale factors applied.

    Raises:
        SslMedError: missing, truncated or malformed file, data of another size than the header says, not 3D,
            NaN or infinite values.
    """
    volume = _read_metaimage(path) if is_metaimage(path) else _read_nifti(path)
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        bad = int(np.count_nonzero(~np.isfinite(volume.array)))
        raise SslMedError(f"{path}: {bad} voxels are NaN or infinite; repair or remove the file")
    return volume


def read_labels(path: str) -> Array:
    """Decodes a label map (x, y, z) to uint8; raises `SslMedError` for values that are no labels."""
    array = read_volume(path).array
    low, high = array.min(), array.max()
    labels = array.astype(np.uint8) if low >= 0 and high <= 255 else None
    if labels is None or not np.array_equal(labels, array):
        raise SslMedError(f"{path}: a mask must hold whole numbers 0..255, found values {low:g}..{high:g}")
    return labels


def read_film(path: str) -> Array:
    """Grey levels (rows, columns), uint8, or uint16 for 16-bit files; colour is reduced to luminance."""
    return _read_image(path, "L")


def read_color(path: str) -> Array:
    """Red, green and blue (3, rows, columns) uint8; a grey file has three equal channels, transparency is dropped."""
    return np.ascontiguousarray(_read_image(path, "RGB").transpose(2, 0, 1))


def _read_image(path: str, mode: str) -> Array:
    try:
        with Image.open(path) as image:
            keep = image.mode == mode or (mode == "L" and image.mode.startswith("I;16"))
            array: Array = np.asarray(image if keep else image.convert(mode))
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    # PIL raises SyntaxError for a broken PNG chunk
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SslMedError(f"{path}: cannot be read as an image ({error}); download it again") from None
    return array


# ----------------------------------------------------------------------------------------------------- NIfTI


def _open_nifti(path: str) -> Any:
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise SslMedError(f"{path}: is no readable NIfTI file ({_first_line(error)}); copy it again") from None


def _read_nifti(path: str) -> Volume:
    image = _open_nifti(path)
    shape = _spatial_shape(path, image.shape)
    to_world = _checked(path, _RAS_TO_LPS @ image.affine)
    try:
        array: Array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        why = _first_line(error)
        raise SslMedError(f"{path}: is truncated or damaged ({why}); copy or download it again") from None
    return Volume(array.reshape(shape), to_world)


def _spatial_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    trimmed = tuple(int(size) for size in shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    if len(trimmed) != 3 or min(trimmed) < 1:
        raise SslMedError(f"{path}: has shape {trimmed}; one 3D volume a file is needed, split it first")
    return trimmed


def _checked(path: str, to_world: Array) -> Array:
    matrix = np.asarray(to_world, float)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise SslMedError(f"{path}: the header has no valid voxel size or direction; repair its affine")
    return matrix


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ------------------------------------------------------------------------------------------------- MetaImage


@dataclass(frozen=True)
class _MetaHeader:
    """What a .mhd/.mha header says; `skip` bytes of `data` come before the voxels (-1: they are its last)."""

    grid: Header
    dtype: np.dtype[Any]
    data: Path
    skip: int
    compressed: bool

    @classmethod
    def read(cls, path: str) -> _MetaHeader:
        fields, end = _meta_fields(path)

        def numbers(*names: str, count: int, default: list[float] | None = None) -> list[float]:
            text = next((fields[name] for name in names if name in fields), None)
            if text is None and default is not None:
                return default
            try:
                values = [float(word) for word in (text or "").split()]
            except ValueError:
                values = []
            if len(values) != count:
                raise SslMedError(f"{path}: the header needs {names[0]} with {count} numbers, not '{text}'")
            return values

        def flag(*names: str) -> bool:
            return any(fields.get(name, "").lower() in ("true", "t", "1") for name in names)

        if fields.get("ndims") != "3":
            raise SslMedError(f"{path}: NDims is {fields.get('ndims')}; one 3D volume a file is needed")
        if fields.get("elementnumberofchannels", "1") != "1":
            raise SslMedError(f"{path}: has several channels a voxel; one is needed")
        if fields.get("binarydata", "true").lower() in ("false", "f", "0"):
            raise SslMedError(f"{path}: voxels written as text are not read; save it with BinaryData = True")
        element = fields.get("elementtype", "")
        if element not in _ELEMENTS:
            raise SslMedError(f"{path}: ElementType '{element}' is not one of {', '.join(_ELEMENTS)}")
        big = flag("binarydatabyteordermsb", "elementbyteordermsb")
        shape = tuple(int(size) for size in numbers("dimsize", count=3))
        if min(shape) < 1:
            raise SslMedError(f"{path}: DimSize {list(shape)} must be positive")
        # row i of the matrix in the file is the direction in which voxel axis i runs
        turn = numbers("transformmatrix", "rotation", "orientation", count=9, default=list(np.eye(3).ravel()))
        spacing = numbers("elementspacing", "elementsize", count=3)
        to_world = np.eye(4)
        to_world[:3, :3] = np.reshape(turn, (3, 3)).T * np.abs(spacing)
        to_world[:3, 3] = numbers("offset", "position", "origin", count=3, default=[0.0, 0.0, 0.0])
        name = fields.get("elementdatafile", "")
        if not name or name.upper().startswith("LIST") or "%" in name:
            raise SslMedError(f"{path}: ElementDataFile '{name}' is not one file; save the volume with a single .raw")
        local = name.upper() == "LOCAL"
        data = Path(path) if local else Path(path).parent / name
        if not data.is_file():
            raise SslMedError(f"{path}: its data file {name} is missing beside it; copy both")
        skip = end if local else int(numbers("headersize", count=1, default=[0])[0])
        grid = Header(shape, _checked(path, to_world))
        return cls(grid, np.dtype((">" if big else "<") + _ELEMENTS[element]), data, skip, flag("compresseddata"))


def _meta_fields(path: str) -> tuple[dict[str, str], int]:
    """Keys in lower case, and the byte at which the header ends (`ElementDataFile` is its last key)."""
    fields: dict[str, str] = {}
    try:
        with open(path, "rb") as file:
            while line := file.readline(65536):
                key, equals, value = line.decode("latin-1").partition("=")
                if not equals:
                    break
                fields[key.strip().lower()] = value.strip()
                if key.strip().lower() == "elementdatafile":
                    return fields, file.tell()
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except OSError as error:
        raise SslMedError(f"{path}: cannot be read ({error.strerror})") from None
    raise SslMedError(f"{path}: is not a MetaImage header (no ElementDataFile)")


def _read_metaimage(path: str) -> Volume:
    header = _MetaHeader.read(path)
    need = math.prod(header.grid.shape) * header.dtype.itemsize
    with open(header.data, "rb") as file:
        if header.skip >= 0:
            file.seek(header.skip)
        elif not header.compressed:  # HeaderSize = -1: the voxels are the file's last bytes
            file.seek(max(0, header.data.stat().st_size - need))
        content = file.read()
    if header.compressed:
        try:
            content = zlib.decompress(content)
        except zlib.error as error:
            raise SslMedError(f"{header.data}: is truncated or damaged ({error}); copy or download it again") from None
    if len(content) != need:
        raise SslMedError(
            f"{header.data}: holds {len(content)} bytes but {Path(path).name} says {need} "
            f"({'x'.join(map(str, header.grid.shape))} of {header.dtype.itemsize} bytes); download it again"
        )
    # the first axis runs fastest on disk
    array = np.frombuffer(content, header.dtype).reshape(header.grid.shape, order="F")
    return Volume(array.astype(header.dtype.newbyteorder("="), copy=False), header.grid.to_world)
