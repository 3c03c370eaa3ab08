"""One writer per folder, for runs, comparisons and stores alike.

The lock is the system's, on a file that also names the owner: it goes with its process, however that ends, and a forked child
does not hold it. Where the file system knows no locks, the owner's name decides.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from ssl_med.files import explaining
from ssl_med.spec import SslMedError

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_mine: set[tuple[int, Path]] = set()  # a process may lock what it has locked: folders that this one holds, with its id


class FolderLock:
    """Keeps other processes out of a folder while the block runs.

    Args:
        folder: it is made where it is missing.
        busy: what the other one is doing, for the message.

    Raises:
        SslMedError: another process, or another part of this one, holds the folder.
    """

    def __init__(self, folder: Path, busy: str) -> None:
        self.folder, self.busy, self.path = folder, busy, folder / LOCK

    def __enter__(self) -> None:
        with explaining(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            key = (os.getpid(), self.folder.resolve())
            if key in _mine:
                raise self._refusal()
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise
        _mine.add(key)
        self._key = key

    def _take(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise self._refusal() from None
            if self._lives():
                raise self._refusal() from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)

    def _owner(self) -> tuple[int, str]:
        """Process id and host that the file names; 0 when it names nobody."""
        with contextlib.suppress(OSError, ValueError):
            number, host = os.pread(self._file, 512, 0).decode().split()
            return int(number), host
        return 0, ""

    def _lives(self) -> bool:
        """Whether the owner may be at work still: on another machine nobody can tell."""
        number, host = self._owner()
        if not number or host != socket.gethostname():
            return bool(number)
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return number != os.getpid()

    def _refusal(self) -> SslMedError:
        number, host = self._owner() if hasattr(self, "_file") else (os.getpid(), socket.gethostname())
        who = f"process {number} on {host}" if number else "another process"
        last = "" if host in ("", socket.gethostname()) else f"; if it is dead, remove {self.path}"
        return SslMedError(f"{self.folder}: {self.busy} ({who}); wait for it, or choose another folder{last}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._key[0] == os.getpid():  # not in a forked child
            _mine.discard(self._key)
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        os.close(self._file)
