"""Test metrics, with their conventions for the cases in which a metric is not defined."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CONVENTIONS = {
    "dice": "per case and region; truth and prediction both empty -> 1, only one of them empty -> 0",
    "auc": "area under the ROC curve over all test samples; undefined when only one class is present",
    "auroc": "mean over the classes that have both labels in the test part; their number is stated as classes_scored",
    "balanced_accuracy": "mean share of right answers over the classes that the test part has",
    "kappa": "Cohen's kappa with quadratic weights; undefined when truth and answers are all of one class",
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
        truth: (N, K) of 0 and 1; nan where the label is not known, which leaves the sample out for that class.
        score: (N, K).
    """
    known = ~np.isnan(truth)
    each = np.array([auroc(truth[known[:, k], k], score[known[:, k], k]) for k in range(truth.shape[1])])
    scored = ~np.isnan(each)
    return (float(each[scored].mean()) if scored.any() else float("nan")), each


def balanced_accuracy(truth: np.ndarray, answer: np.ndarray) -> float:
    """Mean recall over the classes in `truth`; both (N,) numbers of classes."""
    return float(np.mean([(answer[truth == k] == k).mean() for k in np.unique(truth)]))


def quadratic_kappa(truth: np.ndarray, answer: np.ndarray, classes: int) -> float:
    """Cohen's kappa of ordered classes, a disagreement weighs the square of its distance (Cohen, Psychol. Bull. 70, 1968).

    Args:
        truth: (N,) numbers of classes.
        answer: (N,).
        classes: K, the number of classes.

    Returns:
        1 for agreement, 0 for chance, negative below it; nan when all of both are of one class.
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (truth, answer), 1)
    distance = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    by_chance = np.outer(counts.sum(1), counts.sum(0)) / len(truth)
    expected = float((distance * by_chance).sum())
    return 1 - float((distance * counts).sum()) / expected if expected else float("nan")
