"""Voxels that lie one after the other in a file that a header of text describes: raw, packed, or written as text.

A header may lie. What it asks for is compared with what the file can hold before memory is taken, and a packed stream is
read to its end, where its checksum stands.
"""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.formats.grids import Array, Header, Volume
from ssl_med.spec import SslMedError

Encoding = Literal["raw", "gzip", "bzip2", "text", "hex"]  # gzip: of zlib's two wrappers either

_CHUNK = 1 << 20
# bytes that one byte of a file can stand for: deflate codes 258 bytes in 2 bits, bzip2 45,899,236 in 46 (its own manual's
# case of one repeated byte, rounded up), a text number takes a digit and a space
_EXPANDS: dict[str, float] = {"raw": 1, "gzip": 1032, "bzip2": 1_000_000, "text": 8 / 2, "hex": 1 / 2}


def count_bytes(grid: Header, dtype: np.dtype[Any]) -> int:
    """Bytes of the voxels of a grid."""
    return math.prod(grid.shape) * dtype.itemsize


def check_room(path: str | Path, *, need: int, size: int, encoding: Encoding, header: str = "its header") -> None:
    """Refuses a header that asks for more bytes than `size` bytes of a file can stand for."""
    if need > _EXPANDS[encoding] * size + 1024:
        raise SslMedError(
            f"{path}: is truncated or damaged ({header} asks for {need} bytes, which {size} bytes cannot hold); "
            "copy or download it again"
        )


def read_voxels(
    data: Path,
    grid: Header,
    dtype: np.dtype[Any],
    *,
    path: str,
    encoding: Encoding,
    begin: int = 0,
    lines: int = 0,
    skip: int = 0,
    inner: int = 0,
) -> Volume:
    """The voxels of the file `data`, whose header is `path`.

    Args:
        data: the file.
        grid: what the header says.
        dtype: of one voxel as stored.
        path: the header, for messages.
        encoding: how they are written.
        begin: where the header ends that lies in the same file.
        lines: lines of text behind that.
        skip: bytes behind those; -1: the voxels are the last bytes of the file.
        inner: bytes before them in what a packed file unpacks to.

    Raises:
        SslMedError: the file holds another number of them than the header says, or is damaged.
    """
    need, name = count_bytes(grid, dtype), Path(path).name
    try:
        size = data.stat().st_size
        check_room(data, need=need, size=size, encoding=encoding, header=name)
        with data.open("rb") as file:
            file.seek(begin)
            for _ in range(lines):
                file.readline()
            file.seek(max(0, size - need) if skip < 0 and encoding == "raw" else file.tell() + max(skip, 0))
            if encoding == "raw":
                _refuse_count(data, size - file.tell(), grid, dtype, name=name)
                array: Array = np.fromfile(file, dtype, math.prod(grid.shape))
            elif encoding in ("gzip", "bzip2"):
                array = _unpacked(data, file, grid, dtype, inner=inner, gzip=encoding == "gzip", name=name)
            else:
                array = _from_text(data, file.read(), dtype, hexadecimal=encoding == "hex")
                _refuse_count(data, array.size * dtype.itemsize, grid, dtype, name=name)
    except OSError as error:
        raise SslMedError(f"{data}: cannot be read ({error.strerror or error})") from None
    if array.size != math.prod(grid.shape):
        _refuse_count(data, array.size * dtype.itemsize, grid, dtype, name=name)
    # the first axis runs fastest on disk
    array = array.reshape(grid.shape, order="F")
    return Volume(array.astype(dtype.newbyteorder("="), copy=False), grid.to_world, grid.remarks)


def _refuse_count(data: Path, found: int, grid: Header, dtype: np.dtype[Any], *, name: str) -> None:
    need = count_bytes(grid, dtype)
    if found != need:
        raise SslMedError(
            f"{data}: holds {found} bytes but {name} says {need} "
            f"({'x'.join(map(str, grid.shape))} of {dtype.itemsize} bytes); download it again"
        )


def _unpacked(data: Path, file: Any, grid: Header, dtype: np.dtype[Any], *, inner: int, gzip: bool, name: str) -> Array:
    need = count_bytes(grid, dtype)
    out = np.empty(need, np.uint8)
    at = -inner
    try:
        for part in inflate(file, gzip=gzip):
            begin = max(0, -at)  # bytes before the voxels
            end = min(len(part), need - at)
            if end > begin:
                out[at + begin : at + end] = np.frombuffer(part, np.uint8)[begin:end]
            at += len(part)
            if at > need:
                break
    except (zlib.error, OSError, EOFError) as error:
        raise SslMedError(f"{data}: is truncated or damaged ({error}); copy or download it again") from None
    if at > need:
        raise SslMedError(
            f"{data}: holds more than the {need} bytes that {name} says "
            f"({'x'.join(map(str, grid.shape))} of {dtype.itemsize} bytes); download it again"
        )
    _refuse_count(data, max(at, 0), grid, dtype, name=name)
    return out.view(dtype)


def inflate(file: Any, *, gzip: bool) -> Iterator[bytes]:
    """The content of a gzip, zlib or bzip2 file in parts, verified to its end: checksum, length, nothing behind it.

    Raises:
        EOFError: the stream breaks off. zlib.error, OSError: it is damaged, or followed by something else.
    """
    content = file.read(_CHUNK)
    while True:
        engine: Any = zlib.decompressobj(zlib.MAX_WBITS | 32) if gzip else bz2.BZ2Decompressor()
        while not engine.eof:
            # bzip2 keeps what it has not come to; zlib hands it back
            if not content and (gzip or engine.needs_input):
                content = file.read(_CHUNK)
                if not content:
                    raise EOFError("the compressed stream breaks off before its end")
            part = engine.decompress(content, _CHUNK)
            content = engine.unconsumed_tail if gzip else b""
            if part:
                yield part
        content = engine.unused_data
        # a gzip file may have several members, and zeros behind the last; anything else is refused as a bad member
        while not content.strip(b"\0"):
            content = file.read(_CHUNK)
            if not content:
                return
        content = content.lstrip(b"\0")


def _from_text(data: Path, content: bytes, dtype: np.dtype[Any], *, hexadecimal: bool) -> Array:
    try:
        if hexadecimal:
            octets = bytes.fromhex(content.decode("ascii"))
            if len(octets) % dtype.itemsize:
                raise ValueError("breaks off within a number")
            return np.frombuffer(octets, dtype)
        words = content.decode("ascii").replace(",", " ").split()
        if dtype.kind == "f":
            return np.array([float(word) for word in words], dtype)
        return np.array([int(word) for word in words], dtype)
    except (ValueError, OverflowError) as error:
        raise SslMedError(f"{data}: its voxels, written as text, are damaged ({error}); save it again") from None
