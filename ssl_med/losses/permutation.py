"""Permutations that a network can learn by regression: Sinkhorn's doubly stochastic matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(scores: Tensor, *, temperature: float = 1.0, iterations: int = 20) -> Tensor:
    """Rows and columns of exp(scores / temperature) brought to sum 1 in turn (Adams and Zemel 2011), in log space.

    Args:
        scores: (B, P, P).
        temperature: the smaller, the nearer to a permutation.
        iterations: each normalises the rows, then the columns; so column sums are exact and row sums nearly.

    Returns:
        (B, P, P), positive.
    """
    log = scores / temperature
    for _ in range(iterations):
        log = log.log_softmax(2).log_softmax(1)
    return log.exp()


def unpermuted_mse(weights: Tensor, shuffled: Tensor, ordered: Tensor) -> Tensor:
    """Mean squared error of softly put back patches (Taleb et al. 2019, arXiv 1912.05396).

    Place j shows Σ_i weights[i, j] shuffled[i].

    Args:
        weights: (B, P, P), slot by place.
        shuffled: (B, P, ...).
        ordered: (B, P, ...), the patches in their places.
    """
    restored = weights.transpose(1, 2) @ shuffled.flatten(2).to(weights.dtype)
    return (restored - ordered.flatten(2)).square().mean()


@torch.no_grad()
def assign(scores: Tensor) -> Tensor:
    """Place of each slot in the permutation of largest total score (Hungarian algorithm): (B, P, P) -> (B, P) int64.

    It runs on the CPU and waits for the device.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    places = [linear_sum_assignment(s, maximize=True)[1] for s in scores.double().cpu().numpy()]
    return torch.stack([torch.from_numpy(p) for p in places]).to(scores.device)
