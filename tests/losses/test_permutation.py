"""Sinkhorn, soft permutations and assignment against loops and enumeration in float64."""

import itertools
import math

import pytest
import torch

from ssl_med.losses.permutation import assign, sinkhorn, unpermuted_mse


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_sinkhorn(scores, tau, iterations):
    matrix = [[math.exp(s / tau) for s in row] for row in scores.tolist()]
    n = len(matrix)
    for _ in range(iterations):
        matrix = [[v / sum(row) for v in row] for row in matrix]
        totals = [sum(matrix[i][j] for i in range(n)) for j in range(n)]
        matrix = [[matrix[i][j] / totals[j] for j in range(n)] for i in range(n)]
    return torch.tensor(matrix, dtype=torch.float64)


@pytest.mark.parametrize(("tau", "iterations"), [(1.0, 1), (1.0, 20), (0.3, 7)])
def test_sinkhorn_equals_alternate_division(tau, iterations):
    scores = draw(3, 5, 5)
    got = sinkhorn(scores, temperature=tau, iterations=iterations)
    for b in range(3):
        assert torch.allclose(got[b], slow_sinkhorn(scores[b], tau, iterations), atol=1e-13)


def test_sinkhorn_is_doubly_stochastic_stable_and_equivariant():
    scores = draw(2, 6, 6)
    weights = sinkhorn(scores, iterations=50)
    for axis in (1, 2):
        assert torch.allclose(weights.sum(axis), torch.ones(2, 6, dtype=torch.float64), atol=1e-4)
    shifted = scores + draw(2, 6, 1, seed=1) + draw(2, 1, 6, seed=2)
    assert torch.allclose(sinkhorn(shifted, iterations=200), sinkhorn(scores, iterations=200), atol=1e-9)
    rows = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(sinkhorn(scores[:, rows]), sinkhorn(scores)[:, rows])
    huge = sinkhorn(scores.float() * 1e4)
    assert torch.isfinite(huge).all()
    sharp = sinkhorn(scores, temperature=0.02, iterations=200)
    assert torch.equal(sharp.argmax(2), assign(scores))


def test_assignment_is_the_best_of_all_permutations():
    scores = draw(6, 5, 5)
    for b, places in enumerate(assign(scores).tolist()):
        best = max(itertools.permutations(range(5)), key=lambda p: sum(float(scores[b, i, p[i]]) for i in range(5)))
        assert tuple(places) == best


def test_the_right_permutation_puts_every_patch_back():
    ordered = draw(1, 4, 1, 3, 2)
    order = torch.tensor([[1, 2, 0, 3]])  # not its own inverse
    shuffled = ordered[:, order[0]]
    weights = torch.zeros(1, 4, 4, dtype=torch.float64)
    for slot, place in enumerate(order[0].tolist()):
        weights[0, slot, place] = 1
    assert float(unpermuted_mse(weights, shuffled, ordered)) == 0
    assert float(unpermuted_mse(weights.transpose(1, 2), shuffled, ordered)) > 0.1


def test_unpermuted_error_equals_its_formula():
    weights, shuffled, ordered = draw(2, 3, 3).softmax(2), draw(2, 3, 1, 4, 2, seed=1), draw(2, 3, 1, 4, 2, seed=2)
    total = 0.0
    for b, j, r, c in itertools.product(range(2), range(3), range(4), range(2)):
        restored = sum(float(weights[b, i, j] * shuffled[b, i, 0, r, c]) for i in range(3))
        total += (restored - float(ordered[b, j, 0, r, c])) ** 2
    assert float(unpermuted_mse(weights, shuffled, ordered)) == pytest.approx(total / 48, abs=1e-12)
