"""Headers of text as MetaImage and NRRD have them: one field a line, and where the voxels are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ssl_med.spec import SslMedError

_LONGEST = 65536  # bytes of a line
_LARGEST = 1 << 20  # bytes of a header: user's keys may be long, voxels mistaken for one are longer


def read_fields(
    path: str,
    take: Callable[[str], bool],
    *,
    first: Callable[[str], bool] = lambda line: True,
    ends: bool = False,
    kind: str,
) -> int:
    """Feeds the lines of a header to `take` until it answers true; the byte at which the header ends.

    Args:
        path: the file.
        take: gets each line without its end; true ends the header.
        first: whether the first line is that of the format.
        ends: whether the header may end with the file.
        kind: name of the format, for messages.

    Raises:
        SslMedError: the file is absent, unreadable, or no such header.
    """
    try:
        with open(path, "rb") as file:
            known = False
            while (line := file.readline(_LONGEST)) and file.tell() < _LARGEST:
                text = line.decode("latin-1").rstrip("\r\n")
                known = known or first(text)
                if not known:
                    break
                if take(text):
                    return file.tell()
            if known and ends and not line:
                return file.tell()
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except OSError as error:
        raise SslMedError(f"{path}: cannot be read ({error.strerror})") from None
    raise SslMedError(f"{path}: is not a {kind} file, or its header breaks off; copy or download it again")


def beside(path: str, name: str) -> Path:
    """The data file that a header names, relative to its folder; `..` is resolved by name, links are not followed."""
    return Path(os.path.normpath(Path(path).parent / name))


def existing(path: str, name: str) -> Path:
    """As `beside`; refuses a file that is not there."""
    data = beside(path, name)
    if not data.is_file():
        raise SslMedError(f"{path}: its data file {name} is missing beside it; copy both")
    return data
