"""Triplets: an anchor, an image like it, an image unlike it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean of max(0, |a - p|^2 / d - |a - n|^2 / d + margin) over the batch; all (B, d)."""
    near, far = ((anchor - other).square().mean(1) for other in (positive, negative))
    return F.relu(near - far + margin).mean()
