"""What a comparison was to be: its rows, columns, seeds and test; and the runs that this asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssl_med.reports.run_folder import Run


@dataclass(frozen=True)
class Column:
    """One task by one protocol at some label budgets.

    * grid: settings that are chosen separately for each row. * tests: column whose fine-tunings are tested here; '': none.
    * series: the part of the label that columns of one series share; the rest names the setting in which they differ; '': none.
    * metric: of the cells; '': the task's own.
    """

    label: str
    task: str
    protocol: str
    fractions: tuple[float, ...]
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    tests: str = ""
    series: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Design:
    """What was fixed before a result was seen.

    * planned: False for loose runs, of which nobody fixed anything: each column is then a family of comparisons of its own.
    * scale: 'small' where a table's small form ran in place of the table. * baseline: ''; no row is one.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    baseline: str
    test: str
    seeds: tuple[int, ...]
    pretrain_seeds: tuple[int, ...] = (0,)
    source: str = ""
    protocol: str = ""
    collapsed_below: float = 0.0
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    published_p: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tune_fraction: float = 1.0
    planned: bool = True
    scale: str = "full"

    def fractions(self, column: str) -> list[float]:
        """Label budgets of a column, ascending."""
        return sorted(next(c.fractions for c in self.columns if c.label == column))


Role = Literal["pretrain", "tune", "final", "features", "unused"]


@dataclass(frozen=True)
class Entry:
    """A run that the design asks for. `why` says why it is not there; '' when it counts.

    * role: 'features' for an analysis of features, 'unused' for a loose run that cannot be read.
    * choice: settings that were chosen, or in a trial: tried.
    * starts: pretraining run that it starts from.
    """

    role: Role
    row: str
    column: str
    fraction: float
    seed: int
    run: Run
    why: str = ""
    choice: tuple[tuple[str, Any], ...] = ()
    starts: Path | None = None

    @property
    def chosen(self) -> str:
        """'optim.lr 0.003'."""
        return ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in self.choice
        )
