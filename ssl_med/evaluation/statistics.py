"""Statistics of a comparison: spread over seeds, intervals over patients, paired tests, and what n cannot support.

Two sources of chance are kept apart. Seeds: `summarize`, `paired_t`, `welch_t`, `sign_flip` and `wilcoxon` take one value
per run. Patients: `bootstrap` and `paired_bootstrap` draw the test subjects again, all cases of a subject together, and for
all methods the same ones.

Sources: percentile and BCa intervals, Efron, JASA 82, 1987; expanded ones, Hesterberg, Am. Stat. 69, 2015; sign flips, Fisher
1935, and Phipson and Smyth, SAGMB 9, 2010 (the one added in Monte Carlo); Holm, Scand. J. Stat. 6, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssl_med.spec import SslMedError

Array = NDArray[Any]
Statistic = Callable[[Array], Array]
"""(R, N) how often each of N cases counts in each of R resamples -> (R,) values of a metric; nan where it is not defined."""

Kind = Literal["expanded", "percentile", "bca"]
ALPHA = 0.05
ENUMERATED = 20  # pairs up to which all sign flips are tried: 2**19 sums take milliseconds
_CHUNK = 1 << 22  # numbers of a block of weights, 32 MiB


# --- over seeds ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n - 1 in the denominator; nan below two values) of n values."""

    n: int
    mean: float
    sd: float

    def __str__(self) -> str:
        spread = f" ± {self.sd:.3f}" if self.n > 1 else ""
        return f"{self.mean:.3f}{spread} (n {self.n})" if self.n else "no value"


def summarize(values: Sequence[float] | Array) -> Summary:
    """Mean, sd and n of the values that are not nan."""
    x = np.asarray(values, float)
    x = x[~np.isnan(x)]
    return Summary(len(x), float(x.mean()) if len(x) else math.nan, float(x.std(ddof=1)) if len(x) > 1 else math.nan)


# --- over patients ---------------------------------------------------------------------------------------------


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
    """Area under the ROC curve as `metrics.auroc`, or the mean over columns as `metrics.multilabel_auroc`.

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
        level: of each interval by itself.
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
    block = max(1, _CHUNK // max(1, len(subject)))
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
    block = max(1, _CHUNK // len(subject))
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


# --- tests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TestResult:
    """A two-sided p-value that n can support.

    * effect: mean difference. * smallest: the least p that this test can reach with these data's n and ties.
    * family: number of comparisons that p is corrected for.
    """

    __test__ = False  # no test of pytest's

    test: str
    n: int
    effect: float
    p: float
    smallest: float = 0.0
    family: int = 1

    def __str__(self) -> str:
        shown = f"p {self.p:.3f}" if self.p >= 0.001 else "p < 0.001"
        holm = f", Holm over {self.family}" if self.family > 1 else ""
        return f"{shown} ({self.test}, n {self.n}{holm})"


@dataclass(frozen=True)
class Refusal:
    """No p-value, and why; there is none to print."""

    test: str
    n: int
    effect: float
    reason: str

    def __str__(self) -> str:
        return f"no p-value ({self.test}, n {self.n}): {self.reason}"


Outcome = TestResult | Refusal


def paired_t(a: Sequence[float] | Array, b: Sequence[float] | Array) -> Outcome:
    """Student's t-test of the differences a - b of pairs; assumes that they are normal."""
    from scipy.stats import ttest_rel

    x, y = _pairs(a, b)
    name, n = "paired t-test", len(x)
    if n < 2:
        return Refusal(name, n, _mean(x - y), "needs two pairs or more")
    if np.ptp(x - y) <= 1e-12 * np.abs(x - y).max():
        return Refusal(name, n, _mean(x - y), "all differences are equal, so t is not defined")
    return TestResult(name, n, _mean(x - y), float(ttest_rel(x, y).pvalue))


def welch_t(a: Sequence[float] | Array, b: Sequence[float] | Array) -> Outcome:
    """Welch's t-test of two groups of unequal variance that are not paired; n is that of the smaller group."""
    from scipy.stats import ttest_ind

    x, y = (_known(np.asarray(values, float)) for values in (a, b))
    name, n = "Welch t-test", min(len(x), len(y))
    effect = _mean(x) - _mean(y)
    if n < 2:
        return Refusal(name, n, effect, "needs two values or more in each group")
    if max(np.ptp(x), np.ptp(y)) == 0:
        return Refusal(name, n, effect, "neither group has any spread, so t is not defined")
    return TestResult(name, n, effect, float(ttest_ind(x, y, equal_var=False).pvalue))


def sign_flip(
    a: Sequence[float] | Array,
    b: Sequence[float] | Array,
    *,
    alpha: float = ALPHA,
    draws: int = 100_000,
    seed: int = 0,
) -> Outcome:
    """Permutation test of the mean difference of pairs: under the null hypothesis each difference may have either sign.

    All sign patterns are tried up to `ENUMERATED` differences that are not 0; beyond, `draws` random ones with the observed
    pattern among them. Refused when the least possible p, 2 / 2^m for m differences that are not 0, is above `alpha`.
    """
    x, y = _pairs(a, b)
    return _flip("sign-flip", x - y, x - y, alpha=alpha, draws=draws, seed=seed)


def wilcoxon(a: Sequence[float] | Array, b: Sequence[float] | Array, *, alpha: float = ALPHA) -> Outcome:
    """Wilcoxon's signed-rank test of pairs; differences of 0 are left out, equal sizes share their mean rank.

    Exact for up to `ENUMERATED` differences, ties included; beyond, scipy's (exact up to 50 without ties, else normal).
    """
    from scipy.stats import rankdata
    from scipy.stats import wilcoxon as signed_rank

    x, y = _pairs(a, b)
    difference = x - y
    moved = difference[difference != 0]
    if len(moved) <= ENUMERATED:
        ranks = np.sign(moved) * rankdata(np.abs(moved)) if len(moved) else moved
        return _flip("Wilcoxon", difference, ranks, alpha=alpha, draws=0, seed=0)
    p = float(signed_rank(moved, method="auto").pvalue)
    return TestResult("Wilcoxon", len(difference), _mean(difference), p, _smallest(len(moved)))


def holm(outcomes: Mapping[str, Outcome], *, alpha: float = ALPHA) -> dict[str, Outcome]:
    """Holm's correction over a family of comparisons; refused ones count as members, since they were planned.

    A comparison is refused too when its corrected p could not reach `alpha` even if every test of the family gave its least
    possible value: with six sign-flip pairs (p >= 0.03125) a family of two already cannot.
    """
    if not outcomes:
        return {}
    size = len(outcomes)
    p = _step_down(np.array([x.p if isinstance(x, TestResult) else 1.0 for x in outcomes.values()]))
    least = _step_down(np.array([x.smallest if isinstance(x, TestResult) else 1.0 for x in outcomes.values()]))
    corrected: dict[str, Outcome] = {}
    for (name, outcome), value, bound in zip(outcomes.items(), p.tolist(), least.tolist(), strict=True):
        if isinstance(outcome, Refusal):
            corrected[name] = outcome
        elif bound > alpha:
            reason = f"over {size} comparisons a corrected p cannot fall below {bound:.4g}, and alpha is {alpha:g}"
            corrected[name] = Refusal(outcome.test, outcome.n, outcome.effect, reason)
        else:
            corrected[name] = replace(outcome, p=value, smallest=bound, family=size)
    return corrected


def _step_down(p: Array) -> Array:
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def _flip(test: str, difference: Array, terms: Array, *, alpha: float, draws: int, seed: int) -> Outcome:
    """Sign flips of `terms` (the differences or their signed ranks)."""
    n, effect = len(difference), _mean(difference)
    sizes = np.abs(terms[terms != 0])
    exact = len(sizes) <= ENUMERATED
    smallest = _smallest(len(sizes)) if exact else max(_smallest(len(sizes)), 1 / (draws + 1))
    if smallest > alpha:
        what = f"{len(sizes)} pairs that differ" if len(sizes) < n else f"{n} pairs"
        return Refusal(test, n, effect, f"{what} cannot give p below {smallest:.4g}, and alpha is {alpha:g}")
    observed = abs(float(terms.sum())) - 1e-10 * float(sizes.sum())  # sums of equal terms differ by rounding
    if exact:
        # the first sign stays, since a pattern and its opposite have sums of one size
        sums = sizes[:1]
        for size in sizes[1:]:
            sums = np.concatenate([sums + size, sums - size])
        return TestResult(test, n, effect, float((np.abs(sums) >= observed).mean()), smallest)
    rng = np.random.default_rng(seed)
    reached, block = 1, max(1, _CHUNK // len(sizes))
    for first in range(0, draws, block):
        signs = 2.0 * rng.integers(0, 2, (min(block, draws - first), len(sizes)), dtype=np.int8) - 1
        reached += int((np.abs(signs @ sizes) >= observed).sum())
    return TestResult(f"{test}, {draws} draws", n, effect, reached / (draws + 1), smallest)


def _smallest(pairs: int) -> float:
    """Least two-sided p of `pairs` signs."""
    return min(1.0, 2.0 ** (1 - pairs))


def _pairs(a: Sequence[float] | Array, b: Sequence[float] | Array) -> tuple[Array, Array]:
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.shape != y.shape or x.ndim != 1:
        raise SslMedError(f"a paired test needs one value of each method per pair; there are {x.shape} and {y.shape}")
    known = ~(np.isnan(x) | np.isnan(y))
    return x[known], y[known]


def _known(values: Array) -> Array:
    known: Array = values[~np.isnan(values)]
    return known


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan
