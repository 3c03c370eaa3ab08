"""Tasks, built from the DataSpec: head, loss, prediction, one row per test case, and the summary of rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.evaluation.components import without_small_pieces
from ssl_med.evaluation.metrics import ClassMetric, MaskMetric, added_metrics
from ssl_med.evaluation.scores import (
    FROC_RATES,
    accuracy,
    auroc,
    balanced_accuracy,
    dice_per_region,
    froc,
    iou_per_region,
    multilabel_auroc,
    quadratic_kappa,
    surface_per_region,
)
from ssl_med.losses.classification import class_weights, finding_loss, finding_weights, soft_target
from ssl_med.losses.segmentation import against_others, dice_bce, dice_ce, dice_loss, shrunk, supervision_weights
from ssl_med.networks.heads import ClassificationHead, SegmentationHead
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.ranges import BelowOne, Degrees, Natural, NonNegative, PositiveShare, Range
from ssl_med.setting import setting
from ssl_med.spec import Batch, DataSpec, SslMedError

Row = dict[str, Any]
_TRAINED = {"run": ("finetune",)}
_MASKS = {"labels": ("masks",)}
_CLASSIFIED = {**_TRAINED, "labels": ("classes", "findings")}
_DICE = {**_TRAINED, **_MASKS, "loss": ("auto", "dice", "dice_bce", "dice_ce")}
_FLIPPED = {**_TRAINED, "flips": (True,)}
_CUT = {**_TRAINED, "dims": ("2D",), "augment": ((),)}


@dataclass
class TaskConfig:
    """How a task is learned and scored."""

    name: str = ""
    """file name in conf/task"""
    loss: Literal["dice", "dice_bce", "dice_ce", "ce", "bce", "auto"] = setting(default="auto", needs=_TRAINED)
    """auto: Dice and cross-entropy for masks, cross-entropy for classes, binary cross-entropy per finding for multilabel.
    dice_ce: nnU-Net's sum of both, with a softmax where the data's regions exclude each other, else a sigmoid per region"""
    batch_dice: bool = setting(default=False, before=False, needs=_DICE)
    """masks: Dice losses sum over the voxels of a whole batch, not of each sample"""
    deep_supervision: bool = setting(default=False, before=False, needs={**_TRAINED, **_MASKS})
    """masks: the coarser levels of the decoder have losses too, of weights 1, 1/2, 1/4 ... and 0 for the coarsest, of sum 1"""
    hidden: Annotated[int, Range(0, 2**20)] = setting(default=0, needs=_CLASSIFIED)
    """width of a hidden layer in the classification head; 0: linear on pooled features"""
    dropout: BelowOne = setting(default=0.0, needs=_CLASSIFIED)
    """before the last linear layer of the classification head"""
    label_smoothing: BelowOne = setting(default=0.0, before=0.0, needs={**_TRAINED, "labels": ("classes",)})
    """classes: share of the target's probability that is spread evenly over all classes in training"""
    mixup: Annotated[float, Range(0, 100)] = setting(default=0.0, before=0.0, needs=_CLASSIFIED)
    """classes and findings: training images and labels are mixed in pairs by shares of Beta(mixup, mixup); 0: not"""
    class_weights: Literal["none", "balanced"] = setting(default="none", before="none", needs=_CLASSIFIED)
    """balanced: classes have the same weight in the training loss however often they occur; of findings, present and absent"""
    ordered: bool = setting(default=False, needs={"labels": ("classes",)})
    """classes are grades: kappa with quadratic weights is reported too"""
    overlap: BelowOne = setting(default=0.5, needs=_MASKS)
    """overlap of neighbouring windows in sliding-window prediction, as a share of the patch"""
    window_batch: Annotated[int, Range(1, 4096)] = setting(default=4, needs=_MASKS)
    """windows predicted at once"""
    largest_component: bool = setting(default=False, before=False, needs={**_TRAINED, **_MASKS})
    """masks: of a region only the largest connected piece is kept, where that raised its mean Dice on validation"""
    mirrored_test: bool = setting(default=False, before=False, needs=_MASKS)
    """masks: answers, of the validation too, are means over the image mirrored along all axes that training mirrors: 2 to 8
    times the work"""
    flips: bool = setting(default=True, needs=_TRAINED)
    """training augmentation: random flips (images: left-right only)"""
    crop_scale: PositiveShare = setting(default=0.7, needs=_CUT)
    """2D training augmentation: smallest area share of the random resized crop; 1 switches it off"""
    rotation_deg: Degrees = setting(default=10.0, needs=_CUT)
    """2D training augmentation: largest in-plane rotation"""
    flip_axes: tuple[Literal["x", "y", "z", "row", "column"], ...] = setting(default=(), before=[], needs=_FLIPPED)
    """axes that flips mirror, those whose sides may be exchanged; empty: all in 3D, left and right (column) in 2D"""
    augment: tuple[Any, ...] | str = setting(default=(), before=[], needs=_TRAINED)
    """fine-tuning: MONAI transforms of training samples, [{_target_: NAME, keys: [image, mask], ...}, ...], or the name of a
    list (ssl-med list augment), or a file NAME.yaml; in place of crop_scale and rotation_deg, and of flips and flip_axes
    unless the list says ${mirror_axes}"""
    tolerance_mm: NonNegative = setting(default=1.0, needs=_MASKS)
    """surface Dice: distance up to which a piece of surface counts as found"""
    pictures: tuple[Natural, Natural, Natural, Natural] = (2, 4, 1, 1)
    """pictures of test cases: the first ones, which are the same in all runs; the worst; middle ones; the best"""


class Task(nn.Module, ABC):
    """Head and loss on a pyramid of features, and what its test metrics are."""

    metric: str
    needs_decoder: bool

    def __init__(self, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    @abstractmethod
    def logits(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """(B, C, *S) -> logits of the patch."""

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Scalar training loss."""

    def training_loss(self, batch: Batch, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """Scalar loss of a training batch."""
        return self.loss(self.logits(batch["image"], backbone, decoder), batch)

    def predict(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """Logits for an evaluation image, which may be larger than a patch."""
        return self.logits(image, backbone, decoder)

    def answers(self, logits: Tensor) -> Tensor:
        """Logits as they are read class by class, by another task too."""
        return logits

    @abstractmethod
    def rows(self, logits: Tensor, batch: Batch) -> list[Row]:
        """One row per sample: its "case" and what the summary needs."""

    def test_rows(self, logits: Tensor, batch: Batch) -> list[Row]:
        """`rows` with what is too costly, or of no use, for validation."""
        return self.rows(logits, batch)

    @abstractmethod
    def goodness(self, row: Row) -> float:
        """How right a case is, in [0, 1]: the order in which cases are looked at."""

    @torch.no_grad()
    def picture(self, logits: Tensor, batch: Batch) -> dict[str, np.ndarray]:
        """First sample of a batch as arrays: image (C, *S), and with masks truth and prediction (K, *S) bool."""
        return {"image": batch["image"][0].float().cpu().numpy()}

    @abstractmethod
    def summarize(self, rows: list[Row]) -> dict[str, float]:
        """Metrics over all rows; the headline metric is the entry `self.metric`."""


class Segmentation(Task):
    """Region-based segmentation: one sigmoid per region, so regions may overlap (WT, TC, ET).

    With task.loss=dice_ce and regions that exclude each other, logits are those of a softmax against the background.
    """

    metric = "dice"
    needs_decoder = True

    def __init__(self, config: TaskConfig, spec: DataSpec, backbone: Backbone, decoder: Decoder | None) -> None:
        super().__init__(config, spec)
        assert decoder is not None
        _check_loss(config, ("auto", "dice", "dice_bce", "dice_ce"), "masks")
        for key in ("label_smoothing", "mixup", "class_weights"):
            if getattr(config, key) not in (0, "none"):
                raise SslMedError(f"task.{key} is for classes and findings, and {spec.name} has masks; leave it out")
        self.largest: tuple[bool, ...] = ()  # regions of which small pieces are left out, once validation has decided
        self.mirrored = mirror_axes(config, spec) if config.mirrored_test else ()
        if config.mirrored_test and not self.mirrored:
            raise SslMedError(
                "task.mirrored_test mirrors as training does, and task.flips=false; leave one of them out"
            )
        regions = len(spec.class_names)
        self.head = SegmentationHead(decoder.out_channels, regions, spec.spatial_dims)
        self.softmax = config.loss == "dice_ce" and spec.exclusive
        weights = supervision_weights(len(decoder.channels)) if config.deep_supervision else [1.0]
        if config.deep_supervision and len(weights) < 3:
            raise SslMedError(
                f"task.deep_supervision: a decoder of {len(weights)} levels has none between the finest and the coarsest, "
                "which counts 0; leave it out or take a deeper backbone"
            )
        self.weights = [weight for weight in weights if weight]  # of the scales, finest first
        widths = decoder.channels[::-1][1 : len(self.weights)]
        self.deep = nn.ModuleList(SegmentationHead(width, regions, spec.spatial_dims) for width in widths)

    @classmethod
    def test_metrics(cls, class_names: Sequence[str]) -> list[str]:
        """Names of all that a test may give, the headline first; distances need a voxel size."""
        names = [cls.metric, "iou", "iou_50_95", "hd95_mm", "surface_dice", *_mask_metrics()]
        return [*names, *(f"{name}/{region}" for name in names for region in class_names)]

    def logits(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:  # noqa: D102
        assert decoder is not None
        logits: Tensor = self.head(decoder(backbone(image)))
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:  # noqa: D102
        logits, mask, over_batch = logits.float(), batch["mask"], self.config.batch_dice and self.training
        if self.config.loss == "dice_ce":
            return dice_ce(logits, mask, exclusive=self.softmax, over_batch=over_batch)
        # Dice alone hardly sees false positives in crops without foreground: its gradient there falls with their square
        return (dice_loss if self.config.loss == "dice" else dice_bce)(logits, mask, over_batch=over_batch)

    def training_loss(self, batch: Batch, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """With task.deep_supervision the weighted sum over the decoder's levels."""
        if not self.deep:
            return super().training_loss(batch, backbone, decoder)
        assert decoder is not None
        levels = [*decoder.scales(backbone(batch["image"]))][::-1]
        losses = []
        for weight, head, x in zip(self.weights, [self.head, *self.deep], levels, strict=False):
            mask = batch["mask"] if x is levels[0] else shrunk(batch["mask"], x.shape[2:])
            losses.append(weight * self.loss(head(x), {**batch, "mask": mask}))
        return torch.stack(losses).sum()

    def predict(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """Gaussian-weighted sliding window over the whole image, each window mirrored where task.mirrored_test says so."""
        from monai.inferers import sliding_window_inference

        logits = sliding_window_inference(
            image,
            roi_size=self.spec.patch_size,
            sw_batch_size=self.config.window_batch,
            predictor=lambda patch: mirrored_mean(
                lambda x: self.logits(x, backbone, decoder).float(), patch, self.mirrored
            ),
            overlap=self.config.overlap,
            mode="gaussian",
        )
        assert isinstance(logits, Tensor)
        return logits

    def answers(self, logits: Tensor) -> Tensor:
        """Logits (B, K, *S) -> what is positive where a region is the answer: log odds."""
        answers = against_others(logits) if self.softmax else logits
        return without_small_pieces(answers, self.largest) if any(self.largest) else answers

    def rows(self, logits: Tensor, batch: Batch) -> list[Row]:  # noqa: D102
        rows = []
        for case, prediction, truth in zip(batch["id"], self.answers(logits) > 0, batch["mask"] > 0.5, strict=True):
            values = dice_per_region(prediction, truth).tolist()
            regions = {f"dice/{name}": value for name, value in zip(self.spec.class_names, values, strict=True)}
            rows.append({"case": case, "dice": float(np.mean(values)), **regions})
        return rows

    def test_rows(self, logits: Tensor, batch: Batch) -> list[Row]:
        """Overlap and, where the voxel size is known, distances of surfaces; several regions also one by one."""
        rows, logits = self.rows(logits, batch), self.answers(logits)
        for k, row in enumerate(rows):
            truth = batch["mask"][k] > 0.5
            found = dict(zip(("iou", "iou_50_95"), iou_per_region(logits[k], truth), strict=True))
            if "spacing" in batch:
                spacing, tolerance = batch["spacing"][k].tolist(), self.config.tolerance_mm
                distances = surface_per_region(logits[k] > 0, truth, spacing=spacing, tolerance=tolerance)
                found |= dict(zip(("hd95_mm", "surface_dice"), distances, strict=True))
            found |= self._added(logits[k] > 0, truth, batch["spacing"][k].tolist() if "spacing" in batch else None)
            for key, values in found.items():
                row[key] = float(values.mean())
                if len(values) > 1:
                    names = self.spec.class_names
                    row |= {f"{key}/{name}": x for name, x in zip(names, values.tolist(), strict=True)}
        return rows

    @staticmethod
    def _added(prediction: Tensor, truth: Tensor, spacing: Sequence[float] | None) -> dict[str, Tensor]:
        masks, size = (prediction.cpu().numpy(), truth.cpu().numpy()), None if spacing is None else tuple(spacing)
        return {
            name: torch.tensor(one.score(*masks, size), dtype=torch.float64)
            for name, one in _mask_metrics().items()
            if truth.ndim - 1 in one.dims and (size is not None or not one.needs_spacing)
        }

    def goodness(self, row: Row) -> float:  # noqa: D102
        return float(row["dice"])

    @torch.no_grad()
    def picture(self, logits: Tensor, batch: Batch) -> dict[str, np.ndarray]:  # noqa: D102
        masks = {
            "truth": (batch["mask"][0] > 0.5).cpu().numpy(),
            "prediction": (self.answers(logits)[0] > 0).cpu().numpy(),
        }
        return super().picture(logits, batch) | masks

    def summarize(self, rows: list[Row]) -> dict[str, float]:
        """Mean over cases, in all and by region."""
        keys = [key for key in rows[0] if key not in ("case", "subject")]
        return {key: float(np.mean([row[key] for row in rows])) for key in keys}


class PooledTask(Task):
    """A head on the pooled last level of the encoder."""

    needs_decoder = False
    weight: Tensor | None
    known_losses: ClassVar[tuple[str, ...]]
    labels: ClassVar[str]  # what they are called, for messages

    def __init__(self, config: TaskConfig, spec: DataSpec, backbone: Backbone, decoder: Decoder | None) -> None:
        super().__init__(config, spec)
        self.head = ClassificationHead(
            backbone.out_channels, len(spec.class_names), hidden=config.hidden or None, dropout=config.dropout
        )
        _check_loss(config, self.known_losses, self.labels)
        for key in ("batch_dice", "deep_supervision", "mirrored_test", "largest_component"):
            if getattr(config, key):
                raise SslMedError(f"task.{key} is for masks, and '{spec.name}' has {self.labels}; leave it out")
        # no part of the weights: it is made anew from the training labels, and the head travels without it
        self.register_buffer("weight", None, persistent=False)

    def logits(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:  # noqa: D102
        logits: Tensor = self.head(backbone.pool(backbone(image)))
        return logits

    @abstractmethod
    def soft(self, label: Tensor) -> Tensor:
        """Labels of a batch as (B, K) float32 targets, which can be mixed."""

    @abstractmethod
    def balance(self, present: Tensor, known: Tensor) -> None:
        """Sets the weights of task.class_weights=balanced.

        Args:
            present: (K,) number of training samples of each class or with each finding.
            known: (K,) number of training samples whose label of it is known.
        """


class Classification(PooledTask):
    """One class of K per sample; scored by AUC, its one-against-rest mean for more than two classes, and by accuracy."""

    metric = "auc"
    known_losses = ("auto", "ce")
    labels = "classes"

    @classmethod
    def test_metrics(cls, class_names: Sequence[str]) -> list[str]:
        """Names of all that a test may give, the headline first; kappa is for grades, CPM for candidates."""
        names = [cls.metric, "accuracy", "balanced_accuracy", "kappa", "cpm", *_class_metrics()]
        return [*names, *(f"sensitivity/{rate:g}" for rate in FROC_RATES)]

    def soft(self, label: Tensor) -> Tensor:  # noqa: D102
        return soft_target(label, len(self.spec.class_names), smoothing=self.config.label_smoothing)

    def balance(self, present: Tensor, known: Tensor) -> None:  # noqa: D102
        self.weight = class_weights(present)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy: of soft, weighted targets in training, of the plain classes in evaluation."""
        label, logits = batch["label"], logits.float()
        if not self.training:
            return F.cross_entropy(logits, label)
        if label.ndim == 1 and (self.config.label_smoothing or self.weight is not None):
            label = self.soft(label)
        return F.cross_entropy(logits, label, weight=self.weight)

    def rows(self, logits: Tensor, batch: Batch) -> list[Row]:  # noqa: D102
        scores = logits.float().softmax(1).tolist()
        return [
            {
                "case": case,
                "label": label,
                **{f"score/{n}": s for n, s in zip(self.spec.class_names, score, strict=True)},
            }
            for case, label, score in zip(batch["id"], batch["label"].tolist(), scores, strict=True)
        ]

    def test_rows(self, logits: Tensor, batch: Batch) -> list[Row]:
        """With the lesion that a candidate marks, for FROC."""
        rows = self.rows(logits, batch)
        if "lesion" in batch:
            for k, row in enumerate(rows):
                row["scan"] = int(batch["case"][k])
                row |= {"lesion": int(batch["lesion"][k]), "lesions": int(batch["lesions"][k])}
                if "silent" in batch:
                    row |= zip(("silent_scans", "silent_lesions"), batch["silent"][k].tolist(), strict=True)
        return rows

    def goodness(self, row: Row) -> float:
        """Probability of the right class."""
        return float(row[f"score/{self.spec.class_names[row['label']]}"])

    def summarize(self, rows: list[Row]) -> dict[str, float]:  # noqa: D102
        truth = np.array([row["label"] for row in rows])
        score = np.array([[row[f"score/{name}"] for name in self.spec.class_names] for row in rows])
        answer = score.argmax(1)
        result = {"accuracy": accuracy(truth, answer), "balanced_accuracy": balanced_accuracy(truth, answer)}
        result |= {name: one.score(truth, score) for name, one in _class_metrics().items()}
        if self.config.ordered:
            result["kappa"] = quadratic_kappa(truth, answer, score.shape[1])
        if score.shape[1] == 2:
            if "lesion" in rows[0]:
                lesion, lesions, scans = marks(rows)
                found = froc(score[:, 1], lesion, lesions=lesions, scans=scans)
                at = {f"sensitivity/{rate:g}": float(x) for rate, x in zip(FROC_RATES, found, strict=True)}
                result |= {"cpm": float(found.mean()), **at}
            return {"auc": auroc(truth, score[:, 1]), "positives": float(truth.sum()), **result}
        mean, each = multilabel_auroc(np.eye(score.shape[1])[truth], score)
        return {"auc": mean, "classes_scored": float((~np.isnan(each)).sum()), **result}


class Multilabel(PooledTask):
    """Any number of findings per sample; scored by the mean AUROC of the findings that have both labels.

    A label that is nan is not known: it is left out of the loss and of its finding's AUROC.
    """

    metric = "auroc"
    known_losses = ("auto", "bce")
    labels = "findings"

    @classmethod
    def test_metrics(cls, class_names: Sequence[str]) -> list[str]:
        """Names of all that a test may give, the headline first."""
        return [cls.metric, *(f"{cls.metric}/{name}" for name in class_names)]

    def __init__(self, config: TaskConfig, spec: DataSpec, backbone: Backbone, decoder: Decoder | None) -> None:
        super().__init__(config, spec, backbone, decoder)
        if config.label_smoothing:
            raise SslMedError(
                "task.label_smoothing spreads a label over classes, and findings are no classes; leave it out"
            )

    def soft(self, label: Tensor) -> Tensor:  # noqa: D102
        return label.float()

    def balance(self, present: Tensor, known: Tensor) -> None:  # noqa: D102
        self.weight = finding_weights(present, known)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy, weighted in training only."""
        return finding_loss(logits.float(), batch["label"], weight=self.weight if self.training else None)

    def rows(self, logits: Tensor, batch: Batch) -> list[Row]:  # noqa: D102
        rows = []
        for case, label, score in zip(
            batch["id"], batch["label"].tolist(), logits.float().sigmoid().tolist(), strict=True
        ):
            row: Row = {"case": case}
            for name, y, s in zip(self.spec.class_names, label, score, strict=True):
                row |= {f"label/{name}": None if math.isnan(y) else int(y), f"score/{name}": s}
            rows.append(row)
        return rows

    def goodness(self, row: Row) -> float:
        """Mean probability of the right answer over the known findings."""
        known = [name for name in self.spec.class_names if row[f"label/{name}"] is not None]
        right = [1 - abs(row[f"label/{name}"] - row[f"score/{name}"]) for name in known]
        return float(np.mean(right)) if known else math.nan

    def summarize(self, rows: list[Row]) -> dict[str, float]:  # noqa: D102
        names = self.spec.class_names
        truth = np.array([[row[f"label/{name}"] for name in names] for row in rows], float)  # None becomes nan
        score = np.array([[row[f"score/{name}"] for name in names] for row in rows])
        mean, each = multilabel_auroc(truth, score)
        scored = {f"auroc/{name}": float(value) for name, value in zip(names, each, strict=True) if not np.isnan(value)}
        return {"auroc": mean, "classes_scored": float(len(scored)), **scored}


_TASKS: dict[str, type[Segmentation] | type[Classification] | type[Multilabel]] = {
    "mask": Segmentation,
    "class": Classification,
    "multilabel": Multilabel,
}


def _mask_metrics() -> dict[str, MaskMetric]:
    return {name: one for name, one in added_metrics().items() if isinstance(one, MaskMetric)}


def _class_metrics() -> dict[str, ClassMetric]:
    return {name: one for name, one in added_metrics().items() if isinstance(one, ClassMetric)}


def task_class(spec: DataSpec) -> type[Segmentation] | type[Classification] | type[Multilabel]:
    """The kind of task that the labels of `spec` define."""
    if spec.target not in _TASKS:
        raise SslMedError(f"data '{spec.name}' has no labels to learn; choose a task that has")
    return _TASKS[spec.target]


def mirrored_mean(network: Callable[[Tensor], Tensor], image: Tensor, axes: Sequence[int]) -> Tensor:
    """Mean of a network's answers (B, K, *S) to an image (B, C, *S) mirrored along every subset of `axes`, mirrored back."""
    total = network(image)
    subsets = [subset for size in range(1, len(axes) + 1) for subset in combinations(axes, size)]
    for subset in subsets:
        dims = [axis + 2 for axis in subset]
        total = total + network(image.flip(dims)).flip(dims)
    return total / (1 + len(subsets)) if subsets else total


def mirror_axes(config: TaskConfig, spec: DataSpec) -> tuple[int, ...]:
    """Spatial axes that a task may mirror, 0 the first after the channels: what flips and flip_axes say.

    Raises:
        SslMedError: flip_axes names an axis that the data do not have, or flips is off.
    """
    if config.flip_axes and not config.flips:
        raise SslMedError("task.flip_axes has no effect with task.flips=false; leave it out")
    for axis in config.flip_axes:
        if axis not in spec.axis_order:
            raise SslMedError(
                f"task.flip_axes: '{axis}' is no axis of '{spec.name}', which has {', '.join(spec.axis_order)}"
            )
    if not config.flips:
        return ()
    if config.flip_axes:
        return tuple(sorted({spec.axis_order.index(axis) for axis in config.flip_axes}))
    return (1,) if spec.spatial_dims == 2 else (0, 1, 2)


def marks(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, int, int]:
    """Of rows of candidates: (N,) number of the lesion of each; the number of lesions and of scans, also without candidates.

    A number below 0 says that the candidate marks none, see `froc_curve`.
    """
    lesions = {row["scan"]: int(row["lesions"]) for row in rows}
    first = dict(zip(lesions, np.cumsum([0, *lesions.values()]).tolist(), strict=False))  # rows count within a scan
    lesion = [first[row["scan"]] + int(row["lesion"]) if row["lesion"] >= 0 else int(row["lesion"]) for row in rows]
    silent_scans, silent_lesions = (int(rows[0].get(key) or 0) for key in ("silent_scans", "silent_lesions"))
    return np.array(lesion), sum(lesions.values()) + silent_lesions, len(lesions) + silent_scans


def _check_loss(config: TaskConfig, allowed: tuple[str, ...], kind: str) -> None:
    if config.loss not in allowed:
        raise SslMedError(
            f"task.loss is '{config.loss}', which does not fit {kind}; choose one of {', '.join(allowed)}"
        )
