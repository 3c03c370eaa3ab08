import math

import numpy as np
import pytest
from sklearn import metrics as sk

from ssl_med.evaluation import analysis as a
from ssl_med.evaluation.scores import multilabel_auroc


@pytest.mark.parametrize("digits", [1, 8])  # with ties, and without
def test_curves_equal_scikit_learn(digits):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 90).astype(float)
    score = np.round(rng.random(90) * 0.5 + 0.2 * truth, digits)
    truth[:4] = np.nan
    curve = a.curve_of("x", truth, score)
    t, s = truth[4:], score[4:]
    fpr, tpr, _ = sk.roc_curve(t, s, drop_intermediate=False)
    assert curve.false_positive == pytest.approx(fpr)
    assert curve.true_positive == pytest.approx(tpr)
    precision, recall, _ = sk.precision_recall_curve(t, s)
    assert curve.precision == pytest.approx(precision[:-1][::-1])
    assert curve.recall == pytest.approx(recall[:-1][::-1])
    assert curve.auc == pytest.approx(sk.roc_auc_score(t, s))
    assert curve.average_precision == pytest.approx(sk.average_precision_score(t, s))
    assert (curve.positives, curve.negatives) == (int(t.sum()), int((1 - t).sum()))
    assert a.curve_of("x", np.ones(5), score[:5]) is None


def slow_ece(truth, probability):
    total = 0.0
    for k in range(15):
        inside = [
            (t, p)
            for t, p in zip(truth, probability, strict=True)
            if k / 15 <= p < (k + 1) / 15 or (k == 14 and p == 1)
        ]
        if inside:
            seen, stated = (sum(x) / len(inside) for x in zip(*inside, strict=True))
            total += len(inside) / len(truth) * abs(seen - stated)
    return total


def test_calibration_equals_counting_bin_by_bin():
    rng = np.random.default_rng(0)
    probability = np.append(rng.random(500), [0.0, 1.0])
    truth = rng.random(502) < probability**2
    found = a.calibrate("x", truth, probability)
    assert found.ece == pytest.approx(slow_ece(truth.astype(float), probability), abs=1e-12)
    assert found.count.sum() == 502
    assert 0.1 < found.ece < 0.25  # the mean of p - p^2 is 1/6
    sure = a.calibrate("x", np.array([1, 1, 0]), np.array([1.0, 1.0, 0.0]))
    assert (sure.ece, sure.count.tolist()) == (0.0, [1, 2])
    assert math.isnan(a.calibrate("x", np.zeros(0), np.zeros(0)).ece)


def test_two_classes_are_described_by_the_second():
    names = ("no", "yes")
    rows = [{"case": str(k), "label": y, "score/no": 1 - p, "score/yes": p} for k, (y, p) in
            enumerate([(0, 0.1), (0, 0.6), (1, 0.7), (1, 0.3), (1, 0.9)])]  # fmt: skip
    errors = a.analyse("class", names, rows)
    assert [curve.name for curve in errors.curves] == ["yes"]
    assert errors.curves[0].auc == pytest.approx(5 / 6)
    assert errors.confusion.tolist() == [[1, 1], [1, 2]]
    assert errors.calibrations[0].ece == pytest.approx((0.1 + 0.6 + 0.3 + 0.7 + 0.1) / 5)
    numbers = errors.numbers()
    assert numbers["curves"]["yes"]["positives"] == 3
    assert numbers["calibration_bins"] == "15 bins of equal width"
    assert a.headline("class", names, rows)(np.ones((1, 5)))[0] == pytest.approx(5 / 6)


def test_many_classes_and_findings():
    rng = np.random.default_rng(0)
    names = ("a", "b", "c")
    label = rng.integers(0, 3, 60)
    score = rng.dirichlet(np.ones(3), 60)
    rows = [{"case": str(k), "label": int(y), **{f"score/{n}": x for n, x in zip(names, s, strict=True)}} for k, (y, s) in
            enumerate(zip(label, score, strict=True))]  # fmt: skip
    errors = a.analyse("class", names, rows)
    assert errors.confusion.tolist() == sk.confusion_matrix(label, score.argmax(1)).tolist()
    assert errors.calibrations[0].ece == pytest.approx(slow_ece(label == score.argmax(1), score.max(1)))
    assert [c.name for c in errors.curves] == list(names)
    statistic = a.headline("class", names, rows)
    assert statistic(np.ones((1, 60)))[0] == pytest.approx(multilabel_auroc(np.eye(3)[label], score)[0])

    found = rng.integers(0, 2, (60, 3)).astype(object)
    found[:, 2] = 0
    found[:5, 0] = None
    rows = [{"case": str(k)} | {f"label/{n}": y for n, y in zip(names, line, strict=True)}
            | {f"score/{n}": x for n, x in zip(names, s, strict=True)}
            for k, (line, s) in enumerate(zip(found, score, strict=True))]  # fmt: skip
    errors = a.analyse("multilabel", names, rows)
    assert [c.name for c in errors.curves] == ["a", "b"]  # c never occurs
    assert errors.confusion.shape == (3, 2, 2)
    assert errors.confusion.sum((1, 2)).tolist() == [55, 60, 60]
    assert errors.confusion[1].tolist() == sk.confusion_matrix(found[:, 1].astype(int), score[:, 1] > 0.5).tolist()
    assert [c.name for c in errors.calibrations] == ["all findings", *names]
    assert errors.calibrations[0].count.sum() == 175


def test_cases_to_look_at():
    goodness = {f"c{k}": k / 10 for k in range(10)} | {"zz": math.nan}
    chosen = a.choose_cases(goodness, (2, 3, 2, 1))
    assert chosen == {"c0": "worst", "c1": "worst", "c2": "worst", "c9": "best", "c4": "middle", "c5": "middle"}
    assert a.choose_cases({f"c{k}": 1 - k / 10 for k in range(10)}, (2, 1, 0, 0)) == {
        "c9": "worst",
        "c0": "first",
        "c1": "first",
    }
    assert a.choose_cases({"a": 0.5}, (9, 9, 9, 9)) == {"a": "worst"}
    assert a.choose_cases(goodness, (0, 0, 0, 0)) == {}
    assert a.choose_cases({}, (1, 1, 1, 1)) == {}
