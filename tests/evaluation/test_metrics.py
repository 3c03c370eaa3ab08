import numpy as np
import pytest
import torch

from ssl_med.evaluation.metrics import auroc, balanced_accuracy, dice_per_region, multilabel_auroc, quadratic_kappa


def slow_dice(prediction, truth):
    both = total = 0
    for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        both += p and t
        total += int(p) + int(t)
    return 2 * both / total if total else 1.0


@pytest.mark.parametrize("shape", [(2, 5, 6), (3, 4, 5, 6)])
def test_dice_equals_counting(shape):
    g = torch.Generator().manual_seed(0)
    prediction, truth = (torch.rand(shape, generator=g) > 0.6 for _ in range(2))
    expected = [slow_dice(p, t) for p, t in zip(prediction, truth, strict=True)]
    assert dice_per_region(prediction, truth).tolist() == pytest.approx(expected, abs=1e-12)


def test_dice_conventions_for_empty_masks():
    empty, full = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    assert dice_per_region(empty, empty).item() == 1
    assert dice_per_region(full, empty).item() == 0
    assert dice_per_region(empty, full).item() == 0
    assert dice_per_region(full, full).item() == 1


def slow_auc(truth, score):
    pairs = wins = 0
    for t1, s1 in zip(truth, score, strict=True):
        for t0, s0 in zip(truth, score, strict=True):
            if t1 == 1 and t0 == 0:
                pairs += 1
                wins += 1.0 if s1 > s0 else 0.5 if s1 == s0 else 0.0
    return wins / pairs


def test_auroc_is_the_probability_of_ranking_a_positive_higher():
    rng = np.random.default_rng(0)
    truth, score = rng.integers(0, 2, 60), rng.integers(0, 8, 60) / 8  # with ties
    assert auroc(truth, score) == pytest.approx(slow_auc(truth, score), abs=1e-12)
    assert np.isnan(auroc(np.zeros(5), np.arange(5.0)))


def test_multilabel_mean_leaves_out_undefined_classes():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (40, 3))
    truth[:, 1] = 0
    score = rng.random((40, 3))
    mean, each = multilabel_auroc(truth, score)
    assert np.isnan(each[1])
    assert mean == pytest.approx((slow_auc(truth[:, 0], score[:, 0]) + slow_auc(truth[:, 2], score[:, 2])) / 2)


def test_multilabel_leaves_out_unknown_labels():
    rng = np.random.default_rng(2)
    truth, score = rng.integers(0, 2, (50, 2)).astype(float), rng.random((50, 2))
    truth[rng.random((50, 2)) < 0.3] = np.nan
    _, each = multilabel_auroc(truth, score)
    for k in range(2):
        pairs = [(int(t), s) for t, s in zip(truth[:, k], score[:, k], strict=True) if t == t]
        assert each[k] == pytest.approx(slow_auc(*zip(*pairs, strict=True)), abs=1e-12)


def slow_kappa(truth, answer, classes):
    """Weighted kappa by counting all pairs of an observed truth and an observed answer."""
    pairs = list(zip(truth, answer, strict=True))
    observed = sum((t - a) ** 2 / (classes - 1) ** 2 for t, a in pairs) / len(pairs)
    chance = sum((t - a) ** 2 / (classes - 1) ** 2 for t in truth for a in answer) / len(pairs) ** 2
    return 1 - observed / chance


def test_quadratic_kappa_equals_counting():
    rng = np.random.default_rng(3)
    for classes in (2, 3, 5):
        truth = rng.integers(0, classes, 70)
        answer = np.where(rng.random(70) < 0.5, truth, rng.integers(0, classes, 70))
        got = quadratic_kappa(truth, answer, classes)
        assert got == pytest.approx(slow_kappa(truth.tolist(), answer.tolist(), classes), abs=1e-12)
        assert quadratic_kappa(truth, truth, classes) == 1
    assert quadratic_kappa(np.array([0, 4]), np.array([4, 0]), 5) == -1
    # a far mistake costs more than a near one
    truth = np.array([0, 1, 2, 3, 4, 0])
    near, far = truth.copy(), truth.copy()
    near[0], far[0] = 1, 4
    assert quadratic_kappa(truth, near, 5) > quadratic_kappa(truth, far, 5)
    assert np.isnan(quadratic_kappa(np.zeros(4, int), np.zeros(4, int), 5))


def test_balanced_accuracy_weighs_classes_alike():
    truth, answer = np.array([0] * 9 + [2]), np.zeros(10, int)
    assert balanced_accuracy(truth, answer) == 0.5  # class 1 is absent and not counted
    assert balanced_accuracy(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 0])) == pytest.approx((1 + 1 / 3) / 2)
