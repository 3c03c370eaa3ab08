"""Every metric that a run can log: its unit, which direction is better, and its conventions. Imports no torch.

Whatever chooses, sorts, marks or ranks by a metric asks `metric_of` for the direction. `scores` computes the values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from ssl_med.catalogue import get_class, list_names, nearest
from ssl_med.spec import SslMedError

SCOPES = ("train", "val", "test", "curve", "in_domain", "online", "collapse", "speed")
"""First parts of logged keys that say where a value comes from."""


@dataclass(frozen=True)
class Metric:
    """A number that says how good something is.

    * unit: '' for a number without one. * convention: what it is, and its value where the formula has none.
    * two_classes: whether it compares classes, and is not defined where all samples are of one.
    """

    name: str
    unit: str
    higher_is_better: bool
    convention: str
    two_classes: bool = False

    @property
    def mode(self) -> Literal["max", "min"]:
        """Direction as Lightning spells it."""
        return "max" if self.higher_is_better else "min"

    @property
    def goal(self) -> Literal["maximize", "minimize"]:
        """Direction as W&B spells it."""
        return "maximize" if self.higher_is_better else "minimize"

    def goodness(self, value: float) -> float:
        """A number that is larger for a better value; nan, which is never chosen, becomes minus infinity."""
        return -math.inf if math.isnan(value) else value if self.higher_is_better else -value

    def better(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`; nan is worse than every number."""
        return self.goodness(value) > self.goodness(other)

    def best(self, values: Sequence[float]) -> int:
        """Place of the best of some values, the first of equals; nan is never best while there is a number."""
        return max(range(len(values)), key=lambda place: self.goodness(values[place]))

    def reaches(self, value: float, bound: float) -> bool:
        """Whether `value` is as good as `bound` or better; nan reaches nothing."""
        return not math.isnan(value) and not math.isnan(bound) and self.goodness(value) >= self.goodness(bound)


class AddedMetric(ABC):
    """A test metric that is a file of `evaluation/added_metrics`, with one public subclass of one of the two kinds below."""

    metric: ClassVar[Metric]


class MaskMetric(AddedMetric):
    """Scores each region of a segmented case; a test states the mean over cases and regions, and each region's."""

    needs_spacing: ClassVar[bool] = False
    """whether it is left out for data without a voxel size"""
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    """spatial dimensions of the masks that it scores; it is left out for others"""

    @abstractmethod
    def score(self, prediction: Any, truth: Any, spacing: tuple[float, ...] | None) -> list[float]:
        """Values of the K regions of one case.

        Args:
            prediction: (K, *S) bool array.
            truth: (K, *S) bool array.
            spacing: voxel size in mm along each axis; None where the data do not know it.
        """


class ClassMetric(AddedMetric):
    """Scores all test samples of a classification at once."""

    @abstractmethod
    def score(self, truth: Any, probability: Any) -> float:
        """One value of all samples.

        Args:
            truth: (N,) int array, numbers of the classes.
            probability: (N, K) float array; each row sums to 1.
        """


@cache
def added_metrics() -> dict[str, AddedMetric]:
    """All metrics of `evaluation/added_metrics` by name."""
    package = "ssl_med.evaluation.added_metrics"
    found = {name: get_class(package, name, kind="metric", base=AddedMetric)() for name in list_names(package)}
    for name, one in found.items():
        if one.metric.name != name or name in METRICS:
            raise TypeError(f"{package}.{name} must declare a metric of that name which no task has already")
    return found


_TASKS = (
    Metric("dice", "", True, "per case and region; truth and prediction both empty -> 1, only one of them empty -> 0"),
    Metric(
        "iou",
        "",
        True,
        "per case and region, probability above .5; truth and prediction both empty -> 1, only one of them empty -> 0",
    ),
    Metric(
        "iou_50_95",
        "",
        True,
        "mean of the IoU at the thresholds .5, .55, ... .95 of the probability (Models Genesis), empty masks as "
        "for iou; of the region alone, background is not averaged in",
    ),
    Metric(
        "hd95_mm",
        "mm",
        False,
        "larger of the two directed 95th percentiles of the distances between the surfaces, per case and region, in mm; "
        "a surface are the voxels with a face to the outside or to the border of the image; both empty -> 0, only one of them "
        "empty -> the diagonal of the image; not stated for data without a voxel size",
    ),
    Metric(
        "surface_dice",
        "",
        True,
        "share of both surfaces that lies within task.tolerance_mm of the other one, surfaces as for hd95_mm, each "
        "voxel counts alike; both empty -> 1, only one of them empty -> 0",
    ),
    Metric(
        "auc",
        "",
        True,
        "area under the ROC curve over all test samples; undefined when only one class is present",
        True,
    ),
    Metric(
        "auroc",
        "",
        True,
        "mean over the classes that have both labels in the test part; their number is stated as classes_scored",
        True,
    ),
    Metric("accuracy", "", True, "share of right answers over all samples; of few-shot episodes: mean over episodes"),
    Metric("balanced_accuracy", "", True, "mean share of right answers over the classes that the test part has"),
    Metric(
        "kappa",
        "",
        True,
        "Cohen's kappa with quadratic weights; undefined when truth and answers are all of one class",
        True,
    ),
    Metric(
        "cpm",
        "",
        True,
        "mean of the sensitivities at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan (LUNA16's script), linear "
        "between false positives, with vertical steps; a lesion is found with the highest of its candidates' scores, one "
        "without a candidate is missed; scans without candidates count, candidates at excluded findings do not; undefined "
        "without a lesion",
        True,
    ),
    Metric("sensitivity", "", True, "share of the lesions found at the stated number of false positives per scan"),
)
_PRETEXTS = (
    Metric("mse", "", False, "mean squared error of what is restored, in the units of the target"),
    Metric("retrieval", "", True, "share of images whose second view is the nearest of the batch's second views"),
    Metric("triplet_accuracy", "", True, "share of triplets whose positive is nearer than the negative"),
    Metric("rotation_accuracy", "", True, "share of rotations that are recognised"),
    Metric("mask_accuracy", "", True, "share of patches that are classified rightly as masked or not"),
)
_COLLAPSE = (
    Metric("feature_std", "", True, "0: all inputs have the same feature; about 1: features are isotropic"),
    Metric("effective_rank", "", True, "exponential of the entropy of the singular values; 1: one direction is left"),
    Metric("alignment", "", False, "mean squared distance of the embeddings of two views of one image"),
    Metric("uniformity", "", False, "log of the mean of exp(-2 d^2) over pairs of images; 0: collapsed"),
)
_LOSSES = {
    "loss": "what is minimised",
    "restore": "distance of the restored image",
    "restore_o": "the same of the ordinary branch",
    "restore_m": "the same of the momentum branch",
    "restore_h": "the same of the hybrid branch",
    "restore_mixed_o": "the same of the ordinary branch of mixed images",
    "restore_mixed_h": "the same of the hybrid branch of mixed images",
    "deep": "distance of the restored image at all scales",
    "contrast": "contrastive loss",
    "contrast_mix": "contrastive loss of mixed inputs",
    "contrast_features": "contrastive loss of mixed features",
    "compare": "comparison of large crops",
    "compare_small": "comparison of small crops with large ones",
    "image": "contrastive loss of the image",
    "patches": "contrastive loss of the patches",
    "order": "cross-entropy of the patches' order",
    "rotation": "cross-entropy of the rotation",
    "mask": "cross-entropy of which patches are masked",
    "classify": "cross-entropy of the instance",
    "discover": "distance of the restored instance",
}
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *_TASKS,
        *_PRETEXTS,
        *_COLLAPSE,
        Metric("samples_per_second", "1/s", True, "samples of optimiser steps over their wall-clock time"),
        *(Metric(name, "", False, f"term of the loss: {text}") for name, text in _LOSSES.items()),
    )
}
UNRATED: Mapping[str, str] = {
    "positives": "the number of test samples of the second class",
    "classes_scored": "the number of classes behind the mean",
    "accuracy_ci95": "half the width of an interval",
    "chance": "the accuracy of guessing",
    "near": "the share of crops that lie near an instance",
    "used": "the number of clusters in use",
    "largest": "the share of the largest cluster",
    "score": "the opinion of a critic that learns at the same time",
    "critic": "the loss of an opponent",
    "steps": "a number of steps",
    "seconds": "a time",
}
"""Logged values of which neither direction is better, and what they are."""
BASELINE = "_baseline"
"""End of the name of a pretext metric's value for a solver that has learned nothing."""


def metric_of(key: str) -> Metric:
    """The metric behind a logged key or a metric's name.

    `val/dice`, `test/hd95_mm`, `curve/auc`, `in_domain/auc`, `online/knn_auc`, `collapse/effective_rank`, `train/loss`; of one
    single class or region: `test/dice/liver`, `auroc/Edema`, `sensitivity/0.125`.

    Raises:
        SslMedError: the key is not known, or neither of its directions is better.
    """
    scope, _, rest = key.partition("/")
    if scope not in SCOPES:
        scope, rest = "", key
    if scope == "online":
        _, _, rest = rest.partition("_")  # protocol of the probe
    name = rest.partition("/")[0]
    if name in METRICS:
        return METRICS[name]
    if name in added_metrics():
        return added_metrics()[name].metric
    if name in UNRATED:
        raise SslMedError(f"{key}: is {UNRATED[name]}, of which neither a higher nor a lower value is better")
    if name.endswith(BASELINE):
        raise SslMedError(f"{key}: does not depend on what was learned; name {key.removesuffix(BASELINE)}")
    raise SslMedError(
        f"{key}: is no metric, so whether higher or lower is better is unknown{nearest(name, [*METRICS, *added_metrics()])}"
    )


def conventions(keys: Iterable[str]) -> dict[str, str]:
    """Conventions of the test metrics among logged keys, for summary.json; those of single classes are not repeated."""
    names = {key.removeprefix("test/") for key in keys if key.startswith("test/")}
    known = {**METRICS, **{name: one.metric for name, one in added_metrics().items()}}
    return {name: metric.convention for name, metric in known.items() if name in names}
