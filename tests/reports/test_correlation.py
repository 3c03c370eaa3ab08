"""Correlations over networks against scipy, their intervals, and their section."""

import math

import numpy as np
import pytest
from scipy import stats

from ssl_med.reports.numbers.correlation import correlations, pearson_of, spearman_of


def test_values_are_scipys_also_within_resamples_and_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 12).astype(float), rng.normal(size=12)
    weights = np.vstack([np.ones(12), rng.multinomial(12, np.full(12, 1 / 12), 3)])
    for mine, theirs in ((pearson_of(x, y), stats.pearsonr), (spearman_of(x, y), stats.spearmanr)):
        for value, line in zip(mine(weights), weights.astype(int), strict=True):
            take = np.repeat(np.arange(12), line)
            assert value == pytest.approx(theirs(x[take], y[take]).statistic, abs=1e-12)
    assert math.isnan(pearson_of(np.ones(12), y)(weights[:1])[0])


def test_only_networks_that_have_both_count_and_the_strongest_comes_first():
    networks = "abcdefgh"
    rising = {name: float(k) for k, name in enumerate(networks)}
    scores = {"dice": {name: value**3 for name, value in rising.items()}, "auc": {"a": 0.1, "b": 0.2, "c": 0.3}}
    numbers = {"noisy": {**rising, "a": 2.5, "h": math.nan}, "exact": rising, "constant": dict.fromkeys(networks, 1.0)}
    found = correlations(numbers, scores)
    assert [(one.number, one.score, len(one.x)) for one in found] == [("exact", "dice", 8), ("noisy", "dice", 7)]
    assert found[0].spearman.estimate == pytest.approx(1)
    assert found[0].pearson.estimate == pytest.approx(stats.pearsonr(range(8), [k**3 for k in range(8)]).statistic)
    assert found[0].spearman.low == pytest.approx(1)
    assert found[1].pearson.low < found[1].pearson.estimate < found[1].pearson.high


def test_four_networks_have_a_value_and_no_interval():
    rising = {name: float(k) for k, name in enumerate("abcd")}
    (one,) = correlations({"n": rising}, {"s": rising})
    assert one.pearson.estimate == pytest.approx(1)
    assert "6 are needed" in one.pearson.reason
