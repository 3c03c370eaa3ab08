"""Batched logistic regression against scikit-learn, one fit at a time."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ssl_med.evaluation.logistic import fit_classes, fit_findings
from ssl_med.spec import SslMedError

L2 = torch.logspace(-3, 4, 6, dtype=torch.float64)


def sample(n, d, k, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) * 0.3 + 2  # correlated, not centred
    label = (x @ torch.randn(d, k, generator=g) + 3 * torch.randn(n, k, generator=g)).argmax(1)
    label[:k] = torch.arange(k)
    return x, label


def reference(x, label, c):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = LogisticRegression(C=c, tol=1e-10, max_iter=20000).fit(x.double().numpy(), label.numpy())
    return torch.from_numpy(fit.coef_), torch.from_numpy(fit.intercept_)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(90, 8), (20, 30)])
def test_three_classes_equal_scikit_learn_at_every_strength(n, d):
    x, label = sample(n, d, 3)
    fits = fit_classes(x, label, L2, classes=3, tol=1e-8)
    assert fits.weight.shape == (6, 3, d)
    for g, l2 in enumerate(L2.tolist()):
        weight, bias = reference(x, label, 1 / l2)
        ours, theirs = fits.logits(x)[g].softmax(1), (x.double() @ weight.T + bias).softmax(1)
        assert (ours - theirs).abs().max() < 2e-4, l2
        if l2 >= 1:
            assert (fits.weight[g] - weight).abs().max() < 1e-4 * weight.abs().max() + 1e-6


def test_two_classes_are_a_softmax_of_two_rows():
    """Penalty of two opposite rows w/2 is a half of a sigmoid's, so scikit-learn's binary C is 2 / l2."""
    x, label = sample(120, 8, 2)
    fits = fit_classes(x, label, L2, classes=2, tol=1e-8)
    for g, l2 in enumerate(L2.tolist()):
        weight, bias = reference(x, label, 2 / l2)
        assert torch.allclose(fits.weight[g, 1] - fits.weight[g, 0], weight[0], atol=2e-4 * float(weight.abs().max()))
        assert torch.allclose(fits.bias[g, 1] - fits.bias[g, 0], bias[0], atol=1e-3)


def test_findings_are_one_regression_each_and_unknown_labels_are_left_out():
    x, first = sample(140, 9, 2, seed=1)
    second = sample(140, 9, 2, seed=2)[1]
    label = torch.stack([first, second, torch.ones(140)], 1).float()
    unknown = torch.rand(140, generator=torch.Generator().manual_seed(3)) < 0.3
    label[unknown, 1] = float("nan")
    fits = fit_findings(x, label, L2, tol=1e-8)
    assert fits.converged == 1
    for g, l2 in enumerate(L2.tolist()):
        for k, rows in ((0, torch.ones(140, dtype=torch.bool)), (1, ~unknown)):
            weight, bias = reference(x[rows], label[rows, k], 1 / l2)
            assert torch.allclose(fits.weight[g, k], weight[0], atol=2e-4 * float(weight.abs().max()))
            assert torch.allclose(fits.bias[g, k], bias[0], atol=1e-3)
    assert not fits.weight[:, 2].any(), "a finding that all samples have has no optimum"


def test_the_gradient_of_the_objective_vanishes():
    """An independent check in raw coordinates, without centring, axes or scaling."""
    x, label = sample(80, 200, 4)
    fits = fit_classes(x, label, L2, classes=4, tol=1e-9)
    for g, l2 in enumerate(L2):
        w, b = fits.weight[g].clone().requires_grad_(), fits.bias[g].clone().requires_grad_()
        loss = (
            torch.nn.functional.cross_entropy(x.double() @ w.T + b, label, reduction="sum") + l2 / 2 * w.square().sum()
        )
        loss.backward()
        assert w.grad.abs().max() < 1e-4
        assert b.grad.abs().max() < 1e-4


def test_what_cannot_be_fitted_is_one_line():
    with pytest.raises(SslMedError, match="class number 1 has no sample to fit"):
        fit_classes(torch.randn(4, 2), torch.tensor([0, 0, 2, 2]), L2, classes=3)
    with pytest.raises(SslMedError, match="hold NaN or infinity"):
        fit_classes(torch.full((4, 2), np.nan), torch.tensor([0, 1, 0, 1]), L2, classes=2)
