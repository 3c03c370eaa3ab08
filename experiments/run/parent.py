"""Processes that end with the one that started them, however that ended."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import connection


def end_with_parent() -> None:
    """Ends this process of `multiprocessing` at once when its parent is gone: nothing waits for work for ever or goes on alone.

    Raises:
        RuntimeError: there is no memory for a thread.
    """
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
