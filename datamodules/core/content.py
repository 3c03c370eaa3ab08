"""A digest of what cases are made of: names, labels and the bytes of their files."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.core.cases import case_files
from datamodules.core.readers import source_files
from ssl_med.spec import SslMedError

_WHOLE = 2**23  # bytes; larger files are looked at in samples
_SAMPLES, _SAMPLE = 16, 2**16


def content_key(cases: Sequence[Any], files: Iterable[str] = ()) -> str:
    """32 hex digits that change with every field of the cases and with the content of their files.

    Files of up to 8 MiB are read whole. Of larger ones 16 samples count, and their times: that of the last change of content
    and that of the last change of the file itself, which no program can set back.

    Args:
        cases: dataclasses of a family, with their labels.
        files: further ones that hold samples, such as one file of all images.

    Raises:
        SslMedError: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    named = dict.fromkeys([*files, *(path for case in cases for path in case_files(case, masks=True))])
    for case in cases:
        _feed(digest, case)
    for path in dict.fromkeys(file for name in named for file in source_files(name)):
        digest.update(path.name.encode(errors="surrogateescape"))
        _feed_file(digest, path)
    return digest.hexdigest()


def sampled(path: Path, size: int) -> int:
    """48 bits of a file: all of it up to 64 KiB, else of 16 samples of 4 KiB, the first and the last bytes among them.

    A compressed file ends with the sum of its content.
    """
    digest = hashlib.blake2b(digest_size=6)
    _feed_bytes(digest, path, size, whole=2**16, sample=2**12)
    return int.from_bytes(digest.digest(), "big")


def _feed_bytes(digest: Any, path: Path, size: int, *, whole: int, sample: int) -> None:
    with path.open("rb") as file:
        if size <= whole:
            digest.update(file.read())
            return
        for k in range(_SAMPLES):
            file.seek(k * (size - sample) // (_SAMPLES - 1))
            digest.update(file.read(sample))


def _feed(digest: Any, value: Any) -> None:
    """A value in a form that does not depend on where files lie."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            digest.update(f"{field.name}=".encode())
            _feed(digest, getattr(value, field.name))
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).tobytes())
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for one in value:
            _feed(digest, one)
    elif isinstance(value, dict):
        _feed(digest, [part for key in sorted(value, key=str) for part in (key, value[key])])
    elif isinstance(value, str | Path):
        text = Path(value).name if isinstance(value, Path) or value.startswith("/") else value
        digest.update(f"{text};".encode(errors="surrogateescape"))
    else:
        digest.update(f"{value!r};".encode())


def _feed_file(digest: Any, path: Path) -> None:
    try:
        status = path.stat()
        digest.update(f"{status.st_size};".encode())
        if status.st_size > _WHOLE:
            digest.update(f"{status.st_mtime_ns};{status.st_ctime_ns};".encode())
        _feed_bytes(digest, path, status.st_size, whole=_WHOLE, sample=_SAMPLE)
    except OSError as error:
        raise SslMedError(f"{path}: cannot be read ({error.strerror})") from None
