"""The paper's numbers beside ours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssl_med.evaluation.metrics import metric_of
from ssl_med.reports.numbers.cells import Cell
from ssl_med.reports.numbers.comparison import Comparison


@dataclass(frozen=True)
class Published:
    """One number of the paper and ours in the same unit; ours is nan where the cell is missing, the paper's where it has none.

    * p: the paper's, of this row against the best other one; nan where it gives none. * unit: of the metric.
    """

    row: str
    column: str
    fraction: float
    published: float
    ours: Cell
    p: float = math.nan
    unit: str = ""

    @property
    def scale(self) -> float:
        """100 where the paper gives percent and we a share."""
        return 100.0 if not self.unit and abs(self.published) > 1.5 and abs(self.ours.mean) <= 1 else 1.0


def unlike_the_paper(comparison: Comparison) -> str:
    """Why the paper's numbers must not be shown beside ours; '' where they may."""
    if comparison.synthetic:
        return "runs of this report read synthetic phantoms in place of the paper's data"
    if comparison.design.scale != "full":
        return (
            "this is the small form of the table: fewer and shorter runs, on other data than the paper's or less of it"
        )
    return ""


def published(comparison: Comparison) -> list[Published]:
    """The declared numbers of the paper, `column` or `column@fraction`; a column alone means its largest budget."""
    design = comparison.design
    known = {column.label: sorted(column.fractions) for column in design.columns}
    cells: dict[tuple[str, str, float], dict[str, float]] = {}
    for what, declared in (("published", design.published), ("p", design.published_p)):
        for row, numbers in declared.items():
            for place, number in numbers.items():
                column, _, share = place.partition("@")
                if column in known:
                    key = row, column, float(share) if share else known[column][-1]
                    cells.setdefault(key, {"published": math.nan})[what] = float(number)
    found = []
    for (row, column, fraction), numbers in cells.items():
        ours, metric = comparison.cell(column, fraction, row), comparison.metric(column)
        unit = metric_of(metric).unit if metric else ""
        found.append(Published(row, column, fraction, ours=ours, unit=unit, **numbers))
    return found
