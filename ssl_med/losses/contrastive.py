"""Contrastive losses; the positive stands in the denominator, and cosine similarities are of L2-normalised vectors."""

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
    def forward(ctx: Any, q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
        positive = (q * k).sum(1, keepdim=True)
        logits = torch.cat([positive, (q @ queue).to(q.dtype)], 1).div_(temperature)
        log_total = logits.logsumexp(1, keepdim=True)
        loss = (log_total - logits[:, :1]).mean()
        weights = logits.sub_(log_total).exp_()
        grad = (weights[:, 1:] @ queue.T).to(q.dtype) + (weights[:, :1] - 1) * k
        ctx.save_for_backward(grad / (temperature * len(q)))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_q,) = ctx.saved_tensors
        return grad * grad_q, None, None, None


def info_nce(q: Tensor, k: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Mean over i of -log( e^(q_i·k_i/τ) / (e^(q_i·k_i/τ) + Σ_n e^(q_i·queue_n/τ)) ) (He et al. 2020, eq. 1).

    Args:
        q: (B, d) queries; normalised here.
        k: (B, d) positive keys; normalised here, they get no gradient.
        queue: (d, K) negatives with unit columns; they get no gradient.
        temperature: τ.
    """
    q, k = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1)
    loss: Tensor = _InfoNCE.apply(q, k, queue.to(q.dtype), temperature)  # type: ignore[no-untyped-call]
    return loss


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
