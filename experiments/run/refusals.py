"""Errors that are no fault of the code: what the user asked for, the machine or the training refuses, each in one line.

Imports nothing slow: the command line asks before it knows which command runs.
"""

from __future__ import annotations

import re

from ssl_med.files import REMEDIES, explained, refusal
from ssl_med.reports.escape import one_line
from ssl_med.spec import SslMedError

FULL = "the memory is full; lower trainer.batch_size or trainer.num_workers, or give the process more"
# torch, the system's loader of libraries, Python, CUDA
_ALLOCATION = re.compile(
    "can't allocate memory|annot allocate memory|failed to map segment|can't start new thread|out of memory"
)


def in_a_line(error: Exception) -> tuple[str, int] | None:
    """The line and the exit code of an error: 2 the request is wrong or the machine refuses it, 1 the run cannot go on.

    None: it is unexpected, and its traceback should be seen.
    """
    if isinstance(error, SslMedError):
        return one_line(str(error)), 2
    if isinstance(error, MemoryError) or _ALLOCATION.search(
        str(error)
    ):  # before an import, for which there may be no memory
        return FULL, 2
    from experiments.run.callbacks import RunError

    if isinstance(error, RunError):
        return str(error), 1
    cause = refusal(error)
    if cause is None or not (cause.errno in REMEDIES or (cause is error and cause.errno is not None)):
        return None
    return explained(cause), 2
