"""Rows ranked over several data sets and label budgets: Friedman's test, and by how much mean ranks must differ.

Sources: Friedman, JASA 32, 1937; Nemenyi 1963; both as in Demsar, JMLR 7, 2006.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssl_med.evaluation.metrics import metric_of
from ssl_med.evaluation.statistics import ALPHA
from ssl_med.reports.numbers.comparison import Comparison

FEWEST = 5  # blocks; below, the distributions behind the test and the critical difference are far from true


@dataclass(frozen=True)
class Ranking:
    """Mean rank of each row, best first, over `blocks`; `reason` says why there is no test, p and critical are nan then."""

    ranks: Mapping[str, float]
    blocks: int
    p: float = math.nan
    critical: float = math.nan
    reason: str = ""


def rank(values: Mapping[str, Sequence[float]]) -> Ranking:
    """Ranks rows by their values, larger first, ties sharing their mean rank.

    Args:
        values: row -> one value a block (data set and label budget); blocks in which a row has nan are left out.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    rows = list(values)
    if not rows:
        return Ranking({}, 0, reason="no row has a result")
    table = np.array([values[row] for row in rows], float)
    table = table[:, ~np.isnan(table).any(0)]
    count, blocks = table.shape
    if not blocks:
        return Ranking({}, 0, reason="no data set and budget has a result of every row")
    means = rankdata(-table, axis=0).mean(1)
    ranks = {rows[k]: float(means[k]) for k in np.argsort(means, kind="stable")}
    if count < 3:
        return Ranking(ranks, blocks, reason=f"Friedman's test needs three rows or more; there are {count}")
    if blocks < FEWEST:
        return Ranking(
            ranks, blocks, reason=f"{blocks} data set{'' if blocks == 1 else 's'} x budgets; {FEWEST} are needed"
        )
    if (np.ptp(table, axis=0) == 0).all():
        return Ranking(ranks, blocks, reason="all rows are equal everywhere")
    critical = studentized_range.ppf(1 - ALPHA, count, np.inf) / math.sqrt(2)
    critical *= math.sqrt(count * (count + 1) / (6 * blocks))
    return Ranking(ranks, blocks, float(friedmanchisquare(*table).pvalue), float(critical))


def ranking(comparison: Comparison) -> tuple[Ranking, list[str]]:
    """Ranks over all columns and budgets, and the rows that have no result at all and are left out."""
    keys = [(column.label, x) for column in comparison.design.columns for x in column.fractions]
    means = {row: [_goodness(comparison, column, x, row) for column, x in keys] for row in comparison.design.rows}
    absent = [row for row, values in means.items() if np.isnan(values).all()]
    return rank({row: values for row, values in means.items() if row not in absent}), absent


def _goodness(comparison: Comparison, column: str, fraction: float, row: str) -> float:
    """Mean of a cell with the sign that makes larger better; nan without a run."""
    cell = comparison.cell(column, fraction, row)
    return metric_of(comparison.metric(column)).goodness(cell.mean) if cell.n else math.nan
