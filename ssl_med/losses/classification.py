"""Losses of classes and findings on soft targets: smoothed, mixed between samples, weighted by class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_target(label: Tensor, classes: int, *, smoothing: float = 0.0) -> Tensor:
    """(B,) class numbers -> (B, K) float32 probabilities: 1 - s + s/K for the class, s/K for the others.

    Source: Szegedy et al., "Rethinking the Inception architecture", 2016, section 7.
    """
    return F.one_hot(label, classes).float() * (1 - smoothing) + smoothing / classes


def finding_loss(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of findings, mean over those that are known.

    Args:
        logits: (B, K).
        target: (B, K) in [0, 1]; nan where a finding is not known, which is left out.
        weight: (2, K) factors of the absent and of the present finding; None: 1.
    """
    known, present = ~target.isnan(), target.nan_to_num()
    absent_factor, ratio = (None, None) if weight is None else (weight[0], weight[1] / weight[0])
    each = F.binary_cross_entropy_with_logits(logits, present, weight=absent_factor, pos_weight=ratio, reduction="none")
    return torch.where(known, each, 0).sum() / known.sum().clamp_min(1)


def class_weights(counts: Tensor) -> Tensor:
    """(K,) counts of training samples -> N / (K n_k): each class has the same total weight, the mean over samples is 1."""
    counts = counts.double()
    return (counts.sum() / (len(counts) * counts)).float()


def finding_weights(present: Tensor, known: Tensor) -> Tensor:
    """(K,) counts of samples with a finding, and of samples whose label of it is known -> (2, K) factors.

    Absent and present weigh the same in all, and a finding's mean over samples is 1: n / (2 n_absent), n / (2 n_present).
    A finding that is never or always present keeps 1, as there is nothing to balance.
    """
    present, absent = present.double(), (known - present).double()
    total, both = known.double(), (present > 0) & (absent > 0)
    found = torch.stack([total / (2 * absent).clamp_min(1), total / (2 * present).clamp_min(1)])
    return torch.where(both, found, torch.ones_like(found)).float()


def mixed(x: Tensor, share: Tensor, order: Tensor) -> Tensor:
    """Mixup: share * x + (1 - share) * x[order]; nan where one of the two is nan.

    Source: Zhang et al., "mixup: beyond empirical risk minimization", 2018, equation 2.

    Args:
        x: (B, ...) images or soft targets.
        share: (B,) in [0, 1].
        order: (B,) the partner of each sample.
    """
    share = share.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return share * x + (1 - share) * x[order]
