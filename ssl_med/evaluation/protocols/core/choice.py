"""Validation values that choose the settings of a probe, and what a probe answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssl_med.evaluation.scores import accuracy, auroc, balanced_accuracy
from ssl_med.spec import DataSpec, SslMedError

CHUNK = 1 << 24  # numbers of a block of similarities or episodes


@dataclass(frozen=True)
class Outcome:
    """Logits (N, K) of the test samples, what was chosen, and what the reader should know."""

    logits: Tensor
    chosen: dict[str, float]
    notes: tuple[str, ...] = ()


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


def check_choice(spec: DataSpec, label: Tensor, options: int) -> None:
    """Refuses validation labels by which the better of several settings cannot be told.

    Args:
        spec: of the labels.
        label: (N,) or (N, K) of the validation samples.
        options: number of settings to choose among; one needs no choice.

    Raises:
        SslMedError: all samples are of one class, or no finding has both labels.
    """
    if options < 2:
        return
    count = len(label)
    if spec.target == "class":
        present = sorted(set(label.tolist()))
        if len(present) < 2:
            name = spec.class_names[int(present[0])] if present else "of no class"
            raise SslMedError(
                f"the {count} validation samples are all '{name}', and can choose nothing; take more subjects"
            )
    elif not any({0.0, 1.0} <= set(column.tolist()) for column in label.T):
        raise SslMedError(
            f"no finding has both labels among the {count} validation samples, which can choose nothing; take more subjects"
        )
