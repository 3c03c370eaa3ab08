"""Statistics of a comparison over seeds: spread, paired tests, and what n cannot support. Over patients: `bootstrap`.

The two sources of chance are kept apart: `summarize`, `paired_t`, `welch_t`, `sign_flip` and `wilcoxon` take one value per run.

Sources: sign flips, Fisher 1935, and Phipson and Smyth, SAGMB 9, 2010 (the one added in Monte Carlo); Holm, Scand. J. Stat.
6, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_med.spec import SslMedError

Array = NDArray[Any]
ALPHA = 0.05
ENUMERATED = 20  # pairs up to which all sign flips are tried: 2**19 sums take milliseconds
CHUNK = 1 << 22  # numbers of a block of random draws, 32 MiB


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
    reached, block = 1, max(1, CHUNK // len(sizes))
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
