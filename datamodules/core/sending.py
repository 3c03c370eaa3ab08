"""What processes cannot hand over is one line, and not a traceback or a wait without end.

Batches travel through shared memory and file handles. A loader's worker sends from a thread of its own; where that fails,
Python drops the batch, and the training would wait for it for ever.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing.queues
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, cast

from torch._utils import ExceptionWrapper

from ssl_med.files import explained, refusal
from ssl_med.spec import SslMedError

_SHARED, _HERE = "/dev/shm", "worker processes"
_MORE = (
    "give the container or machine more shared memory (docker run --shm-size=8g), or use no worker processes "
    "(trainer.num_workers=0; of prepare workers=1, of check workers=0)"
)
_HANDLES = re.compile("Too many open files|received 0 items of ancdata")  # torch's and Python's words for EMFILE
_PROCESSES = re.compile("can't start new thread|Resource temporarily unavailable")


def tell_failed_sends() -> None:
    """Makes the queues of this process, a worker's, send the error in the place of what could not be sent."""
    setattr(multiprocessing.queues.Queue, "_on_queue_feeder_error", _send_error)  # noqa: B010 - meant to be overridden


def _send_error(queue: Any, error: BaseException, item: Any) -> None:
    number = item[0] if isinstance(item, tuple) else 0
    try:
        raise not_handed_over(error) or error
    except BaseException:
        wrapped = cast(Any, ExceptionWrapper)(sys.exc_info(), where="in a process that loads data")
        queue.put((number, wrapped))


@contextlib.contextmanager
def handing_over() -> Iterator[None]:
    """Turns what the system refuses to processes that work together into one line.

    Raises:
        SslMedError: no file handle, process, memory or shared memory is left.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        line = not_handed_over(error)
        if line is None:
            raise
        raise line from error


def not_handed_over(error: BaseException) -> SslMedError | None:
    """The line for an error that came up between processes that load data; None: it is another."""
    text = _texts(error)
    if _HANDLES.search(text):
        return _line(errno.EMFILE)
    if _PROCESSES.search(text):
        return _line(errno.EAGAIN)
    if "Bus error" in text:  # a page of shared memory that does not exist
        return SslMedError(f"{_SHARED}: is full; {_MORE}")
    if re.search(r"DataLoader worker .*(exited unexpectedly|killed by signal)", text):
        return SslMedError(
            "a process that loads data was killed, perhaps because the memory is full; lower trainer.num_workers"
        )
    cause = refusal(error)
    if cause is None:
        return None
    if cause.filename is None and cause.errno in (errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.EACCES, errno.ENOSYS):
        return SslMedError(f"{_SHARED}: {cause.strerror}; {_MORE}")
    return SslMedError(explained(cause, cause.filename or _HERE))


def _texts(error: BaseException | None) -> str:
    """What an error says, and those that it came from."""
    return f"{error}\n{_texts(error.__cause__ or error.__context__)}" if error is not None else ""


def _line(number: int) -> SslMedError:
    return SslMedError(explained(OSError(number, os.strerror(number)), _HERE))
