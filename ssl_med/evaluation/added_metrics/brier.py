"""Brier score: mean squared distance of the predicted probabilities from the truth (Brier, Monthly Weather Review 78, 1950)."""

from __future__ import annotations

from typing import Any

from ssl_med.evaluation.metrics import ClassMetric, Metric


class Brier(ClassMetric):
    """Calibration and sharpness of class probabilities in one number."""

    metric = Metric(
        "brier",
        "",
        False,
        "sum over the classes of the squared difference of probability and truth (0 or 1), mean over all test samples; between "
        "0 and 2",
    )

    def score(self, truth: Any, probability: Any) -> float:
        """(N,) class numbers and (N, K) probabilities -> the mean."""
        chosen = probability[range(len(truth)), truth]
        return float(((probability**2).sum(1) - 2 * chosen + 1).mean())
