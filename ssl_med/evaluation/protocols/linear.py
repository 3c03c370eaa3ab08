"""Linear probe: logistic regression on frozen features.

Source: Anton et al., "How well do self-supervised models transfer to medical imaging?", Journal of Imaging 8, 2022, Sec. 4.3.

Where we differ, and why: several findings a sample are one logistic regression each, since the paper's tasks have one class a
sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_med.evaluation.features import Features
from ssl_med.evaluation.logistic import Logistic, fit_classes, fit_findings
from ssl_med.evaluation.metrics import METRICS
from ssl_med.evaluation.protocols.core.choice import Outcome, check_choice, class_value, finding_values
from ssl_med.evaluation.protocols.core.contract import (
    Asked,
    LevelsConfig,
    Probe,
    Result,
    Source,
    pooled_features,
    scored,
)
from ssl_med.ranges import Count, Positive, Range
from ssl_med.setting import setting
from ssl_med.spec import DataSpec, SslMedError


@dataclass
class LinearConfig(LevelsConfig):
    """Logistic regression; defaults of Anton et al. 2022."""

    strengths: Annotated[int, Range(1, 1000)] = 45
    """number of L2 values, evenly spaced in the logarithm"""
    strength_min: Positive = 1e-6
    """smallest L2 value, on the sum of the losses"""
    strength_max: Positive = 1e5
    """largest L2 value"""
    select: Literal["accuracy", "balanced_accuracy"] = setting(default="accuracy", needs={"labels": ("classes",)})
    """validation value that chooses the L2 value of classes; findings are chosen one by one by AUROC"""
    refit_on: Literal["auto", "train", "train+val"] = "auto"
    """samples of the final fit; auto: train+val as in the paper, but train alone when the label budget is a part of train"""
    max_iter: Count = 1000
    """iterations of L-BFGS"""

    def __post_init__(self) -> None:
        if self.strength_min > self.strength_max:
            raise SslMedError(
                f"probe.strength_min {self.strength_min:g} must not be above probe.strength_max {self.strength_max:g}"
            )

    def grid(self) -> Tensor:
        """(G,) L2 values, ascending."""
        low, high = math.log10(self.strength_min), math.log10(self.strength_max)
        return torch.logspace(low, high, self.strengths, dtype=torch.float64)


class Linear(Probe):
    """One logistic regression, or one per finding; masks are asked voxel by voxel."""

    Config = LinearConfig
    config: LinearConfig
    on_masks = "dense"

    def result(self, source: Source) -> Result:
        """Fits on train, chooses on val, answers on test."""
        features = pooled_features(source)
        outcome, note = chosen_and_fitted(self.config, source, source.spec, features)
        notes = [note, *outcome.notes]
        return scored(source, source.spec, features[2], outcome.logits, chosen=outcome.chosen, notes=notes)


def chosen_and_fitted(
    config: LinearConfig, source: Asked, spec: DataSpec, features: list[Features]
) -> tuple[Outcome, str]:
    """The regression of train, val and test features, and a note on which samples its final fit saw."""
    # subjects held out of the budget return to it; a validation part would enlarge a part of the labels
    refit = source.held if config.refit_on == "auto" and not source.whole else config.refit_on != "train"
    train, val = (len(part) for part in features[:2])
    fitted = f"train and val, {train + val} samples" if refit else f"train, {train} samples"
    note = f"L2 chosen on {val} validation samples; final fit on {fitted}"
    return linear(config, spec, *features, refit=refit), note


def linear(
    config: LinearConfig, spec: DataSpec, train: Features, val: Features, test: Features, *, refit: bool
) -> Outcome:
    """L2 value chosen on `val`, final fit on train and val (`refit`) or on train, logits of `test`.

    Of equal L2 values on validation the smallest is taken, as the paper's code does.
    """
    grid = config.grid()
    check_choice(spec, val.label, len(grid))
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
