"""Nearest neighbours: weighted votes of training samples by the cosine of frozen features (Wu et al., CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.evaluation.features import Features
from ssl_med.evaluation.metrics import METRICS
from ssl_med.evaluation.protocols.core.choice import CHUNK, Outcome, check_choice, class_value, finding_values
from ssl_med.evaluation.protocols.core.contract import LevelsConfig, Probe, Result, Source, pooled_features, scored
from ssl_med.ranges import Count, Positive
from ssl_med.setting import setting
from ssl_med.spec import DataSpec, SslMedError


@dataclass
class KnnConfig(LevelsConfig):
    """Votes of the nearest training samples by cosine, each weighted by exp(cosine / temperature)."""

    neighbours: tuple[Count, ...] = (1, 3, 5, 10, 20, 50, 100, 200)
    """numbers of neighbours, of which the best on validation is taken; those above the number of samples are left out"""
    temperature: Positive = 0.07
    """temperature of the votes' weights exp(similarity / temperature) (Wu et al. 2018)"""
    select: Literal["accuracy", "balanced_accuracy"] = setting(default="accuracy", needs={"labels": ("classes",)})
    """validation value that chooses; findings: mean AUROC"""

    def __post_init__(self) -> None:
        if not self.neighbours:
            raise SslMedError("probe.neighbours is empty; give at least one number")


class Knn(Probe):
    """Votes of the nearest training samples; their number is chosen on validation."""

    Config = KnnConfig
    config: KnnConfig

    def result(self, source: Source) -> Result:
        """Votes of train for test."""
        features = pooled_features(source)
        outcome = knn(self.config, source.spec, *features)
        return scored(source, source.spec, features[2], outcome.logits, chosen=outcome.chosen, notes=outcome.notes)


def knn(config: KnnConfig, spec: DataSpec, train: Features, val: Features, test: Features) -> Outcome:
    """Number of neighbours chosen on `val`, votes of `train` for `test`."""
    options = [k for k in sorted(set(config.neighbours)) if k <= len(train)]
    if not options:
        raise SslMedError(
            f"probe.neighbours {list(config.neighbours)}: none is as small as the {len(train)} training samples"
        )
    check_choice(spec, val.label, len(options))
    scores = knn_scores(val.x, train, spec, neighbours=options, temperature=config.temperature)
    if spec.target == "class":
        truth = val.label.cpu().numpy()
        metric = METRICS[config.select]
        values = np.array([class_value(config.select, truth, s.argmax(1).cpu().numpy()) for s in scores])
    else:
        metric = METRICS["auroc"]
        each = finding_values(val.label, scores)
        values = np.array([np.nanmean(row) if not np.isnan(row).all() else 0.0 for row in each])
    best = metric.best(values.tolist())
    votes = knn_scores(test.x, train, spec, neighbours=options[best : best + 1], temperature=config.temperature)[0]
    # a sigmoid or softmax of these logits gives the votes back
    logits = votes.clamp_min(1e-12).log() if spec.target == "class" else torch.logit(votes, eps=1e-12)
    return Outcome(logits, {"neighbours": float(options[best]), f"val/{metric.name}": float(values[best])})


def knn_scores(x: Tensor, database: Features, spec: DataSpec, *, neighbours: list[int], temperature: float) -> Tensor:
    """Shares of the weighted votes for each class or finding.

    Args:
        x: (N, D) queries.
        database: M labelled samples; an unknown finding (nan) has no vote.
        spec: of the labels.
        neighbours: G numbers, none above M.
        temperature: of the weights.

    Returns:
        (G, N, K) float64; a finding without any known vote has 0.5.
    """
    classes = len(spec.class_names)
    votes = F.one_hot(database.label, classes).double() if spec.target == "class" else database.label.double()
    known = ~votes.isnan()
    votes = votes.nan_to_num()
    keys = F.normalize(database.x.double(), dim=1)
    result = torch.zeros(len(neighbours), len(x), classes, dtype=torch.float64, device=x.device)
    most = max(neighbours)
    for rows in torch.split(torch.arange(len(x), device=x.device), max(1, CHUNK // len(database))):
        similarity, nearest = (F.normalize(x[rows].double(), dim=1) @ keys.T).topk(most, dim=1)
        weight = ((similarity - similarity[:, :1]) / temperature).exp()[..., None]  # a common factor cancels
        use = weight * known[nearest]
        total, part = use.cumsum(1), (use * votes[nearest]).cumsum(1)
        for place, k in enumerate(neighbours):
            share = part[:, k - 1] / total[:, k - 1].clamp_min(1e-300)
            result[place, rows] = torch.where(total[:, k - 1] > 0, share, 0.5)
    return result
