"""Losses of classes and findings against loops in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from ssl_med.losses.classification import class_weights, finding_loss, finding_weights, mixed, soft_target


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_soft_targets_spread_their_share_evenly():
    target = soft_target(torch.tensor([2, 0]), 4, smoothing=0.2)
    assert torch.allclose(target, torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]))
    assert torch.equal(soft_target(torch.tensor([1]), 3), torch.tensor([[0.0, 1.0, 0.0]]))


@pytest.mark.parametrize("weighted", [False, True])
def test_findings_equal_their_formula_and_leave_unknown_ones_out(weighted):
    logits = draw(5, 3)
    target = torch.tensor([[1.0, 0, 0.3], [0, math.nan, 1], [1, 1, 0], [0, 0, math.nan], [0.5, 1, 0]]).double()
    weight = torch.tensor([[0.7, 1.0, 2.0], [3.0, 1.0, 0.5]]).double() if weighted else None
    total, known = 0.0, 0
    for i in range(5):
        for k in range(3):
            y, p = float(target[i, k]), 1 / (1 + math.exp(-float(logits[i, k])))
            if math.isnan(y):
                continue
            absent, present = (float(weight[0, k]), float(weight[1, k])) if weighted else (1, 1)
            total -= present * y * math.log(p) + absent * (1 - y) * math.log(1 - p)
            known += 1
    assert float(finding_loss(logits, target, weight=weight)) == pytest.approx(total / known, abs=1e-12)
    assert finding_loss(logits, torch.full_like(target, math.nan)) == 0


def test_balanced_weights_give_each_class_and_each_side_of_a_finding_the_same_total():
    counts = torch.tensor([6, 3, 1])
    weights = class_weights(counts)
    assert torch.allclose(weights * counts, torch.full((3,), 10 / 3))
    absent, present = finding_weights(torch.tensor([2, 0, 8]), torch.tensor([10, 10, 8]))
    assert torch.allclose(absent, torch.tensor([10 / 16, 1.0, 1.0]))  # without both sides nothing is balanced
    assert torch.allclose(present, torch.tensor([10 / 4, 1.0, 1.0]))


def test_mixup_is_the_formula_and_the_identity_at_share_one():
    x, order = draw(3, 1, 2, 2), torch.tensor([1, 2, 0])
    share = torch.tensor([1.0, 0.25, 0.0])
    result = mixed(x, share, order)
    for i, (lam, j) in enumerate(zip(share.tolist(), order.tolist(), strict=True)):
        assert torch.allclose(result[i], lam * x[i] + (1 - lam) * x[j])
    assert torch.equal(mixed(x, torch.ones(3), order), x)
    hard, other = F.one_hot(torch.tensor([0, 1, 1]), 2).float(), mixed
    assert torch.allclose(other(hard, share, order).sum(1), torch.ones(3))
