"""Zip archives of weights: whole, and no larger when they are unpacked than a file of weights can be."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ssl_med.reading import MB, UnreadableError

_START = b"PK\x03\x04"


def check_archive(path: Path, *, factor: float, least: int = 0) -> bool:
    """Whether a file is a zip archive; nothing of it is unpacked.

    Args:
        path: of a file.
        factor: how much larger than the file its records may be.
        least: bytes to which a small file may unpack, whatever the factor.

    Raises:
        UnreadableError: it begins as an archive and lacks its end, or would unpack to more than that.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            cut = file.read(len(_START)) == _START
        if cut:
            raise UnreadableError("is cut off: an archive without its end; download it again")
        return False
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked > max(least, factor * path.stat().st_size):
        raise UnreadableError(f"would unpack to {unpacked / MB:.0f} MB, which weights never do")
    return True
