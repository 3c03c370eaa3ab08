"""Statistics of a comparison over patients: intervals of a metric and of a difference of methods. Over seeds: `statistics`.

`bootstrap` and `paired_bootstrap` draw the test subjects again, all cases of a subject together, and for all methods the same.

Sources: percentile and BCa intervals, Efron, JASA 82, 1987; expanded ones, Hesterberg, Am. Stat. 69, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ssl_med.evaluation.statistics import CHUNK, Array
from ssl_med.spec import SslMedError

Statistic = Callable[[Array], Array]
"""(R, N) how often each of N cases counts in each of R resamples -> (R,) values of a metric; nan where it is not defined."""
Kind = Literal["expanded", "percentile", "bca"]


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval; `reason` says why there is none, and low and high are nan then.

    * subjects: number of subjects drawn. * undefined: resamples in which the metric was not defined, left out.
    """

    estimate: float
    low: float
    high: float
    level: float
    kind: Kind
    resamples: int
    subjects: int
    undefined: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.estimate:.3f} (no interval: {self.reason})"
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_of(values: Sequence[float] | Array) -> Statistic:
    """Mean over cases; cases whose value is nan are left out."""
    x = np.asarray(values, float)
    known = ~np.isnan(x)
    filled = np.where(known, x, 0.0)

    def statistic(weights: Array) -> Array:
        return _ratio(weights @ filled, weights @ known)

    return statistic


def auc_of(truth: Array, score: Array) -> Statistic:
    """Area under the ROC curve as `scores.auroc`, or the mean over columns as `scores.multilabel_auroc`.

    Args:
        truth: (N,) or (N, K) of 0 and 1; nan: not known.
        score: as `truth`; larger means 1.
    """
    truths, scores = (np.asarray(x, float).reshape(len(truth), -1) for x in (truth, score))
    columns = [_auc_of_column(truths[:, k], scores[:, k]) for k in range(truths.shape[1])]

    def statistic(weights: Array) -> Array:
        each = np.stack([column(weights) for column in columns])
        scored = ~np.isnan(each)
        return _ratio(np.where(scored, each, 0.0).sum(0), scored.sum(0))

    return statistic


def mean_auc_of(truth: Array, scores: Array) -> Statistic:
    """Mean over runs of `auc_of`, at the price of one run: which of two cases each run ranks higher is averaged first.

    Args:
        truth: (N,) of 0 and 1.
        scores: (R, N) of R runs; larger means 1.
    """
    positive = np.asarray(truth) == 1
    if positive.sum() * (~positive).sum() > CHUNK:
        each = [auc_of(truth, score) for score in scores]
        return lambda weights: np.mean([one(weights) for one in each], axis=0)
    wins = np.zeros((positive.sum(), (~positive).sum()))
    for score in np.asarray(scores, float):
        above, below = score[positive][:, None], score[~positive][None]
        wins += ((above > below) + (above == below) / 2) / len(scores)

    def statistic(weights: Array) -> Array:
        ones, zeros = weights[:, positive], weights[:, ~positive]
        return _ratio(((ones @ wins) * zeros).sum(1), ones.sum(1) * zeros.sum(1))

    return statistic


def _auc_of_column(truth: Array, score: Array) -> Statistic:
    order = np.flatnonzero(~np.isnan(truth))
    order = order[np.argsort(score[order], kind="stable")]
    positive, ordered = truth[order] == 1, score[order]
    firsts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)  # of each group of equal scores

    def statistic(weights: Array) -> Array:
        if not len(order):
            return np.full(len(weights), np.nan)
        drawn = weights[:, order]
        ones = np.add.reduceat(drawn * positive, firsts, axis=1)
        zeros = np.add.reduceat(drawn * ~positive, firsts, axis=1)
        below = np.cumsum(zeros, axis=1) - zeros / 2  # an equal score wins half
        return _ratio((ones * below).sum(1), ones.sum(1) * zeros.sum(1))

    return statistic


def resampled(metric: Callable[..., float], *arrays: Array) -> Statistic:
    """Any metric of arrays with one row per case, called once per resample."""
    rows = [np.asarray(array) for array in arrays]

    def statistic(weights: Array) -> Array:
        drawn = (np.repeat(np.arange(weights.shape[1]), line) for line in weights.astype(int))
        return np.array([metric(*(array[take] for array in rows)) if len(take) else np.nan for take in drawn])

    return statistic


def bootstrap(
    statistic: Statistic,
    subjects: Sequence[Any] | Array,
    *,
    kind: Kind = "expanded",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of a metric over subjects: a resample draws as many subjects as there are, with all cases of each.

    Args:
        statistic: see `mean_of`, `auc_of` and `resampled`.
        subjects: (N,) the subject of each case.
        kind: percentile; expanded: percentiles further out, which makes up for what few subjects lack (of 1,500 studies with
            12 normal values, percentile and BCa hold the truth in 91 and 90 %); bca: bias and skew corrected by a jackknife.
        level: share of studies whose interval shall hold the truth.
        resamples: R.
        seed: of the draws; equal seeds and subjects draw equally.

    Returns:
        The interval; without one, and with the reason, where the metric is not defined, where more than 5 % of the resamples
        leave it undefined, and with so few subjects that even the range of their values would hold the middle of all subjects
        with a chance below `level` (1 - 2^(1 - n): six subjects for 95 %).
    """
    return _intervals({"": statistic}, subjects, kind=kind, level=level, resamples=resamples, seed=seed)[""]


def paired_bootstrap(
    statistics: Mapping[str, Statistic],
    baseline: str,
    subjects: Sequence[Any] | Array,
    *,
    kind: Kind = "expanded",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Interval of each method's difference to the baseline, on the same cases: one draw of subjects serves all methods.

    Args:
        statistics: method -> its metric over the same N cases.
        baseline: the method that is subtracted.
        subjects: (N,) the subject of each case.
        kind: as for `bootstrap`, like all that follow.
        level: of each single interval.
        resamples: R.
        seed: of the draws.
    """
    if baseline not in statistics:
        raise SslMedError(f"baseline '{baseline}' is not among the methods: {', '.join(statistics)}")
    base = statistics[baseline]

    def minus(method: Statistic) -> Statistic:
        return lambda weights: method(weights) - base(weights)

    differences = {name: minus(method) for name, method in statistics.items() if name != baseline}
    return _intervals(differences, subjects, kind=kind, level=level, resamples=resamples, seed=seed)


def difference_of(first: Interval, second: Interval) -> Interval:
    """Interval of first minus second on two sets of subjects that have nobody in common.

    From the two intervals by the recovery of variances (MOVER; Zou and Donner, Stat. Med. 27, 2008), which keeps their skew.
    """
    reason = " and ".join(dict.fromkeys(interval.reason for interval in (first, second) if interval.reason))
    effect = first.estimate - second.estimate
    low = effect - math.hypot(first.estimate - first.low, second.high - second.estimate)
    high = effect + math.hypot(first.high - first.estimate, second.estimate - second.low)
    return replace(
        first,
        estimate=effect,
        low=math.nan if reason else low,
        high=math.nan if reason else high,
        subjects=first.subjects + second.subjects,
        undefined=first.undefined + second.undefined,
        reason=reason,
    )


def _intervals(
    statistics: Mapping[str, Statistic],
    subjects: Sequence[Any] | Array,
    *,
    kind: Kind,
    level: float,
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    if not 0 < level < 1:
        raise SslMedError(f"the level of an interval is {level:g}; it must lie in (0, 1)")
    names, subject = np.unique(np.asarray(subjects), return_inverse=True)
    count, fewest = len(names), math.ceil(1 - math.log2(1 - level) - 1e-9)
    rng = np.random.default_rng(seed)
    values: dict[str, list[Array]] = {name: [] for name in statistics}
    block = max(1, CHUNK // max(1, len(subject)))
    for first in range(0, resamples if count >= fewest else 0, block):
        weights = _draw(rng, min(block, resamples - first), count)[:, subject]
        for name, statistic in statistics.items():
            values[name].append(statistic(weights))
    found = {}
    for name, statistic in statistics.items():
        estimate = float(statistic(np.ones((1, len(subject))))[0]) if count else math.nan
        drawn = np.concatenate(values[name]) if values[name] else np.empty(0)
        defined = np.sort(drawn[~np.isnan(drawn)])
        undefined = len(drawn) - len(defined)
        result = Interval(estimate, math.nan, math.nan, level, kind, resamples, count, undefined)
        if count < fewest:
            result = replace(result, reason=f"{count} subject{'' if count == 1 else 's'}, {fewest} are needed")
        elif math.isnan(estimate):
            result = replace(result, reason="the metric is not defined")
        elif undefined > 0.05 * resamples:
            result = replace(result, reason=f"the metric is not defined in {undefined} of {resamples} resamples")
        else:
            ends = np.array([(1 - level) / 2, (1 + level) / 2])
            if kind == "expanded":
                ends = _expanded(ends, count)
            elif kind == "bca":
                ends = _bca(ends, estimate, defined, statistic, subject, count)
            low, high = np.quantile(defined, ends)
            result = replace(result, low=float(low), high=float(high))
        found[name] = result
    return found


def _draw(rng: np.random.Generator, rows: int, count: int) -> Array:
    """(rows, count) how often each subject is drawn."""
    drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
    weights: Array = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
    return weights


def _expanded(ends: Array, count: int) -> Array:
    """Quantiles of a normal distribution at the ends of Student's interval with n - 1 degrees of freedom."""
    from scipy.stats import norm, t

    quantiles: Array = norm.cdf(math.sqrt(count / (count - 1)) * t.ppf(ends, count - 1))
    return quantiles


def _bca(ends: Array, estimate: float, drawn: Array, statistic: Statistic, subject: Array, count: int) -> Array:
    """Quantiles to read instead of `ends`; unchanged where all resamples agree."""
    from scipy.stats import norm

    below = (np.mean(drawn < estimate) + np.mean(drawn <= estimate)) / 2  # half of the ties
    if not 0 < below < 1:
        return ends
    block = max(1, CHUNK // len(subject))
    left_out = np.concatenate(
        [
            statistic(1.0 - (subject == np.arange(first, min(first + block, count))[:, None]))
            for first in range(0, count, block)
        ]
    )
    left_out = left_out[~np.isnan(left_out)]
    apart = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    scale = float((apart**2).sum()) ** 1.5
    acceleration = float((apart**3).sum()) / (6 * scale) if scale else 0.0
    bias, z = norm.ppf(below), norm.ppf(ends)
    shifted = bias + (bias + z) / (1 - acceleration * (bias + z))
    quantiles: Array = norm.cdf(shifted)
    return quantiles


def _ratio(above: Array, below: Array) -> Array:
    above, below = np.asarray(above, float), np.asarray(below, float)
    ratio: Array = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return ratio
