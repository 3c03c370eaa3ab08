"""Files of numpy arrays: read without pickles, and no larger in memory than a file of weights can be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ssl_med.reading import MB, UnreadableError
from ssl_med.spec import first_line

_FACTOR, _SMALL = 20, 64 * MB  # weights are noise and hardly shrink; small files may, such as one of zeros


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name.

    Raises:
        UnreadableError: damaged, one that unpacks to much more than it holds, or one with Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
        if unpacked > max(_SMALL, _FACTOR * path.stat().st_size):
            raise UnreadableError(f"would unpack to {unpacked / MB:.0f} MB, which weights never do")
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except UnreadableError:
        raise
    except Exception as error:  # numpy and zipfile have many errors for damaged files
        if "pickle" in str(error):
            raise UnreadableError("holds Python objects, which would run code; save plain arrays of numbers") from None
        raise UnreadableError(f"is not a readable file of arrays ({first_line(error)[:120]})") from None
