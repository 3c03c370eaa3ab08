"""Processes that end with the one that started them, however that ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import connection


def end_with_parent(every: float = 1.0) -> None:
    """Ends this process at once when its parent is gone: nothing waits for work for ever or goes on alone.

    Args:
        every: seconds between looks, in a process that `multiprocessing` did not start.

    Raises:
        RuntimeError: there is no memory for a thread.
    """
    threading.Thread(target=_watch, args=(os.getppid(), every), daemon=True).start()


def _watch(number: int, every: float) -> None:
    parent = multiprocessing.parent_process()  # who asked for the process; a server may have forked it
    if parent is not None:
        connection.wait([parent.sentinel])
    while parent is None and os.getppid() == number:
        time.sleep(every)
    os._exit(128 + signal.SIGKILL)  # it writes nothing that could be lost
