"""Contrastive losses; the positive is part of the denominator, and cosine similarities are of L2-normalised vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _InfoNCE(torch.autograd.Function):
    """Closed-form gradient: dL/dq_i = (Σ_j p_ij key_j - k_i) / (τ B), p_i = softmax of the logits.

    It is computed with the loss, so nothing keeps the queue alive for the backward pass and the queue may be overwritten
    in between without a copy.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, queue: Tensor, temperature: float, left_out: Tensor | None) -> Tensor:
        positive = (q * k).sum(1, keepdim=True) / temperature
        negatives = ((q / temperature) @ queue).to(q.dtype)
        if left_out is not None:
            negatives.masked_fill_(left_out, -torch.inf)
        largest = torch.maximum(negatives.amax(1, keepdim=True), positive)
        # in place, and e^x once: these are batch times queue numbers
        weights = negatives.sub_(largest).exp_()
        own = (positive - largest).exp()
        total = own + weights.sum(1, keepdim=True)
        loss = (total.log() + largest - positive).mean()
        grad = (weights @ queue.T).to(q.dtype) / total + (own / total - 1) * k
        ctx.save_for_backward(grad / (temperature * len(q)))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad_q,) = ctx.saved_tensors
        return grad * grad_q, None, None, None, None


class _NCE(torch.autograd.Function):
    """Closed-form gradient, as in `_InfoNCE`: a logit's derivative is its sigmoid of the odds, less 1 for the positive."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, queue: Tensor, temperature: float, mean: Tensor, left_out: Tensor | None
    ) -> Tensor:
        # log of P / (K P_n) = e^logit / (K mean)
        odds = _logits(q, k, queue, temperature).sub_(torch.log(queue.shape[1] * mean))
        if left_out is not None:
            odds[:, 1:].masked_fill_(left_out, -torch.inf)
        loss = (F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(1)).mean()
        weights = odds.sigmoid_()
        grad = (weights[:, 1:] @ queue.T).to(q.dtype) + (weights[:, :1] - 1) * k
        ctx.save_for_backward(grad / (temperature * len(q)))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (grad_q,) = ctx.saved_tensors
        return grad * grad_q, None, None, None, None, None


def _logits(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """(B, 1 + K) similarities / τ of unit vectors, the positive first."""
    return torch.cat([(q * k).sum(1, keepdim=True), (q @ queue).to(q.dtype)], 1).div_(temperature)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, *, temperature: float, left_out: Tensor | None = None) -> Tensor:
    """Mean over i of -log( e^(q_i·k_i/τ) / (e^(q_i·k_i/τ) + Σ_n e^(q_i·queue_n/τ)) ) (He et al. 2020, eq. 1).

    Args:
        q: (B, d) queries; normalised here.
        k: (B, d) positive keys; normalised here, they get no gradient.
        queue: (d, K) negatives with unit columns; they get no gradient.
        temperature: τ.
        left_out: (B, K) bool, what is no negative of a query; None: all are.
    """
    q, k = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1)
    loss: Tensor = _InfoNCE.apply(q, k, queue.to(q.dtype), temperature, left_out)  # type: ignore[no-untyped-call]
    return loss


def nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    *,
    temperature: float,
    mean: Tensor | None = None,
    left_out: Tensor | None = None,
) -> Tensor:
    """Noise-contrastive estimation against K uniform negatives (Gutmann and Hyvärinen 2010; Wu et al. 2018, eq. 7-8).

    P(x) = e^(q·x/τ) / Z with Z = n mean and noise P_n = 1 / n over n training samples; mean over i of
    -log( P(k_i) / (P(k_i) + K P_n) ) - Σ_n log( K P_n / (P(queue_n) + K P_n) ). The number n cancels; in codes that add
    1e-5 to the denominators it matters, because P_n is as small.

    Args:
        q: (B, d) queries; normalised here.
        k: (B, d) positive keys; normalised here, they get no gradient.
        queue: (d, K) negatives with unit columns; they get no gradient.
        temperature: τ.
        mean: estimate of the mean of e^(q·x/τ), () as from `nce_mean`; default: that of this batch.
        left_out: (B, K) bool, what is no negative of a query.
    """
    mean = nce_mean(q, k, queue, temperature=temperature) if mean is None else mean
    q, k = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1)
    loss: Tensor = _NCE.apply(q, k, queue.to(q.dtype), temperature, mean.to(q.dtype), left_out)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def nce_mean(q: Tensor, k: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Mean of e^(q·x/τ) over positives and negatives of a batch, (): what `nce` divides by."""
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    return _logits(q, k, queue.to(q.dtype), temperature).exp().mean()


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float,
    all1: Tensor | None = None,
    all2: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """NT-Xent (Chen et al. 2020, eq. 1), mean over the 2B anchors.

    An anchor's positive is the other view of its image, its negatives are all other views of the global batch. The official
    code adds the means over the first and the second views, which is twice this value.

    Args:
        z1: (B, d) first views of this process; normalised here.
        z2: (B, d) second views.
        temperature: τ.
        all1: (N, d) first views of all processes, with gradient; default z1.
        all2: (N, d) second views of all processes.
        offset: row of all1 that is z1[0].
    """
    all1, all2 = z1 if all1 is None else all1, z2 if all2 is None else all2
    z1, z2, all1, all2 = (F.normalize(z, dim=1) for z in (z1, z2, all1, all2))
    rows = torch.arange(len(z1), device=z1.device)
    itself = rows + offset
    total = z1.new_zeros(())
    for anchor, same, other in ((z1, all1, all2), (z2, all2, all1)):
        logits = torch.cat([anchor @ other.T, anchor @ same.T], 1) / temperature
        logits[rows, len(other) + itself] = -torch.inf  # an anchor is not its own negative
        total = total + F.cross_entropy(logits, itself)
    return total / 2
