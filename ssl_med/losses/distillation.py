"""Losses of a student that predicts what another network or another view says; targets get no gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of 2 - 2 cos(p, z) = |p/|p| - z/|z||^2 (Grill et al. 2020, eq. 2), in [0, 4].

    Args:
        prediction: (B, d); normalised here.
        target: (B, d); normalised here.
    """
    return (2 - 2 * F.cosine_similarity(prediction, target.detach(), dim=1)).mean()


def soft_cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """Mean over the batch of -sum_k t_k log softmax(logits)_k; both (B, K), rows of the target sum to 1."""
    return -(target.detach() * F.log_softmax(logits, dim=1)).sum(1).mean()


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int = 3) -> Tensor:
    """Soft assignments of a batch that use all clusters equally (Caron et al. 2020, eq. 3-5; Cuturi 2013).

    exp(scores / epsilon) is scaled so that clusters sum to B / K, then so that samples sum to 1, `iterations` times. Only
    the two scaling vectors are iterated: Q = diag(u) E diag(v).

    Args:
        scores: (B, K) similarities of the whole batch, of all processes, to all clusters.
        epsilon: entropy; the smaller, the harder the assignments.
        iterations: at least 1.

    Returns:
        (B, K), rows sum to 1.
    """
    kernel = (scores - scores.max()).div_(epsilon).exp_()  # in place: further arrays of this size cost page faults
    smallest = torch.finfo(kernel.dtype).tiny
    u = kernel.new_ones(len(kernel))
    v = kernel.new_ones(kernel.shape[1])
    for _ in range(iterations):
        v = (len(v) * (kernel.T @ u)).clamp_min(smallest).reciprocal()
        u = (kernel @ v).clamp_min(smallest).reciprocal()
    return kernel.mul_(v).mul_(u[:, None])
