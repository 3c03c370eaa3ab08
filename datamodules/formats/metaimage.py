"""MetaImage (.mhd, .mha), as MetaIO and ITK read it (github.com/Kitware/MetaIO)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.fields import existing, read_fields
from datamodules.formats.grids import Header, Remark, Volume, make_header
from datamodules.formats.raw import Encoding, read_voxels
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
_UNITS = {"um": 1e-3, "mm": 1.0, "cm": 10.0}


@dataclass(frozen=True)
class MetaHeader:
    """What a .mhd/.mha header says; the voxels come behind `begin` and `skip` bytes of `data` (-1: they are its last)."""

    grid: Header
    dtype: np.dtype[Any]
    data: Path
    begin: int
    skip: int
    encoding: Encoding

    @classmethod
    def read(cls, path: str) -> MetaHeader:
        """Reads and checks it, and that its data file is there."""
        fields, end = _fields(path)

        def said(*names: str) -> str | None:
            """What a field says under any of its names; refuses two that differ."""
            found = {" ".join(fields[name].lower().split()): fields[name] for name in names if name in fields}
            if len(found) > 1:
                raise SslMedError(f"{path}: {' and '.join(found.values())} are given for {names[0]}; keep one of them")
            return next(iter(found.values()), None)

        def numbers(*names: str, count: int, default: list[float] | None = None) -> list[float]:
            text = said(*names)
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

        def flag(*names: str, default: str = "False") -> bool:
            return (said(*names) or default)[:1] in ("T", "t", "1")

        if fields.get("ndims") != "3":
            raise SslMedError(f"{path}: NDims is {fields.get('ndims')}; one 3D volume a file is needed")
        if fields.get("elementnumberofchannels", "1") != "1":
            raise SslMedError(f"{path}: has several channels a voxel; one is needed")
        element = fields.get("elementtype", "").upper()
        if element not in _ELEMENTS:
            raise SslMedError(f"{path}: ElementType '{element}' is not one of {', '.join(_ELEMENTS)}")
        big = flag("binarydatabyteordermsb", "elementbyteordermsb")
        shape = whole("dimsize", count=3)
        if min(shape) < 1:
            raise SslMedError(f"{path}: DimSize {list(shape)} must be positive")
        # row i of the matrix in the file is the direction in which voxel axis i runs
        turn = numbers("transformmatrix", "rotation", "orientation", count=9, default=list(np.eye(3).ravel()))
        # ElementSize is that of the sensor's element; where the distance is given, the distance counts
        name = "elementspacing" if "elementspacing" in fields else "elementsize"
        remarks = []
        if name not in fields:
            remarks.append(Remark("size", "the header gives no voxel size (ElementSpacing); 1 mm is taken"))
        spacing = numbers(name, count=3, default=[1.0, 1.0, 1.0])
        to_world = np.eye(4)
        to_world[:3, :3] = np.reshape(turn, (3, 3)).T * spacing  # a negative spacing turns its axis round, as in ITK
        to_world[:3, 3] = numbers("offset", "position", "origin", count=3, default=[0.0, 0.0, 0.0])
        unit = fields.get("distanceunits", "mm").lower()
        if _UNITS.get(unit, 1.0) != 1.0:
            to_world[:3] *= _UNITS[unit]
            remarks.append(Remark("units", f"lengths in {unit} are turned into mm"))
        grid = make_header(path, shape, to_world, remarks)
        name = fields.get("elementdatafile", "")
        local = name.upper() == "LOCAL"
        if not name or (not local and not (Path(path).parent / name).is_file() and _several(name)):
            raise SslMedError(f"{path}: ElementDataFile '{name}' is not one file; save the volume with a single .raw")
        data = Path(path) if local else existing(path, name)
        skip = 0 if local else whole("headersize", count=1, default=[0])[0]
        text = not flag("binarydata", default="True")
        encoding: Encoding = "text" if text else "gzip" if flag("compresseddata") else "raw"
        return cls(
            grid, np.dtype((">" if big else "<") + _ELEMENTS[element]), data, end if local else 0, skip, encoding
        )


def _several(name: str) -> bool:
    """Whether the name stands for a file a slice: a list, or a pattern with its range."""
    return name.upper().startswith("LIST") or "%" in name


def _fields(path: str) -> tuple[dict[str, str], int]:
    """Keys in lower case, and the byte at which the header ends (`ElementDataFile` is its last key)."""
    fields: dict[str, str] = {}

    def take(line: str) -> bool:
        place = min((at for at in (line.find("="), line.find(":")) if at >= 0), default=-1)
        if place < 0 and line.strip():
            raise SslMedError(f"{path}: is not a MetaImage header (no ElementDataFile)")
        key = line[:place].strip().lower() if place >= 0 else ""
        fields[key] = line[place + 1 :].strip(" \t=:")
        return key == "elementdatafile"

    return fields, read_fields(path, take, kind="MetaImage")


def read_metaimage(path: str) -> Volume:
    """Decodes a volume."""
    header = MetaHeader.read(path)
    return read_voxels(
        header.data,
        header.grid,
        header.dtype,
        path=path,
        encoding=header.encoding,
        begin=header.begin,
        skip=header.skip,
    )
