"""One metric over seeds: mean, spread, interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

EMPTY = "—"
FEW = 3  # seeds from which a mean has an interval, and its row may be marked as best


@dataclass(frozen=True)
class Cell:
    """One metric of one row in one column at one label budget, over seeds."""

    values: tuple[float, ...] = ()

    @property
    def n(self) -> int:
        """Number of runs in which the metric is defined."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over runs; nan when empty."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation over runs with n - 1 in the denominator; nan below two runs."""
        return float(np.std(self.values, ddof=1)) if self.n > 1 else math.nan

    def __str__(self) -> str:
        if not self.values:
            return EMPTY
        return f"{self.mean:.3f}" + (f" ± {self.sd:.3f}" if self.n > 1 else "")


def interval(cell: Cell) -> tuple[float, float]:
    """95 % Student interval of the mean over seeds; nan below three."""
    from scipy.stats import t

    if cell.n < FEW:
        return math.nan, math.nan
    half = float(t.ppf(0.975, cell.n - 1)) * cell.sd / math.sqrt(cell.n)
    return cell.mean - half, cell.mean + half
