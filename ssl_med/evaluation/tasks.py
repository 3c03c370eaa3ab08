"""Tasks, built from the DataSpec: head, loss, prediction, one row per test case, and the summary of rows."""

from __future__ import annotations

from ssl_med.evaluation.task_kinds.classes import Classification, PooledTask, marks
from ssl_med.evaluation.task_kinds.core import Row, Task, TaskConfig, mirror_axes
from ssl_med.evaluation.task_kinds.findings import Multilabel
from ssl_med.evaluation.task_kinds.segmentation import Segmentation
from ssl_med.spec import DataSpec, SslMedError

__all__ = [
    "Classification",
    "Multilabel",
    "PooledTask",
    "Row",
    "Segmentation",
    "Task",
    "TaskConfig",
    "marks",
    "mirror_axes",
    "task_class",
]

_TASKS: dict[str, type[Segmentation] | type[Classification] | type[Multilabel]] = {
    "mask": Segmentation,
    "class": Classification,
    "multilabel": Multilabel,
}


def task_class(spec: DataSpec) -> type[Segmentation] | type[Classification] | type[Multilabel]:
    """The kind of task that the labels of `spec` define."""
    if spec.target not in _TASKS:
        raise SslMedError(f"data '{spec.name}' has no labels to learn; choose a task that has")
    return _TASKS[spec.target]
