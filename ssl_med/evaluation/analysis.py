"""Where a tested model errs: which cases to look at, curves, confusion and calibration, from the rows of test cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_med.evaluation.bootstrap import Statistic, auc_of, mean_of
from ssl_med.spec import Target

Array = NDArray[Any]
Row = Mapping[str, Any]
BINS = 15  # of equal width over [0, 1]; Guo et al., ICML 2017


@dataclass(frozen=True)
class Curve:
    """ROC and precision-recall curve of one class against the rest.

    * false_positive, true_positive: the ROC curve, both from 0 to 1. * recall, precision: recall ascending.
    * average_precision: sum over thresholds of precision times the gain in recall, without interpolation.
    """

    name: str
    positives: int
    negatives: int
    auc: float
    average_precision: float
    false_positive: Array
    true_positive: Array
    recall: Array
    precision: Array


@dataclass(frozen=True)
class Calibration:
    """Stated probability against observed frequency, in `BINS` bins; empty bins are left out.

    * ece: expected calibration error, the mean over samples of their bin's |frequency - mean probability|.
    """

    name: str
    probability: Array
    frequency: Array
    count: Array
    ece: float


@dataclass(frozen=True)
class Errors:
    """Error analysis of a classification or of findings.

    * confusion: (K, K) truth by answer for classes; (K, 2, 2) truth by answer at probability .5 for findings.
    * calibrated: what the probability of the calibration is.
    """

    curves: tuple[Curve, ...]
    confusion: Array
    calibrations: tuple[Calibration, ...]
    calibrated: str

    def numbers(self) -> dict[str, Any]:
        """What summary.json keeps: areas, counts and the calibration's bins."""
        return {
            "curves": {
                curve.name: {
                    "positives": curve.positives,
                    "negatives": curve.negatives,
                    "auc": curve.auc,
                    "average_precision": curve.average_precision,
                }
                for curve in self.curves
            },
            "confusion": self.confusion.tolist(),
            "ece": {calibration.name: calibration.ece for calibration in self.calibrations},
            "calibration_bins": f"{BINS} bins of equal width",
            "calibrated": self.calibrated,
            "reliability": {
                c.name: {
                    "probability": c.probability.tolist(),
                    "frequency": c.frequency.tolist(),
                    "count": c.count.tolist(),
                }
                for c in self.calibrations
            },
        }


def scores(target: Target, names: Sequence[str], rows: Sequence[Row]) -> tuple[Array, Array]:
    """Truth and probability (N, K) of classes or findings from the rows of test cases; truth is nan where not known."""
    score = np.array([[row[f"score/{name}"] for name in names] for row in rows], float).reshape(-1, len(names))
    if target == "class":
        return np.eye(len(names))[[int(row["label"]) for row in rows]], score
    # None and an empty cell become nan
    return np.array([[row[f"label/{name}"] for name in names] for row in rows], float).reshape(-1, len(names)), score


def headline(target: Target, names: Sequence[str], rows: Sequence[Row]) -> Statistic:
    """The headline metric of a task as a function of how often each test case counts; for intervals over patients."""
    if target == "mask":
        return mean_of([float(row["dice"]) for row in rows])
    truth, score = scores(target, names, rows)
    return auc_of(truth[:, 1], score[:, 1]) if target == "class" and len(names) == 2 else auc_of(truth, score)


def analyse(target: Target, names: Sequence[str], rows: Sequence[Row]) -> Errors:
    """Curves, confusion and calibration of classes or findings. Two classes are described by their second one."""
    truth, score = scores(target, names, rows)
    classes = range(len(names)) if target == "multilabel" or len(names) > 2 else (1,)
    curves = tuple(curve for k in classes if (curve := curve_of(names[k], truth[:, k], score[:, k])) is not None)
    if target == "multilabel":
        calibrated = "probability of a finding against its frequency"
        known = ~np.isnan(truth)
        each = [calibrate(names[k], truth[known[:, k], k], score[known[:, k], k]) for k in classes]
        pooled = calibrate("all findings", truth[known], score[known])
        tables = np.stack([confuse(truth[known[:, k], k], score[known[:, k], k] > 0.5, 2) for k in classes])
        return Errors(curves, tables, (pooled, *each), calibrated)
    label, answer = truth.argmax(1), score.argmax(1)
    if len(names) == 2:
        calibrated = f"probability of {names[1]} against its frequency"
        calibration = calibrate(names[1], truth[:, 1], score[:, 1])
    else:
        calibrated = "probability of the answer against the share of right answers"
        calibration = calibrate("answer", answer == label, score.max(1))
    return Errors(curves, confuse(label, answer, len(names)), (calibration,), calibrated)


def curve_of(name: str, truth: Array, score: Array) -> Curve | None:
    """Curves of one class; None unless both labels occur. `truth` (N,) of 0, 1 and nan for not known."""
    known = ~np.isnan(truth)
    truth, score = truth[known] == 1, score[known]
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # equal scores are one threshold
    found, false = (np.concatenate([[0], np.cumsum(hits[order])[last]]) for hits in (truth, ~truth))
    true_positive, false_positive = found / positives, false / negatives
    precision = found[1:] / (found[1:] + false[1:])
    return Curve(
        name,
        positives,
        negatives,
        float(np.trapezoid(true_positive, false_positive)),
        float((np.diff(true_positive) * precision).sum()),
        false_positive,
        true_positive,
        true_positive[1:],
        precision,
    )


def confuse(truth: Array, answer: Array, classes: int) -> Array:
    """(classes, classes) counts of truth by answer, both (N,) numbers of classes."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (np.asarray(truth, int), np.asarray(answer, int)), 1)
    return counts


def calibrate(name: str, truth: Array, probability: Array) -> Calibration:
    """Calibration of a stated probability (N,) of an event that came or not (N,); a border belongs to the bin above it."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    kept = count > 0
    stated = np.bincount(bins, probability, BINS)[kept] / count[kept]
    seen = np.bincount(bins, np.asarray(truth, float), BINS)[kept] / count[kept]
    ece = float((count[kept] * np.abs(seen - stated)).sum() / count.sum()) if count.sum() else math.nan
    return Calibration(name, stated, seen, count[kept], ece)


def choose_cases(goodness: Mapping[str, float], counts: Sequence[int]) -> dict[str, str]:
    """Cases to look at, and why: "first" by name (the same in all runs), "worst", "middle" and "best".

    Args:
        goodness: case -> value, larger is better; nan is left out.
        counts: how many of each; a case is named once; worst goes before best, middle and first.
    """
    first, worst, middle, best = counts
    ranked = sorted((value, case) for case, value in goodness.items() if not math.isnan(value))
    ordered = [case for _, case in ranked]
    place = max(0, (len(ordered) - middle) // 2)
    wanted = {
        "first": sorted(ordered)[:first],
        "worst": ordered[:worst],
        "middle": ordered[place : place + middle],
        "best": ordered[len(ordered) - min(best, len(ordered)) :],
    }
    chosen: dict[str, str] = {}
    for reason in ("worst", "best", "middle", "first"):
        for case in wanted[reason]:
            chosen.setdefault(case, reason)
    return chosen
