"""Files that are there whole or not at all: written beside their place, synced to the disk, and renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ssl_med.spec import SslMedError

REMEDIES = {
    errno.ENOSPC: "free space there, and the same command goes on",
    errno.EDQUOT: "free space within your quota, and the same command goes on",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), and the same command goes on",
    errno.EROFS: "the disk is read-only; choose another folder, or mount it for writing",
    errno.EACCES: "choose a folder that you may use, or ask for the right",
    errno.EPERM: "choose a folder that you may use, or ask for the right",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower the number of workers",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or lower the number of workers",
    errno.ENOMEM: "lower the number of workers or the batch, or give the process more memory",
    errno.ENFILE: "the machine has too many open files; try again later",
    errno.EIO: "the disk reports an error; look at it, and the same command goes on",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
}


class CannotWriteError(SslMedError):
    """The system refuses to write: what follows could not be written either."""


def explained(error: OSError, path: Path | str | None = None) -> str:
    """One line: the file, what the system says, and the remedy."""
    where = path if path is not None else error.filename
    what = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0, "")
    return f"{f'{where}: ' if where else ''}{what}" + (f"; {remedy}" if remedy else "")


@contextlib.contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write `path` into one line.

    Raises:
        SslMedError: the disk is full or read-only, a limit is reached, and the like.
    """
    try:
        yield
    except SslMedError:  # is a line already
        raise
    except Exception as error:
        cause = refusal(error)
        if cause is None:
            raise
        raise CannotWriteError(f"cannot write {explained(cause, path)}") from error


def refusal(error: BaseException) -> OSError | None:
    """The system's error behind that of a library; None when it is no such error.

    torch tells a failed write as a RuntimeError that came up while it handled the system's, others by its number in a text.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno is not None:
            return found
        told = _NUMBER.search(str(found))
        if told:
            number = int(told[1] or told[2] or told[4])
            return OSError(number, os.strerror(number), told[3])
        if isinstance(found, OSError):
            return found
        found = found.__cause__ or found.__context__
    return None


# safetensors; Python, also in the text of a traceback that came from another process; torch: "...: Too many open files (24)"
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\] [^:\n]+(?:: '(.+)')?\s*\Z|: [A-Z][a-z ]+ \((\d+)\)\s*\Z")


@contextlib.contextmanager
def new_file(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Yields the path to write to; what was written there takes the place of `path` when the block ends well.

    A reader sees the old file or the new, never half, whatever stops the process or the machine.

    Args:
        path: the file; its folder is made where it is missing.
        keep: where the old file goes; None: it is replaced.

    Raises:
        SslMedError: it cannot be written; what was there is there still.
    """
    # beside its place, since a rename is atomic only within a file system; the process id keeps two writers apart
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with explaining(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            if keep is not None and path.is_file():
                os.replace(path, keep)
            os.replace(temporary, path)
        with contextlib.suppress(OSError):  # some file systems cannot
            sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, write: Callable[[IO[bytes]], object], *, keep: Path | None = None) -> None:
    """Gives `write` an open file that then takes the place of `path`; see `new_file`."""
    with new_file(path, keep=keep) as temporary, temporary.open("wb") as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8; what of a file's name is no text becomes escapes; see `new_file`."""
    write_file(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes were writing below a folder that nobody else writes to."""
    for path in folder.rglob(".*-*"):
        if path.is_file() and path.name[1:].partition("-")[0].isdigit():
            path.unlink(missing_ok=True)
