"""NRRD (.nrrd, .nhdr) by numpy and zlib."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.grids import Header, Volume, check_grid
from datamodules.formats.raw import count_bytes, data_bytes, volume_of
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


@dataclass(frozen=True)
class NrrdHeader:
    """What a .nrrd/.nhdr header says (teem.sourceforge.net/nrrd/format.html); `skip` as in `MetaHeader`."""

    grid: Header
    dtype: np.dtype[Any]
    data: Path
    skip: int
    packed: bool

    @classmethod
    def read(cls, path: str) -> NrrdHeader:
        """Reads and checks it, and that its data file is there."""
        fields, end = _fields(path)

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
        if fields.get("type", "") not in _TYPES:
            raise refuse("type", "it must be a number of 1 to 8 bytes")
        dtype = np.dtype(_TYPES[fields["type"]])
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
            signs = _SPACES.get(fields.get("space", "").lower())
            if signs is None:
                raise refuse("space", f"it must be one of {', '.join(_SPACES)}")
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


def _fields(path: str) -> tuple[dict[str, str], int]:
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


def read_nrrd(path: str) -> Volume:
    """Decodes a volume."""
    header = NrrdHeader.read(path)
    content = data_bytes(
        header.data, skip=header.skip, packed=header.packed, need=count_bytes(header.grid, header.dtype)
    )
    if header.packed:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise SslMedError(f"{header.data}: is truncated or damaged ({error}); copy or download it again") from None
    return volume_of(content, header.grid, header.dtype, path=path, data=header.data)
