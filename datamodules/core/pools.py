"""Waiting for a pool of processes that may have died in every way."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from datamodules.core.sending import handing_over

_LOOK = 2.0  # seconds between looks at whether anybody still works


class _Pool(ProcessPoolExecutor):
    """A pool that can also be ended where the system lent no thread to manage it."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes."""
        thread: Any = getattr(self, "_executor_manager_thread", None)
        if thread is None or thread.ident is not None:
            super().shutdown(wait, cancel_futures=cancel_futures)
        else:
            _kill(self)


def _kill(pool: ProcessPoolExecutor) -> None:
    processes: Any = getattr(pool, "_processes", None) or {}
    for process in list(processes.values()):
        process.kill()
        process.join()


def open_pool(workers: int, **settings: Any) -> ProcessPoolExecutor:
    """A pool of processes.

    Raises:
        SslMedError: the system lends no shared memory or file handles for it.
    """
    with handing_over():
        return _Pool(workers, **settings)


def first_done(waiting: Iterable[Future[Any]], pool: ProcessPoolExecutor) -> set[Future[Any]]:
    """Waits until one or more of the calls are done; returns these.

    Raises:
        BrokenProcessPool: the thread that hands out the work has died, as it does where memory does not suffice for a further
            thread. Python then waits for ever; here the processes are ended.
    """
    calls = set(waiting)
    while True:
        done = wait(calls, timeout=_LOOK, return_when=FIRST_COMPLETED).done
        if done:
            return done
        thread: Any = getattr(pool, "_executor_manager_thread", None)
        if thread is not None and not thread.is_alive():
            _kill(pool)
            raise BrokenProcessPool("the pool's thread died")
