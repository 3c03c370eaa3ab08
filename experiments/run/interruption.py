"""Signals that ask a command to stop: during a training they wait for the end of a step, elsewhere they stop it at once.

Imports no torch: the command line catches `Interruption` before it knows which command runs.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # SIGUSR1: SLURM's before the time is up


class Interruption(BaseException):
    """A signal asked to stop. Like KeyboardInterrupt, it is no `Exception`: nothing on the way takes it for an error.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def code(self) -> int:
        """Exit code: 128 and the signal's number, as shells have it (SIGINT 130, SIGUSR1 138, SIGTERM 143)."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.number).name}"


class _State:
    """What this process has been asked; signals belong to processes, so there is one."""

    received: int | None = None
    raised = False  # and not only noted
    held = False
    listening = False


def _note(number: int, frame: FrameType | None) -> None:
    again, _State.received = _State.received is not None, number
    if not _State.held or again:  # asked twice: do not wait for the step
        _State.raised = True
        raise Interruption(number)


def behind(error: BaseException) -> Interruption | None:
    """The interruption that led to an error.

    It may come up within any line, and libraries make an error of their own of it: matplotlib "Invalid bounding box", OmegaConf
    "'NoneType' object has no attribute ...".
    """
    if isinstance(error, Interruption):
        return error
    return _raised() if isinstance(error, Exception) else None


def _raised() -> Interruption | None:
    return Interruption(_State.received) if _State.raised and _State.received is not None else None


def stop_if_lost() -> None:
    """Raises an interruption that a library has caught and forgotten: nothing that lasts may follow from what it then did."""
    if (stop := _raised()) is not None:
        raise stop


def received() -> int | None:
    """The signal that asked this process to stop; None: nothing did."""
    return _State.received


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within the block, signals raise `Interruption`; a signal that the process was told to ignore stays ignored.

    One that was raised leaves the block as what it is, whatever became of it within.
    """
    if _State.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        _State.received, _State.raised, _State.listening = None, False, True
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _note)
        yield
        stop_if_lost()
    except Exception as error:
        stop = behind(error)
        if stop is None:
            raise
        raise stop from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.raised = _State.listening = False


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within the block a first signal is only noted; one that nobody has acted on is raised when the block ends.

    Raises:
        Interruption: also one that came before the block and was lost.
    """
    stop_if_lost()
    _State.held = True
    try:
        yield
    finally:
        _State.held = False
    if _State.received is not None and _State.listening:
        raise Interruption(_State.received)
