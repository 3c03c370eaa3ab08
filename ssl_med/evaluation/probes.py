"""Probes of frozen features: linear and nearest neighbours.

Source of the linear probe: Anton et al., "How well do self-supervised models transfer to medical imaging?", Journal of
Imaging 8, 2022, Sec. 4.3; weighted nearest neighbours: Wu et al., CVPR 2018.

Where we differ, and why: several findings a sample are one logistic regression each, since the paper's tasks have one class a
sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.evaluation.features import Features
from ssl_med.evaluation.logistic import Logistic, fit_classes, fit_findings
from ssl_med.evaluation.metrics import METRICS
from ssl_med.evaluation.scores import accuracy, auroc, balanced_accuracy
from ssl_med.spec import DataSpec, SslMedError

CHUNK = 1 << 24  # numbers of a block of similarities or episodes


@dataclass
class LevelsConfig:
    """Which features are probed."""

    levels: tuple[int, ...] = (-1,)
    """levels of the encoder whose pooled features are joined, 0: finest, -1: last"""
    cache: str = ""
    """folder of the feature files; empty: features/ in the run folder; runs that share one extract once"""


@dataclass
class LinearConfig(LevelsConfig):
    """Logistic regression; defaults of Anton et al. 2022."""

    strengths: int = 45
    """number of L2 values, evenly spaced in the logarithm"""
    strength_min: float = 1e-6
    """smallest L2 value, on the sum of the losses"""
    strength_max: float = 1e5
    """largest L2 value"""
    select: Literal["accuracy", "balanced_accuracy"] = "accuracy"
    """validation value that chooses the L2 value of classes; findings are chosen one by one by AUROC"""
    refit_on: Literal["auto", "train", "train+val"] = "auto"
    """samples of the final fit; auto: train+val as in the paper, but train alone when the label budget is a part of train"""
    max_iter: int = 1000
    """iterations of L-BFGS"""

    def __post_init__(self) -> None:
        if self.strengths < 1 or self.max_iter < 1:
            raise SslMedError("probe.strengths and probe.max_iter must be at least 1")
        if not 0 < self.strength_min <= self.strength_max:
            raise SslMedError(
                f"probe.strength_min {self.strength_min:g} must be positive and not above "
                f"probe.strength_max {self.strength_max:g}"
            )

    def grid(self) -> Tensor:
        """(G,) L2 values, ascending."""
        low, high = math.log10(self.strength_min), math.log10(self.strength_max)
        return torch.logspace(low, high, self.strengths, dtype=torch.float64)


@dataclass
class KnnConfig(LevelsConfig):
    """Votes of the nearest training samples by cosine, each weighted by exp(cosine / temperature)."""

    neighbours: tuple[int, ...] = (1, 3, 5, 10, 20, 50, 100, 200)
    """numbers of neighbours, of which the best on validation is taken; those above the number of samples are left out"""
    temperature: float = 0.07
    """of the weights (Wu et al. 2018)"""
    select: Literal["accuracy", "balanced_accuracy"] = "accuracy"
    """validation value that chooses; findings: mean AUROC"""

    def __post_init__(self) -> None:
        if not self.neighbours or min(self.neighbours) < 1:
            raise SslMedError(f"probe.neighbours {list(self.neighbours)} must be positive numbers")
        if self.temperature <= 0:
            raise SslMedError(f"probe.temperature is {self.temperature:g}; it must be positive")


@dataclass(frozen=True)
class Outcome:
    """Logits (N, K) of the test samples, what was chosen, and what the reader should know."""

    logits: Tensor
    chosen: dict[str, float]
    notes: tuple[str, ...] = ()


def linear(
    config: LinearConfig, spec: DataSpec, train: Features, val: Features, test: Features, *, refit: bool
) -> Outcome:
    """L2 value chosen on `val`, final fit on train and val (`refit`) or on train, logits of `test`.

    Of equal L2 values on validation the smallest is taken, as the paper's code does.
    """
    grid = config.grid()
    final = train + val if refit else train
    if spec.target == "class":
        k = len(spec.class_names)
        fits = fit_classes(train.x, train.label, grid, classes=k, max_iter=config.max_iter)
        answers = fits.logits(val.x).argmax(2).cpu().numpy()
        truth = val.label.cpu().numpy()
        values = np.array([class_value(config.select, truth, answer) for answer in answers])
        best = METRICS[config.select].best(values.tolist())
        last = fit_classes(final.x, final.label, grid[best : best + 1], classes=k, max_iter=config.max_iter)
        chosen = {"l2": float(grid[best]), f"val/{config.select}": float(values[best])}
        return Outcome(last.logits(test.x)[0], chosen, _convergence(fits, last))
    fits = fit_findings(train.x, train.label, grid, max_iter=config.max_iter)
    values = finding_values(val.label, fits.logits(val.x))  # (G, K)
    undefined = np.isnan(values).all(0)
    values[:, undefined] = np.nanmean(values, 1, keepdims=True) if not undefined.all() else 0.0
    best_of = [METRICS["auroc"].best(column) for column in values.T.tolist()]
    weight, bias = [], []
    scores = fit_findings(final.x, final.label, grid[sorted(set(best_of))], max_iter=config.max_iter)
    place = {int(g): i for i, g in enumerate(sorted(set(best_of)))}
    for finding, g in enumerate(best_of):
        weight.append(scores.weight[place[int(g)], finding])
        bias.append(scores.bias[place[int(g)], finding])
    last = Logistic(torch.stack(weight)[None], torch.stack(bias)[None], scores.converged)
    chosen = {f"l2/{name}": float(grid[g]) for name, g in zip(spec.class_names, best_of, strict=True)}
    notes = list(_convergence(fits, last))
    if undefined.any():
        names = ", ".join(name for name, missing in zip(spec.class_names, undefined, strict=True) if missing)
        notes.append(f"L2 by the mean of the other findings, since validation has one label only: {names}")
    return Outcome(last.logits(test.x)[0], chosen, tuple(notes))


def _convergence(*fits: Logistic) -> tuple[str, ...]:
    share = min(fit.converged for fit in fits)
    if share == 1:
        return ()
    return (f"{1 - share:.0%} of the logistic regressions stopped at probe.max_iter before their gradient vanished",)


def knn(config: KnnConfig, spec: DataSpec, train: Features, val: Features, test: Features) -> Outcome:
    """Number of neighbours chosen on `val`, votes of `train` for `test`."""
    options = [k for k in sorted(set(config.neighbours)) if k <= len(train)]
    if not options:
        raise SslMedError(
            f"probe.neighbours {list(config.neighbours)}: none is as small as the {len(train)} training samples"
        )
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


def class_value(select: str, truth: np.ndarray, answer: np.ndarray) -> float:
    """Accuracy or balanced accuracy of (N,) answers."""
    return balanced_accuracy(truth, answer) if select == "balanced_accuracy" else accuracy(truth, answer)


def finding_values(label: Tensor, scores: Tensor) -> np.ndarray:
    """AUROC of each finding for each of G scores (G, N, K); nan where the known labels (N, K) are all the same."""
    truth, known = label.cpu().numpy(), ~label.isnan().cpu().numpy()
    return np.array(
        [
            [auroc(truth[known[:, k], k], score[known[:, k], k]) for k in range(truth.shape[1])]
            for score in scores.cpu().numpy()
        ]
    )
