"""What the process that workers are forked from holds: everything that runs import. Nobody else imports this module."""

from __future__ import annotations

import contextlib
import importlib
import sys
from types import TracebackType

KINDS = ("pretrain", "finetune", "probe", "external", "features")
WITHIN_A_RUN = ("monai.inferers", "monai.networks.nets", "sklearn.linear_model", "sklearn.metrics")

for _name in (*(f"experiments.commands.{kind}" for kind in KINDS), *WITHIN_A_RUN):
    with contextlib.suppress(Exception):  # what is broken is told by the run that needs it
        importlib.import_module(_name)


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A command that was stopped while it asked for a worker has left the request half written: that is no error."""
    if not issubclass(kind, EOFError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _told
