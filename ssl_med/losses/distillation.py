"""Losses of a student that predicts what another network or another view says; targets get no gradient."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of 2 - 2 cos(p, z) = |p/|p| - z/|z||^2 (Grill et al. 2020, eq. 2), in [0, 4].

    Args:
        prediction: (B, d); normalised here.
        target: (B, d); normalised here.
    """
    return (2 - 2 * F.cosine_similarity(prediction, target.detach(), dim=1)).mean()
