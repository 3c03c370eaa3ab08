"""Analyses of features by name: what `ssl-med features kind=NAME` may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssl_med.catalogue import get_class, list_names
from ssl_med.spec import DataSpec, SslMedError

if TYPE_CHECKING:  # names are listed without torch
    from ssl_med.features.core.analysis import Analysis

PACKAGE = "ssl_med.features"


def asked_analysis(name: str) -> type[Analysis]:
    """The class in ssl_med/features/NAME.py.

    Raises:
        SslMedError: no name, or no such file; the text offers the nearest.
    """
    if not name:
        raise SslMedError(f"kind=NAME is missing; there are: {', '.join(list_names(PACKAGE))}")
    from ssl_med.features.core.analysis import Analysis

    found: type[Analysis] = get_class(PACKAGE, name, kind="kind", base=Analysis)
    return found


def check_labels(analysis: type[Analysis], spec: DataSpec, name: str) -> None:
    """Refuses labels that the analysis does not read, and their absence where it needs them.

    Raises:
        SslMedError: names the remedy, task=NAME or data=NAME.
    """
    kind = analysis.__module__.rpartition(".")[2]
    if spec.target == "none":
        if analysis.labels == "needed":
            raise SslMedError(f"kind={kind} needs labels; give task=NAME in place of data={name}")
    elif analysis.labels == "none":
        raise SslMedError(f"kind={kind} reads no labels; give data=NAME in place of task={name}")
    elif spec.target == "mask":
        raise SslMedError(f"kind={kind} needs classes or findings, task '{name}' has masks; give another task")
