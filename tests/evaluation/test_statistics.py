import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ssl_med.evaluation import statistics as s
from ssl_med.evaluation.bootstrap import auc_of, bootstrap, mean_of, paired_bootstrap, resampled
from ssl_med.evaluation.scores import auroc, multilabel_auroc
from ssl_med.spec import SslMedError


def study(seed, n=8, shift=0.3):
    rng = np.random.default_rng(seed)
    a = rng.normal(shift, 1, n)
    return a, rng.normal(0, 1, n) + 0.5 * a


def test_summary():
    assert s.summarize([1.0, 2.0, math.nan, 6.0]) == s.Summary(3, 3.0, pytest.approx(np.std([1, 2, 6], ddof=1)))
    assert math.isnan(s.summarize([1.0]).sd)
    assert str(s.summarize([0.5])) == "0.500 (n 1)"
    assert str(s.summarize([])) == "no value"


# --- tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_t_tests_equal_scipy(seed):
    a, b = study(seed)
    assert s.paired_t(a, b).p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)
    assert s.welch_t(a, b[:5]).p == pytest.approx(stats.ttest_ind(a, b[:5], equal_var=False).pvalue, rel=1e-12)
    assert s.paired_t(a, b).effect == pytest.approx((a - b).mean())


@pytest.mark.parametrize(("seed", "n"), [(0, 6), (1, 7), (2, 9), (3, 10)])
def test_sign_flips_equal_trying_every_pattern(seed, n):
    a, b = study(seed, n)
    difference = a - b
    sums = [abs(sum(x * d for x, d in zip(p, difference, strict=True))) for p in itertools.product((1, -1), repeat=n)]
    expected = np.mean([x >= abs(difference.sum()) - 1e-12 for x in sums])
    assert s.sign_flip(a, b).p == pytest.approx(expected, abs=1e-15)
    exact = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert s.sign_flip(a, b).p == pytest.approx(exact.pvalue, abs=1e-15)


def test_sign_flips_with_ties_that_rounding_splits():
    a = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.6])
    b = np.zeros(7)
    # only the patterns of one sign reach the observed sum
    assert s.sign_flip(a, b).p == 2 / 2**7
    a[-1] = -0.6
    # counted in tenths, which are whole numbers
    tenths = [1, 2, 3, 1, 2, 3, -6]
    sums = [abs(sum(x * d for x, d in zip(p, tenths, strict=True))) for p in itertools.product((1, -1), repeat=7)]
    assert s.sign_flip(a, b).p == pytest.approx(np.mean([x >= abs(sum(tenths)) for x in sums]), abs=1e-15)


def test_many_pairs_are_drawn_and_agree_with_the_exact_value(monkeypatch):
    a, b = study(4, 18, shift=0.8)
    exact = s.sign_flip(a, b)
    monkeypatch.setattr(s, "ENUMERATED", 10)
    drawn = s.sign_flip(a, b, draws=50_000)
    assert abs(drawn.p - exact.p) < 4 * math.sqrt(exact.p * (1 - exact.p) / 50_000) + 1 / 50_000
    assert drawn == s.sign_flip(a, b, draws=50_000)
    assert drawn.p != s.sign_flip(a, b, draws=50_000, seed=1).p
    assert drawn.smallest == pytest.approx(1 / 50_001)
    sure = s.sign_flip(np.arange(1.0, 41.0), np.zeros(40), draws=999)
    assert sure.p == 1 / 1000  # never 0: the observed pattern is one of the draws


@pytest.mark.parametrize(("seed", "n"), [(0, 6), (1, 9), (2, 15), (3, 20), (4, 33)])
def test_wilcoxon_equals_scipy_exact(seed, n):
    a, b = study(seed, n)
    assert s.wilcoxon(a, b).p == pytest.approx(stats.wilcoxon(a, b, method="exact").pvalue, abs=1e-12)


def test_wilcoxon_with_ties_and_zeros_equals_trying_every_pattern():
    difference = np.array([1, 1, -1, 2, 2, 3, 4, 0, 5, 0.0])
    moved = difference[difference != 0]
    ranks = stats.rankdata(abs(moved))
    observed = abs((np.sign(moved) * ranks).sum())
    sums = [abs((np.array(p) * ranks).sum()) for p in itertools.product((1, -1), repeat=len(moved))]
    found = s.wilcoxon(difference, np.zeros(10))
    assert found.p == pytest.approx(np.mean([x >= observed - 1e-9 for x in sums]), abs=1e-15)
    assert found.smallest == 2 / 2**8


def test_a_p_value_that_n_cannot_support_is_refused():
    five, zero = np.array([0.02, 0.03, 0.01, 0.05, 0.04]), np.zeros(5)
    for test in (s.sign_flip, s.wilcoxon):
        refused = test(five, zero)
        assert isinstance(refused, s.Refusal)
        assert not hasattr(refused, "p")
        assert "5 pairs cannot give p below 0.0625, and alpha is 0.05" in str(refused)
        assert refused.effect == pytest.approx(0.03)
        assert isinstance(test(five, zero, alpha=0.0625), s.TestResult)
        six = np.append(five, 0.06)
        assert test(six, np.zeros(6)).p == 0.03125
        same = np.append(five, 0.0)  # the sixth pair is equal: it has no sign
        assert "5 pairs that differ cannot give p below 0.0625" in str(test(same, np.zeros(6)))
        assert isinstance(test(zero, zero), s.Refusal)
        assert isinstance(test([], []), s.Refusal)


def test_degenerate_input_is_refused():
    assert isinstance(s.paired_t([1.0], [2.0]), s.Refusal)
    assert "all differences are equal" in str(s.paired_t([1.1, 2.1, 3.1], [1.0, 2.0, 3.0]))
    assert isinstance(s.welch_t([1.0, 1.0], [2.0, 2.0]), s.Refusal)
    assert isinstance(s.welch_t([1.0, 2.0], [2.0]), s.Refusal)
    assert s.paired_t([1.0, 2.0, math.nan], [0.5, 1.0, 3.0]).n == 2
    with pytest.raises(SslMedError, match="one value of each method per pair"):
        s.sign_flip([1.0, 2.0], [1.0])


def test_holm_by_hand_and_by_its_definition():
    given = {name: s.TestResult("t", 9, 0.0, p) for name, p in {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}.items()}
    found = {name: outcome.p for name, outcome in s.holm(given).items()}
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == list(given)
    assert s.holm({}) == {}
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.random(6) ** 3
        got = [x.p for x in s.holm({str(k): s.TestResult("t", 9, 0.0, v) for k, v in enumerate(p)}).values()]
        for k, value in enumerate(p):
            # the least alpha at which the step-down procedure rejects hypothesis k
            alphas = [(6 - rank) * v for rank, v in enumerate(sorted(p)) if v <= value]
            assert got[k] == pytest.approx(min(1, max(alphas)))


def test_holm_knows_what_a_family_can_reach():
    six = [s.sign_flip(np.arange(1.0, 7.0), np.zeros(6)) for _ in range(2)]  # p = 0.03125 is the least
    assert all(isinstance(x, s.TestResult) for x in six)
    both = s.holm(dict(zip("ab", six, strict=True)))
    assert "over 2 comparisons a corrected p cannot fall below 0.0625" in str(both["a"])
    assert s.holm({"a": six[0]})["a"].p == 0.03125
    seven = [s.sign_flip(np.arange(1.0, 8.0), np.zeros(7)) for _ in range(3)]
    found = s.holm(dict(zip("abc", seven, strict=True)))
    assert found["a"].p == pytest.approx(3 / 64)
    assert "Holm over 3" in str(found["a"])
    # a refused comparison was planned, so it counts
    with_refused = s.holm({"a": six[0], "b": s.sign_flip(np.ones(3), np.zeros(3))})
    assert all(isinstance(x, s.Refusal) for x in with_refused.values())


@pytest.mark.slow
def test_tests_keep_their_level():
    """Share of false alarms of 2,000 studies without an effect, at alpha 0.05."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2000, 8))
    for test, allowed in ((s.sign_flip, 0.05), (s.wilcoxon, 0.05), (s.paired_t, 0.05), (s.welch_t, 0.05)):
        alarms = np.mean([test(x, y).p <= 0.05 for x, y in zip(a, b, strict=True)])
        assert abs(alarms - allowed) < 3.3 * math.sqrt(0.05 * 0.95 / 2000), test.__name__


# --- bootstrap -------------------------------------------------------------------------------------------------


def test_weighted_statistics_equal_repeating_cases():
    rng = np.random.default_rng(0)
    n = 40
    truth = rng.integers(0, 2, (n, 3)).astype(float)
    truth[rng.random((n, 3)) < 0.15] = np.nan
    score, value = rng.integers(0, 9, (n, 3)) / 9, rng.random(n)
    value[3] = np.nan
    weights = rng.integers(0, 3, (25, n)).astype(float)
    fast = (auc_of(truth, score), mean_of(value), auc_of(truth[:, 0], score[:, 0]))
    slow = (
        resampled(lambda t, p: multilabel_auroc(t, p)[0], truth, score),
        resampled(np.nanmean, value),
        resampled(lambda t, p: auroc(t[~np.isnan(t)], p[~np.isnan(t)]), truth[:, 0], score[:, 0]),
    )
    for one, other in zip(fast, slow, strict=True):
        assert one(weights) == pytest.approx(other(weights), abs=1e-12, nan_ok=True)
    assert np.isnan(auc_of(np.ones(4), np.arange(4.0))(np.ones((2, 4)))).all()


@pytest.mark.parametrize(("kind", "name"), [("percentile", "percentile"), ("bca", "BCa")])
def test_intervals_equal_scipy(kind, name):
    rng = np.random.default_rng(0)
    value = rng.exponential(size=50)
    ours = bootstrap(mean_of(value), np.arange(50), kind=kind, resamples=40_000)
    theirs = stats.bootstrap((value,), np.mean, method=name, n_resamples=40_000, rng=1).confidence_interval
    # 40,000 draws leave the ends, and those of scipy, some hundredths of a standard error to chance
    near = 0.1 * value.std() / math.sqrt(50)
    assert ours.estimate == pytest.approx(value.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=near)
    other = bootstrap(mean_of(value), np.arange(50), kind="percentile", resamples=40_000)
    assert (ours.high - other.high > near) == (kind == "bca")  # a right tail moves BCa to the right


def test_subjects_are_drawn_whole():
    """Ten equal cases of one subject carry no more than one case does."""
    rng = np.random.default_rng(0)
    value = rng.random(30)
    single = bootstrap(mean_of(value), np.arange(30))
    repeated = bootstrap(mean_of(np.repeat(value, 10)), np.repeat(np.arange(30), 10))
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high))
    blind = bootstrap(mean_of(np.repeat(value, 10)), np.arange(300))
    assert blind.high - blind.low < 0.5 * (single.high - single.low)
    names = np.array([f"p{k:02d}" for k in range(30)])
    assert bootstrap(mean_of(value), names) == single


def test_pairing_removes_what_methods_share():
    rng = np.random.default_rng(1)
    hard = rng.normal(0.6, 0.2, 60)
    values = {"scratch": hard, "pcrl": hard + 0.02 + rng.normal(0, 0.01, 60), "moco": hard}
    found = paired_bootstrap({name: mean_of(v) for name, v in values.items()}, "scratch", np.arange(60))
    assert list(found) == ["pcrl", "moco"]
    assert 0.015 < found["pcrl"].low < found["pcrl"].high < 0.025
    assert (found["moco"].low, found["moco"].high) == (0.0, 0.0)
    alone = bootstrap(mean_of(values["pcrl"]), np.arange(60))
    assert alone.high - alone.low > 10 * (found["pcrl"].high - found["pcrl"].low)
    difference = bootstrap(mean_of(values["pcrl"] - hard), np.arange(60))
    assert (found["pcrl"].low, found["pcrl"].high) == pytest.approx((difference.low, difference.high))
    with pytest.raises(SslMedError, match="baseline 'mae' is not among the methods"):
        paired_bootstrap({"a": mean_of(hard)}, "mae", np.arange(60))


def test_an_interval_that_cannot_be_had_says_why():
    one = bootstrap(mean_of([0.5, 0.6]), ["p", "p"])
    assert "no interval: 1 subject, 6 are needed)" in str(one)
    assert bootstrap(mean_of(np.arange(5.0)), np.arange(5)).reason == "5 subjects, 6 are needed"
    assert not bootstrap(mean_of(np.arange(6.0)), np.arange(6)).reason
    assert not bootstrap(mean_of(np.arange(5.0)), np.arange(5), level=0.9).reason  # the range holds it in 1 - 2/2^5
    assert one.estimate == pytest.approx(0.55)
    assert math.isnan(one.low)
    truth = np.array([1.0] + [0.0] * 9)
    rare = bootstrap(auc_of(truth, np.arange(10.0)), np.arange(10))
    assert "the metric is not defined in" in rare.reason
    assert abs(rare.undefined / 2000 - 0.9**10) < 0.05
    assert bootstrap(auc_of(np.zeros(9), np.arange(9.0)), np.arange(9)).reason == "the metric is not defined"
    for kind in ("expanded", "percentile", "bca"):
        flat = bootstrap(mean_of(np.ones(6)), np.arange(6), kind=kind)
        assert (flat.low, flat.high) == (1.0, 1.0)
    with pytest.raises(SslMedError, match="level of an interval is 95"):
        bootstrap(mean_of([1.0, 2.0]), [0, 1], level=95)


def test_chunks_change_nothing(monkeypatch):
    value = np.random.default_rng(0).random(20)
    for kind in ("expanded", "bca"):
        whole = bootstrap(mean_of(value), np.arange(20), kind=kind, resamples=300)
        with monkeypatch.context() as patch:
            patch.setattr("ssl_med.evaluation.bootstrap.CHUNK", 137)
            assert bootstrap(mean_of(value), np.arange(20), kind=kind, resamples=300) == whole


STUDIES = 1000
TOLERANCE = 3.3 * math.sqrt(0.95 * 0.05 / STUDIES)  # p about 0.001 for a fair interval


def covered(simulate, *, truth, **options):
    hits = 0
    for number in range(STUDIES):
        statistic, subjects = simulate(np.random.default_rng([7, number]))
        found = bootstrap(statistic, subjects, resamples=400, seed=number, **options)
        hits += found.low <= truth <= found.high
    return hits / STUDIES


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["expanded", "percentile", "bca"])
def test_intervals_of_clustered_means_cover_the_truth(kind):
    """100 patients of 1 to 4 images, whose values share the patient's own level."""

    def simulate(rng):
        subjects = np.repeat(np.arange(100), rng.integers(1, 5, 100))
        return mean_of(0.7 + rng.normal(0, 0.1, 100)[subjects] + rng.normal(0, 0.05, len(subjects))), subjects

    assert abs(covered(simulate, truth=0.7, kind=kind) - 0.95) < TOLERANCE


def test_the_expanded_interval_covers_the_truth_with_few_patients():
    def simulate(rng):
        return mean_of(0.7 + rng.normal(0, 0.1, 12)), np.arange(12)

    assert abs(covered(simulate, truth=0.7) - 0.95) < TOLERANCE
    assert covered(simulate, truth=0.7, kind="percentile") < 0.95 - TOLERANCE  # why it is the default


@pytest.mark.slow
def test_intervals_of_an_auc_cover_the_truth():
    def simulate(rng):
        truth = rng.permutation(np.repeat([0, 1], 75))
        return auc_of(truth, rng.normal(truth, 1)), np.arange(150)

    assert abs(covered(simulate, truth=stats.norm.cdf(1 / math.sqrt(2))) - 0.95) < TOLERANCE


def test_paired_differences_cover_the_truth():
    hits = 0
    for number in range(STUDIES):
        rng = np.random.default_rng([11, number])
        hard = rng.normal(0.7, 0.15, 100)
        better = mean_of(hard + 0.01 + rng.normal(0, 0.03, 100))
        found = paired_bootstrap({"a": mean_of(hard), "b": better}, "a", np.arange(100), resamples=400, seed=number)[
            "b"
        ]
        hits += found.low <= 0.01 <= found.high
    assert abs(hits / STUDIES - 0.95) < TOLERANCE
