"""Whether a validation part can choose anything: of one class alone, no metric that compares classes is defined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datamodules.core.base import MedicalData
from ssl_med.evaluation.metrics import metric_of
from ssl_med.spec import SslMedError


def one_sided(data: MedicalData, cases: Sequence[Any]) -> str:
    """What validation cases lack: "all 32 validation samples are 'no'"; '' where they have two classes or that is not known.

    Labels that are known without decoding are looked at: classes and findings, not masks.
    """
    counts = data.positives(cases) if data.spec.target in ("class", "multilabel") else {}
    if not counts:
        return ""
    if data.spec.target == "class":
        present = [name for name, count in counts.items() if count]
        return f"all {sum(counts.values())} validation samples are '{present[0]}'" if len(present) == 1 else ""
    total = len(cases)
    if any(0 < count < total for count in counts.values()):
        return ""
    return f"no finding is there in some of the {total} validation samples and not in others"


def check_monitor_is_defined(data: MedicalData, monitor: str) -> None:
    """Refuses a monitored value that this validation part cannot define, before training starts.

    Raises:
        SslMedError: says what the part lacks, and what can be monitored instead.
    """
    cases = data.parts["val"]
    if not cases or not monitor.startswith("val/") or not metric_of(monitor).two_classes:
        return
    lacks = one_sided(data, cases)
    if lacks:
        raise SslMedError(
            f"trainer.monitor={monitor} is not defined: {lacks}; choose another data.split or data.split_seed, or set "
            "trainer.monitor=val/loss"
        )


def check_choosing(data: MedicalData, cases: Sequence[Any], protocol: str) -> None:
    """Refuses validation cases that cannot choose the settings of a probe.

    Raises:
        SslMedError: says what the cases lack.
    """
    lacks = one_sided(data, cases)
    if lacks:
        raise SslMedError(
            f"protocol={protocol} has nothing to choose its settings by: {lacks}; choose another data.split or "
            "data.split_seed, or more labels"
        )
