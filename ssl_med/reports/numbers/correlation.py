"""How numbers of feature analyses go with transfer scores over networks: Pearson and Spearman with intervals.

Source: Anton et al. 2022, Figs. 6 to 9, relate such numbers to transfer over networks in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssl_med.evaluation.bootstrap import Interval, Statistic, bootstrap
from ssl_med.evaluation.statistics import Array

FEWEST = 4  # networks below which a correlation says nothing at all


@dataclass(frozen=True)
class Correlation:
    """One number of an analysis against one transfer score.

    * networks: names of those that have both. * x, y: their numbers and scores.
    * pearson, spearman: with percentile intervals over networks, from six networks on.
    """

    number: str
    score: str
    networks: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    pearson: Interval
    spearman: Interval


def correlations(
    numbers: Mapping[str, Mapping[str, float]], scores: Mapping[str, Mapping[str, float]]
) -> list[Correlation]:
    """Every pair of a number and a score that four networks or more have, the strongest rank correlation first.

    Args:
        numbers: name of the number -> network -> its value.
        scores: name of the score -> network -> its value.
    """
    found = []
    for number, by_network in numbers.items():
        for score, reached in scores.items():
            names = [
                name for name, value in by_network.items() if _known(value) and _known(reached.get(name, math.nan))
            ]
            x, y = np.array([by_network[name] for name in names]), np.array([reached[name] for name in names])
            if len(names) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
                continue
            pearson = bootstrap(pearson_of(x, y), names, kind="percentile")
            spearman = bootstrap(spearman_of(x, y), names, kind="percentile")
            values = tuple(map(float, x)), tuple(map(float, y))
            found.append(Correlation(number, score, tuple(names), *values, pearson, spearman))
    return sorted(found, key=lambda one: (-abs(one.spearman.estimate), one.number, one.score))


def pearson_of(x: Sequence[float] | Array, y: Sequence[float] | Array) -> Statistic:
    """Pearson's correlation over cases; nan where a resample has no spread."""
    first, second = np.asarray(x, float), np.asarray(y, float)

    def statistic(weights: Array) -> Array:
        shape = weights.shape
        return _weighted(np.broadcast_to(first, shape), np.broadcast_to(second, shape), weights)

    return statistic


def spearman_of(x: Sequence[float] | Array, y: Sequence[float] | Array) -> Statistic:
    """Spearman's rank correlation over cases, mean ranks for equal values; nan where a resample has no spread."""
    first, second = np.asarray(x, float), np.asarray(y, float)

    def statistic(weights: Array) -> Array:
        return _weighted(_ranks(first, weights), _ranks(second, weights), weights)

    return statistic


def _ranks(x: Array, weights: Array) -> Array:
    """(R, N) mean rank of each value among those that a resample has drawn."""
    below = weights @ (x[:, None] < x[None, :])
    equal = weights @ (x[:, None] == x[None, :])
    found: Array = below + (equal + 1) / 2
    return found


def _weighted(x: Array, y: Array, weights: Array) -> Array:
    total = weights.sum(1, keepdims=True)
    dx, dy = (values - (weights * values).sum(1, keepdims=True) / total for values in (x, y))
    spread = np.sqrt((weights * dx**2).sum(1) * (weights * dy**2).sum(1))
    together = (weights * dx * dy).sum(1)
    scale = np.sqrt((weights * x**2).sum(1) * (weights * y**2).sum(1))
    known = spread > 1e-12 * np.maximum(scale, 1e-300)
    found: Array = np.where(known, together / np.where(known, spread, 1), np.nan)
    return found


def _known(value: float) -> bool:
    return math.isfinite(value)
