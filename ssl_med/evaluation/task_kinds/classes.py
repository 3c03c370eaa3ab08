"""Classes: one of K per sample, by a head on pooled features; candidates are scored by FROC too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ssl_med.evaluation.metrics import ClassMetric, added_metrics
from ssl_med.evaluation.scores import (
    FROC_RATES,
    accuracy,
    auroc,
    balanced_accuracy,
    froc,
    multilabel_auroc,
    quadratic_kappa,
)
from ssl_med.evaluation.task_kinds.core import Row, Task, TaskConfig, check_loss, mirrored_mean
from ssl_med.losses.classification import class_weights, soft_target
from ssl_med.networks.heads import ClassificationHead
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.spec import Batch, DataSpec, SslMedError


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
        check_loss(config, self.known_losses, self.labels)
        for key in ("batch_dice", "deep_supervision", "largest_component"):
            if getattr(config, key):
                raise SslMedError(f"task.{key} is for masks, and '{spec.name}' has {self.labels}; leave it out")
        # no part of the weights: it is made anew from the training labels, and the head travels without it
        self.register_buffer("weight", None, persistent=False)

    def logits(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:  # noqa: D102
        logits: Tensor = self.head(backbone.pool(backbone(image)))
        return logits

    def predict(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """Logits (B, K) of whole images, the mean over mirrorings where task.mirrored_test says so."""
        return mirrored_mean(lambda x: self.logits(x, backbone, decoder), image, self.mirrored, spatial=False)

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


def marks(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, int, int]:
    """Of rows of candidates: (N,) number of the lesion of each; the number of lesions and of scans, also without candidates.

    A number below 0 says that the candidate marks none, see `froc_curve`.
    """
    lesions = {row["scan"]: int(row["lesions"]) for row in rows}
    first = dict(zip(lesions, np.cumsum([0, *lesions.values()]).tolist(), strict=False))  # rows count within a scan
    lesion = [first[row["scan"]] + int(row["lesion"]) if row["lesion"] >= 0 else int(row["lesion"]) for row in rows]
    silent_scans, silent_lesions = (int(rows[0].get(key) or 0) for key in ("silent_scans", "silent_lesions"))
    return np.array(lesion), sum(lesions.values()) + silent_lesions, len(lesions) + silent_scans


def _class_metrics() -> dict[str, ClassMetric]:
    return {name: one for name, one in added_metrics().items() if isinstance(one, ClassMetric)}
