"""Test metrics, with their conventions for the cases in which a metric is not defined."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CONVENTIONS = {
    "dice": "per case and region; truth and prediction both empty -> 1, only one of them empty -> 0",
    "auc": "area under the ROC curve over all test samples; undefined when only one class is present",
    "auroc": "mean over the classes that have both labels in the test part; their number is stated as classes_scored",
}


def dice_per_region(prediction: Tensor, truth: Tensor) -> Tensor:
    """Dice overlap of each region.

    Args:
        prediction: (K, *S) bool.
        truth: (K, *S) bool.

    Returns:
        (K,) float64 in [0, 1]; both empty -> 1, one empty -> 0.
    """
    axes = tuple(range(1, truth.ndim))
    both = (prediction & truth).sum(axes).double()
    total = prediction.sum(axes).double() + truth.sum(axes).double()
    return torch.where(total > 0, 2 * both / total.clamp_min(1), torch.ones_like(total))


def auroc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; nan when `truth` holds one class only.

    Args:
        truth: (N,) of 0 and 1.
        score: (N,) larger means class 1.
    """
    from sklearn.metrics import roc_auc_score

    if len(np.unique(truth)) < 2:
        return float("nan")
    return float(roc_auc_score(truth, score))


def multilabel_auroc(truth: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean AUROC over the classes that have both labels, and every class's own (nan when undefined).

    Args:
        truth: (N, K) of 0 and 1.
        score: (N, K).
    """
    each = np.array([auroc(truth[:, k], score[:, k]) for k in range(truth.shape[1])])
    scored = ~np.isnan(each)
    return (float(each[scored].mean()) if scored.any() else float("nan")), each
