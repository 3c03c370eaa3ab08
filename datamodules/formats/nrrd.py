"""NRRD (.nrrd, .nhdr), as its definition says (teem.sourceforge.net/nrrd/format.html): words are read whatever their case."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.fields import existing, read_fields
from datamodules.formats.grids import Array, Header, Remark, Volume, make_header
from datamodules.formats.raw import Encoding, read_voxels
from ssl_med.spec import SslMedError

_TYPES = {
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
_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


_ENCODINGS: dict[str, Encoding] = {
    "raw": "raw",
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
    **dict.fromkeys(("txt", "text", "ascii"), "text"),
    "hex": "hex",
}
_UNITS = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}


@dataclass(frozen=True)
class NrrdHeader:
    """What a .nrrd/.nhdr header says.

    The voxels come behind `begin` bytes, `lines` lines and `skip` bytes of `data` (-1: they are its last), and behind `inner`
    bytes of what a packed file unpacks to.
    """

    grid: Header
    dtype: np.dtype[Any]
    data: Path
    begin: int
    lines: int
    skip: int
    inner: int
    encoding: Encoding

    @classmethod
    def read(cls, path: str) -> NrrdHeader:
        """Reads and checks it, and that its data file is there."""
        fields, end = _fields(path)
        if fields.get("dimension") != "3":
            raise _refusal(path, fields, "dimension", "one 3D volume a file is needed, split it first")
        kind = fields.get("type", "").lower()
        if kind not in _TYPES:
            raise _refusal(path, fields, "type", "it must be a number of 1 to 8 bytes")
        encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
        if encoding is None:
            raise _refusal(path, fields, "encoding", f"it must be one of {', '.join(_ENCODINGS)}")
        dtype = np.dtype(_TYPES[kind])
        if dtype.itemsize > 1 and encoding != "text":
            if fields.get("endian", "").lower() not in ("little", "big"):
                raise _refusal(path, fields, "endian", "it must be little or big")
            dtype = dtype.newbyteorder("<" if fields["endian"].lower() == "little" else ">")
        sizes = _numbers(path, fields, "sizes", fields.get("sizes", ""))
        if any(size != int(size) or not 1 <= size <= 2**31 for size in sizes):
            raise _refusal(path, fields, "sizes", "they must be positive whole numbers")
        shape = tuple(int(size) for size in sizes)
        to_world, remarks = _geometry(path, fields)
        grid = make_header(path, shape, to_world, remarks)
        name = fields.get("data file", fields.get("datafile", ""))
        several = name.upper().startswith("LIST") or "%" in name
        if several and not (Path(path).parent / name).is_file():
            raise _refusal(path, fields, "data file", "it is not one file; save the volume with a single data file")
        data = existing(path, name) if name else Path(path)
        lines = _count(path, fields, "line skip", "lineskip", least=0)
        skip = _count(path, fields, "byte skip", "byteskip", least=-1 if encoding == "raw" else 0)
        packed = encoding in ("gzip", "bzip2")
        return cls(
            grid=grid,
            dtype=dtype,
            data=data,
            begin=0 if name else end,
            lines=lines,
            skip=0 if packed else skip,
            inner=skip if packed else 0,
            encoding=encoding,
        )


def _refusal(path: str, fields: dict[str, str], key: str, why: str) -> SslMedError:
    return SslMedError(f"{path}: NRRD field '{key}' is '{fields.get(key, '')}'; {why}")


def _numbers(path: str, fields: dict[str, str], key: str, text: str, count: int = 3) -> list[float]:
    try:
        values = [float(word) for word in re.split(r"[,\s]+", text.strip(" ()"))]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise _refusal(path, fields, key, f"{count} numbers are needed")
    return values


def _count(path: str, fields: dict[str, str], *names: str, least: int) -> int:
    key = next((name for name in names if name in fields), names[0])
    text = fields.get(key, "0")
    if not re.fullmatch(r"-1|\d{1,12}", text) or int(text) < least:
        raise _refusal(path, fields, key, f"it must be a whole number, {least} or more")
    return int(text)


def _geometry(path: str, fields: dict[str, str]) -> tuple[Array, list[Remark]]:
    """`to_world`, and what is odd about it."""
    to_world, remarks = np.eye(4), []
    space = fields.get("space", "").lower()
    if "space directions" in fields:
        vectors = re.findall(r"\([^)]*\)|none", fields["space directions"])
        if len(vectors) != 3 or "none" in vectors:
            raise _refusal(path, fields, "space directions", "one vector for each of three axes is needed")
        for axis, vector in enumerate(vectors):
            to_world[:3, axis] = _numbers(path, fields, "space directions", vector)
        to_world[:3, 3] = _numbers(path, fields, "space origin", fields.get("space origin", "(0,0,0)"))
        if space in _SPACES:
            to_world[:3] *= np.array(_SPACES[space])[:, None]
        else:  # ITK takes such a space as LPS
            remarks.append(
                Remark("orientation", f"the space '{space}' names no direction of the patient; taken as LPS")
            )
    elif "spacings" in fields:
        to_world[:3, :3] = np.diag(_numbers(path, fields, "spacings", fields["spacings"]))
        remarks.append(Remark("orientation", "the header gives no directions (space directions); taken as LPS"))
    else:
        remarks.append(Remark("orientation", "the header gives no directions (space directions); taken as LPS"))
        remarks.append(Remark("size", "the header gives no voxel size (space directions or spacings); 1 mm is taken"))
    units = {
        word.strip().lower() for word in re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    }
    scale = {_UNITS[unit] for unit in units if unit in _UNITS}
    if len(scale) > 1:
        raise _refusal(path, fields, "space units", "all axes must have one unit")
    if scale and scale != {1.0}:
        to_world[:3] *= scale.pop()
        remarks.append(Remark("units", f"lengths in {', '.join(sorted(units & _UNITS.keys()))} are turned into mm"))
    return to_world, remarks


def _fields(path: str) -> tuple[dict[str, str], int]:
    """Fields in lower case, and the byte at which an attached header ends."""
    fields: dict[str, str] = {}

    def take(line: str) -> bool:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):  # key:=value is a user's own
            fields[key.strip().lower()] = value.strip()
        # a detached header may end with the file
        return not line

    return fields, read_fields(path, take, first=lambda line: line.startswith("NRRD"), ends=True, kind="NRRD")


def read_nrrd(path: str) -> Volume:
    """Decodes a volume."""
    header = NrrdHeader.read(path)
    return read_voxels(
        header.data,
        header.grid,
        header.dtype,
        path=path,
        encoding=header.encoding,
        begin=header.begin,
        lines=header.lines,
        skip=header.skip,
        inner=header.inner,
    )
