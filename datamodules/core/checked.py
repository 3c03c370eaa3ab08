"""Files that are there as a whole or not at all, and that know when they are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.grids import Array
from ssl_med.files import write_file


def write_atomic(path: Path, content: bytes) -> None:
    """A file that is there as a whole or not at all, whatever kills the process or the machine."""
    write_file(path, lambda file: file.write(content))


def checked(array: Array) -> bytes:
    """As .npy, and the sum of all before as the last eight bytes."""
    import io

    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    content = file.getvalue()
    return content + word_sum(content).to_bytes(8, "little")


def read_checked(path: Path) -> Array | None:
    """What `checked` wrote, mapped into memory; None when it is absent or damaged."""
    try:
        content = np.memmap(path, np.uint8, mode="r")
        if word_sum(content[:-8]) != int(content[-8:].view(np.uint64)[0]):
            return None
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return array


def word_sum(content: Any) -> int:
    """Sum of the 64-bit words modulo 2^64: finds a changed word at the speed of memory, some ten times that of a CRC."""
    octets = np.frombuffer(content, np.uint8)
    whole = octets.size // 8 * 8
    rest = int.from_bytes(octets[whole:].tobytes(), "little")
    return (int(octets[:whole].view(np.uint64).sum(dtype=np.uint64)) + rest) & 0xFFFFFFFFFFFFFFFF
