"""Segmentation losses on regions that may overlap: one sigmoid per region."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice, mean over batch and regions (Milletari et al. 2016, with plain sums in the denominator).

    Args:
        logits: (B, K, *S).
        target: (B, K, *S) in {0, 1}.
        smooth: added to numerator and denominator: an empty region that is predicted empty costs nothing.
    """
    probability = logits.sigmoid().flatten(2)
    truth = target.flatten(2)
    both = (probability * truth).sum(2)
    total = probability.sum(2) + truth.sum(2)
    return (1 - (2 * both + smooth) / (total + smooth)).mean()


def dice_bce(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Mean of soft Dice loss and voxel-wise binary cross-entropy."""
    return (dice_loss(logits, target, smooth=smooth) + F.binary_cross_entropy_with_logits(logits, target)) / 2
