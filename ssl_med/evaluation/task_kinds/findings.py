"""Findings: any number of them per sample, some of which may be unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ssl_med.evaluation.scores import (
    multilabel_auroc,
)
from ssl_med.evaluation.task_kinds.classes import PooledTask
from ssl_med.evaluation.task_kinds.core import Row, TaskConfig
from ssl_med.losses.classification import finding_loss, finding_weights
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.spec import Batch, DataSpec, SslMedError


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
