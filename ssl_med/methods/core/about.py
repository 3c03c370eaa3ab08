"""What a method declares about itself: its family, its paper, and the metrics that many share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ssl_med.evaluation.metrics import METRICS

Family = Literal["restoration", "prediction", "contrast", "clustering", "self-distillation"]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Paper:
    """The paper that a method comes from; its module's docstring cites it in full, with code and deviations."""

    authors: str
    title: str
    venue: str
    year: int

    def __str__(self) -> str:
        return f"{self.authors} {self.year}"


RETRIEVAL = METRICS["retrieval"]
ACCURACY = METRICS["accuracy"]
