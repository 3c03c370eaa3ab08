"""Files -> arrays with their geometry: MetaImage, NRRD and .npy by numpy and zlib, NIfTI by nibabel, films by PIL."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
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


PLACEHOLDER = Header((1, 1, 1), np.eye(4))
_assumed: ContextVar[tuple[Path, Mapping[str, Header]]] = ContextVar("assumed", default=(Path(), {}))


@contextmanager
def assumed_headers(headers: Mapping[str, Header], *, root: Path) -> Iterator[None]:
    """Inside, `read_header` answers for these paths, relative to the root, without opening them."""
    token = _assumed.set((root, headers))
    try:
        yield
    finally:
        _assumed.reset(token)


def _assumed_header(path: str) -> Header | None:
    root, headers = _assumed.get()
    if not headers or not Path(path).is_relative_to(root):
        return None
    relative = Path(path).relative_to(root)
    names = (relative.as_posix(), *(parent.as_posix() for parent in relative.parents))
    return next((headers[name] for name in names if name in headers), None)


def voxel_file(path: str) -> Path:
    """The file that holds the voxels: the data file that a .mhd or .nhdr header names, else the path itself."""
    low = path.lower()
    if low.endswith((".mhd", ".mha")):
        return _MetaHeader.read(path).data
    return _NrrdHeader.read(path).data if low.endswith((".nrrd", ".nhdr")) else Path(path)


def read_header(path: str) -> Header:
    """Grid of a scan without decoding it; raises `SslMedError` that names the file.

    Formats: NIfTI, MetaImage, NRRD, .npy (no geometry: 1 mm, axes L, P, S), or a folder that holds one DICOM series.
    """
    assumed = _assumed_header(path)
    return assumed if assumed is not None else _format_of(path)[0](path)


def read_volume(path: str) -> Volume:
    """Decodes a scan of any format of `read_header`, scale factors applied.

    Raises:
        SslMedError: missing, truncated or malformed file, data of another size than the header says, not 3D,
            several numbers a voxel, NaN or infinite values.
    """
    volume = _format_of(path)[1](path)
    _check_finite(path, volume.array)
    return volume


def read_channels(path: str, count: int) -> list[Volume]:
    """The channels of a NIfTI file (x, y, z, `count`), as volumes on one grid; a 3D file is one channel.

    Raises:
        SslMedError: as `read_volume`, and for another number of channels.
    """
    image = _open_nifti(path)
    check_channels(path, count)
    shape, to_world = _spatial_shape(path, image.shape[:3]), _nifti_grid(path, image)
    array = _nifti_voxels(path, image).reshape(*shape, count)
    _check_finite(path, array)
    return [Volume(array[..., channel], to_world) for channel in range(count)]


def check_channels(path: str, count: int) -> Header:
    """Grid of a NIfTI file (x, y, z, `count`) from its header; raises `SslMedError` for another number of channels."""
    assumed = _assumed_header(path)
    if assumed is not None:
        return assumed
    image = _open_nifti(path)
    found = math.prod(image.shape[3:])
    if found != count:
        raise SslMedError(f"{path}: holds {found} channels a voxel, {count} are expected")
    return Header(_spatial_shape(path, image.shape[:3]), _nifti_grid(path, image))


def read_labels(path: str) -> Array:
    """Decodes a label map (x, y, z) to uint8; raises `SslMedError` for values that are no labels."""
    array = read_volume(path).array
    low, high = array.min(), array.max()
    labels = array.astype(np.uint8) if low >= 0 and high <= 255 else None
    if labels is None or not np.array_equal(labels, array):
        raise SslMedError(f"{path}: a mask must hold whole numbers 0..255, found values {low:g}..{high:g}")
    return labels


def source_files(path: str) -> list[Path]:
    """The files that a path stands for: itself, a header and its data, all files of a folder."""
    if os.path.isdir(path):
        return sorted(file for file in Path(path).iterdir() if file.is_file())
    return sorted({Path(path), voxel_file(path)})


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
    # PIL raises SyntaxError for a broken PNG chunk, and the bomb for a header that claims more than 178 megapixels
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SslMedError(f"{path}: cannot be read as an image ({error}); download it again") from None
    return array


# ----------------------------------------------------------------------------------------------------- NIfTI


def _open_nifti(path: str) -> Any:
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise SslMedError(f"{path}: is no readable NIfTI file ({_first_line(error)}); copy it again") from None


def _nifti_header(path: str) -> Header:
    image = _open_nifti(path)
    return Header(_spatial_shape(path, image.shape), _nifti_grid(path, image))


def _read_nifti(path: str) -> Volume:
    image = _open_nifti(path)
    if image.get_data_dtype().kind not in "iuf":
        raise SslMedError(
            f"{path}: holds {image.get_data_dtype()} values; one number a voxel is needed (no RGB, no phase)"
        )
    shape, to_world = _spatial_shape(path, image.shape), _nifti_grid(path, image)
    return Volume(_nifti_voxels(path, image).reshape(shape), to_world)


def _nifti_grid(path: str, image: Any) -> Array:
    return check_grid(path, _RAS_TO_LPS @ image.affine)


def _nifti_voxels(path: str, image: Any) -> Array:
    try:
        array: Array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        why = _first_line(error)
        raise SslMedError(f"{path}: is truncated or damaged ({why}); copy or download it again") from None
    return array


def _spatial_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    trimmed = tuple(int(size) for size in shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    if len(trimmed) != 3 or min(trimmed) < 1:
        raise SslMedError(f"{path}: has shape {trimmed}; one 3D volume a file is needed, split it first")
    return trimmed


def check_grid(path: str, to_world: Array) -> Array:
    """The matrix as float64; refuses one that is no map from voxels to millimetres."""
    matrix = np.asarray(to_world, float)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise SslMedError(f"{path}: the header has no valid voxel size or direction; repair its affine")
    return matrix


def _check_finite(path: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise SslMedError(f"{path}: {bad} voxels are NaN or infinite; repair or remove the file")


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
            if len(values) != count or not np.isfinite(values).all():
                raise SslMedError(f"{path}: the header needs {names[0]} with {count} numbers, not '{text}'")
            return values

        def whole(name: str, *, count: int, default: list[float] | None = None) -> tuple[int, ...]:
            values = numbers(name, count=count, default=default)
            if any(value != int(value) or abs(value) > 2**31 for value in values):
                raise SslMedError(f"{path}: the header needs {name} in whole numbers, not '{fields[name]}'")
            return tuple(int(value) for value in values)

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
        shape = whole("dimsize", count=3)
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
        skip = end if local else whole("headersize", count=1, default=[0])[0]
        grid = Header(shape, check_grid(path, to_world))
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
    need = _bytes(header.grid, header.dtype)
    content = _data_bytes(header.data, skip=header.skip, packed=header.compressed, need=need)
    if header.compressed:
        try:
            content = zlib.decompress(content, bufsize=need)  # else it is joined from parts
        except zlib.error as error:
            raise SslMedError(f"{header.data}: is truncated or damaged ({error}); copy or download it again") from None
    return _volume_of(content, header.grid, header.dtype, path=path, data=header.data)


def _bytes(grid: Header, dtype: np.dtype[Any]) -> int:
    return math.prod(grid.shape) * dtype.itemsize


def _data_bytes(data: Path, *, skip: int, packed: bool, need: int) -> bytes:
    """What follows the first `skip` bytes of a file; -1: its last `need` bytes."""
    with open(data, "rb") as file:
        if skip >= 0:
            file.seek(skip)
        elif not packed:
            file.seek(max(0, data.stat().st_size - need))
        return file.read()


def _volume_of(content: bytes, grid: Header, dtype: np.dtype[Any], *, path: str, data: Path) -> Volume:
    need = _bytes(grid, dtype)
    if len(content) != need:
        raise SslMedError(
            f"{data}: holds {len(content)} bytes but {Path(path).name} says {need} "
            f"({'x'.join(map(str, grid.shape))} of {dtype.itemsize} bytes); download it again"
        )
    # the first axis runs fastest on disk
    array = np.frombuffer(content, dtype).reshape(grid.shape, order="F")
    return Volume(array.astype(dtype.newbyteorder("="), copy=False), grid.to_world)


# ------------------------------------------------------------------------------------------------------ NRRD

_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
# the signs that turn each world into LPS
_NRRD_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


@dataclass(frozen=True)
class _NrrdHeader:
    """What a .nrrd/.nhdr header says (teem.sourceforge.net/nrrd/format.html); `skip` as in `_MetaHeader`."""

    grid: Header
    dtype: np.dtype[Any]
    data: Path
    skip: int
    packed: bool

    @classmethod
    def read(cls, path: str) -> _NrrdHeader:
        fields, end = _nrrd_fields(path)

        def refuse(key: str, why: str) -> SslMedError:
            return SslMedError(f"{path}: NRRD field '{key}' is '{fields.get(key, '')}'; {why}")

        def numbers(key: str, text: str, count: int) -> list[float]:
            try:
                values = [float(word) for word in re.split(r"[,\s]+", text.strip(" ()"))]
            except ValueError:
                values = []
            if len(values) != count or not np.isfinite(values).all():
                raise refuse(key, f"{count} numbers are needed")
            return values

        if fields.get("dimension") != "3":
            raise refuse("dimension", "one 3D volume a file is needed, split it first")
        if fields.get("type", "") not in _NRRD_TYPES:
            raise refuse("type", "it must be a number of 1 to 8 bytes")
        dtype = np.dtype(_NRRD_TYPES[fields["type"]])
        if dtype.itemsize > 1:
            if fields.get("endian") not in ("little", "big"):
                raise refuse("endian", "it must be little or big")
            dtype = dtype.newbyteorder("<" if fields["endian"] == "little" else ">")
        if fields.get("encoding") not in ("raw", "gzip", "gz"):
            raise refuse("encoding", "raw and gzip are read; save it as one of them")
        sizes = numbers("sizes", fields.get("sizes", ""), 3)
        if any(size != int(size) or not 1 <= size <= 2**31 for size in sizes):
            raise refuse("sizes", "they must be positive whole numbers")
        shape = tuple(int(size) for size in sizes)
        to_world = np.eye(4)
        if "space directions" in fields:
            signs = _NRRD_SPACES.get(fields.get("space", "").lower())
            if signs is None:
                raise refuse("space", f"it must be one of {', '.join(_NRRD_SPACES)}")
            vectors = re.findall(r"\([^)]*\)|none", fields["space directions"])
            if len(vectors) != 3 or "none" in vectors:
                raise refuse("space directions", "one vector for each of three axes is needed")
            for axis, vector in enumerate(vectors):
                to_world[:3, axis] = numbers("space directions", vector, 3)
            to_world[:3, 3] = numbers("space origin", fields.get("space origin", "(0,0,0)"), 3)
            to_world[:3] *= np.array(signs)[:, None]
        elif "spacings" in fields:
            to_world[:3, :3] = np.diag(np.abs(numbers("spacings", fields["spacings"], 3)))
        else:
            raise SslMedError(f"{path}: says no voxel size (NRRD fields 'space directions' or 'spacings'); add it")
        name = fields.get("data file", fields.get("datafile", ""))
        if name.upper().startswith("LIST") or "%" in name:
            raise refuse("data file", "it is not one file; save the volume with a single data file")
        data = Path(path).parent / name if name else Path(path)
        if not data.is_file():
            raise SslMedError(f"{path}: its data file {name} is missing beside it; copy both")
        packed = fields["encoding"] != "raw"
        if fields.get("line skip", fields.get("lineskip", "0")) != "0":
            raise refuse("line skip", "text before the voxels is not read; save it without")
        skip = fields.get("byte skip", fields.get("byteskip", "0"))
        if not re.fullmatch(r"0|[1-9]\d*|-1", skip) or (packed and skip != "0"):
            raise refuse("byte skip", "it must be a whole number, and 0 in a gzip file")
        first = int(skip) if name or int(skip) < 0 else end + int(skip)
        return cls(Header(shape, check_grid(path, to_world)), dtype, data, first, packed)


def _nrrd_fields(path: str) -> tuple[dict[str, str], int]:
    """Fields in lower case, and the byte at which an attached header ends."""
    fields: dict[str, str] = {}
    try:
        with open(path, "rb") as file:
            if not file.readline(64).startswith(b"NRRD000"):
                raise SslMedError(f"{path}: is not a NRRD file")
            while line := file.readline(65536).decode("latin-1").rstrip("\r\n"):
                key, colon, value = line.partition(":")
                if colon and not line.startswith("#") and not value.startswith("="):  # key:=value is a user's own
                    fields[key.strip().lower()] = value.strip()
            return fields, file.tell()
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except OSError as error:
        raise SslMedError(f"{path}: cannot be read ({error.strerror})") from None


def _read_nrrd(path: str) -> Volume:
    header = _NrrdHeader.read(path)
    content = _data_bytes(header.data, skip=header.skip, packed=header.packed, need=_bytes(header.grid, header.dtype))
    if header.packed:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise SslMedError(f"{header.data}: is truncated or damaged ({error}); copy or download it again") from None
    return _volume_of(content, header.grid, header.dtype, path=path, data=header.data)


# ------------------------------------------------------------------------------------------------------- npy


def _open_npy(path: str) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError) as error:
        raise SslMedError(f"{path}: is no readable .npy array ({_first_line(error)}); save it again") from None
    if array.dtype.kind not in "iufb" or array.dtype.itemsize > 8:
        raise SslMedError(f"{path}: holds {array.dtype} values; numbers are needed")
    return array


def _npy_header(path: str) -> Header:
    return Header(_spatial_shape(path, _open_npy(path).shape), np.eye(4))


def _read_npy(path: str) -> Volume:
    array = _open_npy(path)
    shape = _spatial_shape(path, array.shape)
    native = np.uint8 if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    return Volume(np.array(array.reshape(shape), dtype=native), np.eye(4))


# --------------------------------------------------------------------------------------------------- formats

_Readers = tuple[Callable[[str], Header], Callable[[str], Volume]]
_FORMATS: dict[tuple[str, ...], _Readers] = {
    (".nii", ".nii.gz"): (_nifti_header, _read_nifti),
    (".mhd", ".mha"): (lambda path: _MetaHeader.read(path).grid, _read_metaimage),
    (".nrrd", ".nhdr"): (lambda path: _NrrdHeader.read(path).grid, _read_nrrd),
    (".npy",): (_npy_header, _read_npy),
}
VOLUME_ENDINGS = tuple(ending for endings in _FORMATS for ending in endings)


def _format_of(path: str) -> _Readers:
    for endings, readers in _FORMATS.items():
        if path.lower().endswith(endings):
            return readers
    if Path(path).is_dir():
        from datamodules.core.dicom import read_series, read_series_header

        return lambda folder: read_series_header(folder).grid, read_series
    if not Path(path).exists():
        raise SslMedError(f"{path}: no such file")
    raise SslMedError(f"{path}: is no volume ({', '.join(VOLUME_ENDINGS)}, or a folder with one DICOM series)")
