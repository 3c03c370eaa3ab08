"""The values of test metrics; `metrics` states their conventions for the cases in which one is not defined.

What torchmetrics has, it counts: overlaps, answers, confusions and ROC curves. Its ratios are in single precision and have
conventions of their own for what is empty or absent, so counts are divided here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssl_med.slabs import LARGEST, slabs

IOU_THRESHOLDS = tuple(k / 100 for k in range(50, 100, 5))
_DENSE = 0.1  # share of voxels on surfaces from which distances are computed for all voxels
FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
IGNORED = -2  # lesion of a candidate at a finding that is not to be judged, such as a nodule that few readers marked


def dice_per_region(prediction: Tensor, truth: Tensor) -> Tensor:
    """Dice overlap of each region.

    Args:
        prediction: (K, *S) bool.
        truth: (K, *S) bool.

    Returns:
        (K,) float64 in [0, 1]; both empty -> 1, one empty -> 0.
    """
    from torchmetrics.functional.classification import multilabel_stat_scores

    counts = torch.stack(
        [
            multilabel_stat_scores(
                prediction[None, :, piece], truth[None, :, piece], len(truth), average=None, validate_args=False
            )
            for piece in slabs(truth, 1)
        ]
    )
    both, found_only, _, missed, _ = counts.sum(0).double().view(-1, 5).unbind(1)
    total = 2 * both + found_only + missed
    return torch.where(total > 0, 2 * both / total.clamp_min(1), torch.ones_like(total))


def iou_per_region(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of each region where the probability exceeds .5, and its mean over `IOU_THRESHOLDS`.

    Args:
        logits: (K, *S) before the sigmoid.
        truth: (K, *S) bool.

    Returns:
        Two (K,) float64 in [0, 1]; both empty -> 1, one empty -> 0, at each threshold independently.
    """
    from torchmetrics.functional.classification import binary_stat_scores

    each = []
    for region, inside in zip(logits, truth, strict=True):
        counts = torch.zeros(len(IOU_THRESHOLDS), 5, dtype=torch.long)
        for piece in slabs(inside, 0):
            relevant = inside[piece] | (region[piece] > 0)  # other voxels can only be right
            values, wanted = region[piece][relevant], inside[piece][relevant]
            for row, threshold in enumerate(IOU_THRESHOLDS):
                found = values > math.log(threshold / (1 - threshold))
                counts[row] += binary_stat_scores(found[None], wanted[None], validate_args=False).cpu()
        both, found_only, _, missed, _ = counts.double().unbind(1)
        union = both + found_only + missed
        each.append(torch.where(union > 0, both / union.clamp_min(1), torch.ones_like(union)))
    values = torch.stack(each)
    return values[:, 0], values.mean(1)


def surface_per_region(
    prediction: Tensor, truth: Tensor, *, spacing: Sequence[float], tolerance: float
) -> tuple[Tensor, Tensor]:
    """95th percentile Hausdorff distance and surface Dice (Nikolov et al., J. Med. Internet Res. 23, 2021) of each region.

    Args:
        prediction: (K, *S) bool.
        truth: (K, *S) bool.
        spacing: voxel size along each axis of S in mm.
        tolerance: distance in mm up to which a piece of surface counts as found.

    Returns:
        (K,) float64 in mm and (K,) float64 in [0, 1]; see `metrics.METRICS` for what a surface is and for empty masks.
    """
    from monai.metrics.utils import get_mask_edges

    diagonal = math.hypot(*(n * s for n, s in zip(truth.shape[1:], spacing, strict=True)))
    distance, share = [], []
    for found, wanted in zip(prediction.cpu(), truth.cpu(), strict=True):
        if not (found.any() and wanted.any()):
            empty = not (found.any() or wanted.any())
            distance.append(0.0 if empty else diagonal)
            share.append(1.0 if empty else 0.0)
            continue
        one, other = (np.asarray(edge) for edge in get_mask_edges(found, wanted))
        # distances come in 32 bits: a distance of exactly the tolerance is within it
        to_other = [_to_surface(one, other, spacing), _to_surface(other, one, spacing)]
        within = sum(int((way <= tolerance * (1 + 1e-6)).sum()) for way in to_other)
        distance.append(max(float(np.percentile(way, 95)) for way in to_other))
        share.append(within / sum(map(len, to_other)))
    return torch.tensor(distance, dtype=torch.float64), torch.tensor(share, dtype=torch.float64)


def _to_surface(edge: np.ndarray, other: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance in mm of each voxel of `edge` to the nearest one of `other`."""
    from monai.metrics.utils import get_surface_distance

    # a search tree is fast for surfaces, and takes hours for the noise of a network that has not learned
    if edge.sum() + other.sum() > _DENSE * edge.size:
        return _by_transform(edge, other, spacing)
    return np.asarray(get_surface_distance(edge, other, spacing=list(spacing)), float)


def _by_transform(edge: np.ndarray, other: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The same by distance transforms of slabs along the first axis, as that of a whole scan takes 50 bytes a voxel.

    A slab is transformed with planes around it, as many as it takes: a voxel that found a neighbour nearer than the planes
    that were left out has found the nearest one.
    """
    from scipy.ndimage import distance_transform_edt

    length, found = len(edge), []
    thick = max(1, LARGEST // max(1, edge[0].size))
    for first in range(0, length, thick):
        wanted, margin = edge[first : first + thick], thick
        while True:
            low, high = max(0, first - margin), min(length, first + thick + margin)
            part = other[low:high]
            if part.any():
                near = distance_transform_edt(~part, sampling=spacing)[first - low : first - low + len(wanted)][wanted]
                # what was left out lies at least margin + 1 planes away
                if (low, high) == (0, length) or not near.size or near.max() <= (margin + 1) * spacing[0]:
                    break
            elif (low, high) == (0, length):  # unreachable: an empty mask has no surface
                raise AssertionError
            margin *= 2
        found.append(near)
    return np.concatenate(found)


def froc_curve(score: np.ndarray, lesion: np.ndarray, *, lesions: int, scans: int) -> tuple[np.ndarray, np.ndarray]:
    """Free-response ROC curve (Setio et al., Medical Image Analysis 42, 2017), by the rules of the challenge's own script.

    A lesion is found with the highest score of the candidates that mark it; its other candidates count for nothing. A candidate
    at a finding that is not to be judged counts for nothing either.

    Args:
        score: (N,) of all candidates; larger means lesion.
        lesion: (N,) number of the lesion that a candidate marks, -1 for none, `IGNORED` for a finding that is not to be judged.
        lesions: all lesions of the scans, those without a candidate too; at least 1.
        scans: number of scans, those without a candidate too.

    Returns:
        False positives per scan, ascending from 0, and the sensitivity, both at each threshold from the highest. Lesions
        between two false positives make a vertical step, which has several points at one rate.
    """
    best = [score[lesion == number].max() for number in np.unique(lesion[lesion >= 0])]
    false = score[lesion == -1]
    thresholds = np.unique(np.concatenate([best, false]))[::-1]
    # how many of each are at or above a threshold; nothing is found above the first
    found = np.concatenate([[0], len(best) - np.searchsorted(np.sort(best), thresholds)]) / lesions
    rate = np.concatenate([[0], len(false) - np.searchsorted(np.sort(false), thresholds)]) / scans
    return rate, found


def froc(score: np.ndarray, lesion: np.ndarray, *, lesions: int, scans: int) -> np.ndarray:
    """(7,) sensitivity at `FROC_RATES` false positives per scan, nan without a lesion; their mean is the CPM.

    Between two rates it is linear from the end of one vertical step to the start of the next one (numpy.interp); right of the
    last false positive it is that of the last point. The arguments are those of `froc_curve`.
    """
    if not lesions:
        return np.full(len(FROC_RATES), np.nan)
    sensitivity: np.ndarray = np.interp(FROC_RATES, *froc_curve(score, lesion, lesions=lesions, scans=scans))
    return sensitivity


def auroc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; nan when `truth` holds one class only.

    Args:
        truth: (N,) of 0 and 1.
        score: (N,) larger means class 1.
    """
    from torchmetrics.functional.classification import binary_roc

    found, positives = np.asarray(truth) == 1, int(np.sum(truth))
    if positives in (0, len(found)):
        return float("nan")
    # torchmetrics takes numbers outside of [0, 1] for logits, whose sigmoid may be the same for several: ranks keep the order
    levels, rank = np.unique(score, return_inverse=True)
    ranks = torch.from_numpy(rank.reshape(-1) / max(1, len(levels) - 1))
    false, true, _ = binary_roc(ranks, torch.from_numpy(found).long(), validate_args=False)
    # rates are in single precision; the counts behind them are whole numbers
    x, y = ((rate.double() * n).round() / n for rate, n in ((false, len(found) - positives), (true, positives)))
    return float(torch.trapezoid(y, x))


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


def accuracy(truth: np.ndarray, answer: np.ndarray) -> float:
    """Share of right answers; both (N,) numbers of classes."""
    right, _, _, _, total = _answers(truth, answer).sum(0).tolist()
    return float(right / total)


def balanced_accuracy(truth: np.ndarray, answer: np.ndarray) -> float:
    """Mean recall over the classes in `truth`; both (N,) numbers of classes."""
    right, _, _, _, total = _answers(truth, answer).unbind(1)
    return float((right / total)[total > 0].mean())


def _answers(truth: np.ndarray, answer: np.ndarray) -> Tensor:
    """(K, 5) float64: of each class right, wrongly named, rightly not named, missed, and how many there are."""
    from torchmetrics.functional.classification import multiclass_stat_scores

    classes = int(max(np.max(truth), np.max(answer))) + 1
    given, wanted = (torch.from_numpy(np.asarray(x, np.int64)) for x in (answer, truth))
    counts: Tensor = multiclass_stat_scores(given, wanted, max(2, classes), average=None, validate_args=False).double()
    return counts


def quadratic_kappa(truth: np.ndarray, answer: np.ndarray, classes: int) -> float:
    """Cohen's kappa of ordered classes, a disagreement weighs the square of its distance (Cohen, Psychol. Bull. 70, 1968).

    Args:
        truth: (N,) numbers of classes.
        answer: (N,).
        classes: K, the number of classes.

    Returns:
        1 for agreement, 0 for chance, negative below it; nan when all of both are of one class.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    given, wanted = (torch.from_numpy(np.asarray(x, np.int64)) for x in (answer, truth))
    counts = multiclass_confusion_matrix(given, wanted, classes, validate_args=False).double().numpy()
    distance = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    by_chance = np.outer(counts.sum(1), counts.sum(0)) / len(truth)
    expected = float((distance * by_chance).sum())
    return 1 - float((distance * counts).sum()) / expected if expected else float("nan")
