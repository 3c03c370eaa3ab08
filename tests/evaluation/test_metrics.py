import numpy as np
import pytest
import torch

from ssl_med.evaluation.metrics import auroc, dice_per_region, multilabel_auroc


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
