"""MetaImage (.mhd, .mha) by numpy and zlib."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.grids import Header, Volume, check_grid
from datamodules.formats.raw import count_bytes, data_bytes, volume_of
from ssl_med.spec import SslMedError

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


@dataclass(frozen=True)
class MetaHeader:
    """What a .mhd/.mha header says; `skip` bytes of `data` come before the voxels (-1: they are its last)."""

    grid: Header
    dtype: np.dtype[Any]
    data: Path
    skip: int
    compressed: bool

    @classmethod
    def read(cls, path: str) -> MetaHeader:
        """Reads and checks it, and that its data file is there."""
        fields, end = _fields(path)

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


def _fields(path: str) -> tuple[dict[str, str], int]:
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


def read_metaimage(path: str) -> Volume:
    """Decodes a volume."""
    header = MetaHeader.read(path)
    need = count_bytes(header.grid, header.dtype)
    content = data_bytes(header.data, skip=header.skip, packed=header.compressed, need=need)
    if header.compressed:
        try:
            content = zlib.decompress(content, bufsize=need)  # else it is joined from parts
        except zlib.error as error:
            raise SslMedError(f"{header.data}: is truncated or damaged ({error}); copy or download it again") from None
    return volume_of(content, header.grid, header.dtype, path=path, data=header.data)
