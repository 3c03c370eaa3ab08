"""L2-regularised logistic regression of many problems at once: all strengths, and all findings, in one batched L-BFGS.

The objective is scikit-learn's with C = 1 / l2: sum over samples of the loss + l2 / 2 |w|^2, the intercept without penalty.
Classes are a softmax with one row per class (two rows for two classes too, as in Anton et al. 2022), findings one sigmoid each.

Minimised is the same function in other coordinates: features are centred, which only moves the intercept, turned into their
principal axes, outside of which the optimum is 0, and scaled to unit curvature along each. There a plain L-BFGS (lbfgs.py)
needs tens of iterations where the raw features take thousands.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.evaluation.lbfgs import lbfgs
from ssl_med.finite import check_rows
from ssl_med.spec import SslMedError

_ROUND = 50  # iterations between two choices of coordinates
_BLOCK = 1 << 24  # logits held at once


@dataclass(frozen=True)
class Logistic:
    """G fits, one per strength: weight (G, K, D) and bias (G, K) float64; `converged`: share of problems that did."""

    weight: Tensor
    bias: Tensor
    converged: float = 1.0

    def logits(self, x: Tensor) -> Tensor:
        """(N, D) -> (G, N, K)."""
        weight = self.weight.to(x.device)
        return torch.einsum("nd,gkd->gnk", x.to(weight.dtype), weight) + self.bias.to(x.device)[:, None]


def fit_classes(
    x: Tensor, label: Tensor, l2: Tensor, *, classes: int, max_iter: int = 1000, tol: float = 1e-5
) -> Logistic:
    """Multinomial regression at every strength.

    Args:
        x: (N, D) features.
        label: (N,) int64 numbers of classes; every class must occur, or its intercept has no optimum.
        l2: (G,) positive strengths.
        classes: K.
        max_iter: of L-BFGS.
        tol: a problem is done when its scaled gradient is below tol * sqrt(N).

    Raises:
        SslMedError: a class without samples, or features that are not finite.
    """
    counts = torch.bincount(label, minlength=classes)
    if (counts == 0).any():
        raise SslMedError(f"class number {int((counts == 0).nonzero()[0])} has no sample to fit; take more subjects")
    if classes == 2:  # two rows w0 = -w1 = -w/2 have the penalty l2/4 |w|^2
        one = fit_findings(x, label[:, None].double(), l2 / 2, max_iter=max_iter, tol=tol)
        return Logistic(
            torch.cat([-one.weight / 2, one.weight / 2], 1), torch.cat([-one.bias / 2, one.bias / 2], 1), one.converged
        )
    axes = _Axes.of(x)
    target = F.one_hot(label, classes).double()
    found, done = [], 0.0
    for block in torch.split(l2.double().to(x.device), max(1, _BLOCK // (len(x) * classes))):
        theta, converged = _solve(_Softmax(axes, target, block), max_iter, axes.tol(tol))
        found.append(theta.view(len(block), classes, -1))
        done += float(converged.sum())
    return axes.back(torch.cat(found), done / len(l2))


def fit_findings(x: Tensor, label: Tensor, l2: Tensor, *, max_iter: int = 1000, tol: float = 1e-5) -> Logistic:
    """One binary regression per finding at every strength.

    Args:
        x: (N, D) features.
        label: (N, K) of 0 and 1; nan leaves the sample out for that finding. A finding whose known labels are all the
            same has no optimum: its weights and intercept are 0.
        l2: (G,) positive strengths.
        max_iter: of L-BFGS.
        tol: as in `fit_classes`.
    """
    axes = _Axes.of(x)
    label = label.to(x.device).double()
    known = ~label.isnan()
    target = label.nan_to_num()
    positive = (target * known).sum(0)
    learnable = ((positive > 0) & (positive < known.sum(0))).nonzero()[:, 0]
    strengths = l2.double().to(x.device)
    # one problem per strength and finding
    strength = strengths.repeat_interleave(len(learnable))
    finding = learnable.repeat(len(strengths))

    theta = x.new_zeros(len(strengths) * label.shape[1], axes.width, dtype=torch.float64)
    place = (torch.arange(len(strengths), device=x.device)[:, None] * label.shape[1] + learnable).flatten()
    done = 0.0
    for start in range(0, len(strength), block := max(1, _BLOCK // len(x))):
        some = slice(start, start + block)
        problems = _Sigmoid(axes, target, known, strength[some], finding[some])
        theta[place[some]], converged = _solve(problems, max_iter, axes.tol(tol))
        done += float(converged.sum())
    return axes.back(theta.view(len(strengths), label.shape[1], -1), done / max(1, len(strength)))


@dataclass(frozen=True)
class _Axes:
    """Centred features on their principal axes with a column of ones: z (N, R + 1)."""

    z: Tensor
    mean: Tensor  # (D,)
    axes: Tensor  # (D, R)
    curvature: Tensor  # (R + 1,) upper bound along each axis

    @classmethod
    def of(cls, x: Tensor) -> _Axes:
        x = x.double()
        check_rows((), x, "features")
        mean = x.mean(0)
        centred = x - mean
        if x.shape[0] < x.shape[1]:  # few samples: the axes lie in their span
            values, vectors = torch.linalg.eigh(centred @ centred.T)
            kept = values > 1e-13 * values[-1].clamp_min(1e-300)
            axes = centred.T @ (vectors[:, kept] / values[kept].sqrt())
        else:
            values, vectors = torch.linalg.eigh(centred.T @ centred)
            kept = values > 1e-13 * values[-1].clamp_min(1e-300)
            axes = vectors[:, kept]
        z = torch.cat([centred @ axes, torch.ones_like(centred[:, :1])], 1)
        return cls(z, mean, axes, z.square().sum(0) / 4)

    @property
    def width(self) -> int:
        return self.z.shape[1]

    def tol(self, tol: float) -> float:
        return tol * math.sqrt(len(self.z))

    def back(self, theta: Tensor, converged: float) -> Logistic:
        """(G, K, R + 1) on the axes -> weights of the raw features."""
        weight = theta[..., :-1] @ self.axes.T
        return Logistic(weight, theta[..., -1] - weight @ self.mean, converged)


class _Problems(ABC):
    """P independent convex functions of M parameters each."""

    def __init__(self, axes: _Axes, l2: Tensor, rows: int) -> None:
        self.z, self.rows = axes.z, rows
        # by parameter: nothing on the intercepts
        self.l2 = l2[:, None, None].repeat(1, rows, axes.width)
        self.l2[..., -1] = 0
        self.bound = axes.curvature + self.l2  # of the Hessian's diagonal

    @abstractmethod
    def losses(self, some: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, P, K) of some problems -> sum of losses (P,) and its gradient (N, P, K)."""

    @abstractmethod
    def variance(self, some: Tensor, logits: Tensor) -> Tensor:
        """Second derivative of each loss by its logit (N, P, K)."""

    def __call__(self, some: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (P,) and gradient (P, M) at (P, M)."""
        theta = flat.view(len(some), self.rows, -1)
        loss, residual = self.losses(some, self._logits(theta))
        decay = self.l2[some] * theta
        gradient = (residual.flatten(1).T @ self.z).view_as(theta) + decay
        return loss + (decay * theta).sum((1, 2)) / 2, gradient.flatten(1)

    def diagonal(self, some: Tensor, flat: Tensor) -> Tensor:
        """Diagonal of the Hessian (P, M), not below a share of its bound, so that flat directions are not overstepped."""
        theta = flat.view(len(some), self.rows, -1)
        curvature = (self.variance(some, self._logits(theta)).flatten(1).T @ self.z.square()).view_as(theta)
        return (curvature + self.l2[some]).clamp_min(1e-12 * self.bound[some]).flatten(1)

    def _logits(self, theta: Tensor) -> Tensor:
        return (self.z @ theta.flatten(0, 1).T).view(len(self.z), *theta.shape[:2])


class _Softmax(_Problems):
    def __init__(self, axes: _Axes, target: Tensor, l2: Tensor) -> None:
        super().__init__(axes, l2, target.shape[1])
        self.target = target[:, None]

    def losses(self, some: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        log = logits.log_softmax(2)
        return -(log * self.target).sum((0, 2)), log.exp() - self.target

    def variance(self, some: Tensor, logits: Tensor) -> Tensor:
        p = logits.softmax(2)
        return p * (1 - p)


class _Sigmoid(_Problems):
    def __init__(self, axes: _Axes, target: Tensor, known: Tensor, l2: Tensor, finding: Tensor) -> None:
        super().__init__(axes, l2, 1)
        self.target, self.known, self.finding = target, known, finding

    def losses(self, some: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        y, use = self.target[:, self.finding[some], None], self.known[:, self.finding[some], None]
        loss = (F.softplus(logits) - y * logits).mul(use).sum((0, 2))
        return loss, (logits.sigmoid() - y) * use

    def variance(self, some: Tensor, logits: Tensor) -> Tensor:
        p = logits.sigmoid()
        return p * (1 - p) * self.known[:, self.finding[some], None]


def _solve(problems: _Problems, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """L-BFGS in coordinates of unit curvature, which are found anew every `_ROUND` iterations for what is not done.

    Returns:
        (P, M) minimisers and (P,) bool, whether the scaled gradient got below `tol`.
    """
    scale = problems.bound.flatten(1).rsqrt()
    theta = torch.zeros_like(scale)
    open_ = torch.arange(len(theta), device=theta.device)
    converged = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    for start in range(0, max_iter, _ROUND):

        def objective(
            some: Tensor, flat: Tensor, rows: Tensor = open_, factor: Tensor = scale
        ) -> tuple[Tensor, Tensor]:
            value, gradient = problems(rows[some], flat * factor[some])
            return value, gradient * factor[some]

        found, done = lbfgs(objective, theta[open_] / scale, min(_ROUND, max_iter - start), tol)
        theta[open_], converged[open_] = found * scale, done
        open_ = open_[~done]
        if not len(open_):
            break
        scale = problems.diagonal(open_, theta[open_]).rsqrt()
    return theta, converged
