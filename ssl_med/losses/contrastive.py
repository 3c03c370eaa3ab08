"""Contrastive losses; the positive stands in the denominator, and cosine similarities are of L2-normalised vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(q: Tensor, k: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Mean over i of -log( e^(q_i·k_i/τ) / (e^(q_i·k_i/τ) + Σ_n e^(q_i·queue_n/τ)) ) (He et al. 2020, eq. 1).

    Args:
        q: (B, d) queries; normalised here.
        k: (B, d) positive keys, without gradient; normalised here.
        queue: (d, K) negatives with unit columns, without gradient.
        temperature: τ.
    """
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    positive = (q * k).sum(1, keepdim=True)
    logits = torch.cat([positive, q @ queue], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


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
