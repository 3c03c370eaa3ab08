"""The contract of an analysis: it looks at a frozen encoder on images without labels and gives numbers by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssl_med.evaluation.features import extract, pooled
from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import Batch


@dataclass(frozen=True)
class Findings:
    """What an analysis found.

    * numbers: name -> value, for tables and for comparison between networks.
    * rows: one dictionary per image, where the analysis speaks of single images.
    """

    numbers: dict[str, float]
    rows: list[dict[str, Any]] = field(default_factory=list)


class Analysis(ABC):
    """One analysis: a file in `ssl_med/features` with one public subclass and its `Config`."""

    Config: ClassVar[type]
    paper: ClassVar[str]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def measure(self, backbone: Backbone, batches: Iterable[Batch], *, device: torch.device) -> Findings:
        """Looks at the encoder on all batches; its weights and modes are left as they were found by the caller.

        Args:
            backbone: frozen encoder in evaluation mode.
            batches: of `ssl_med.spec.Batch`; "image" (B, C, *S) and "id" are read, labels are not.
            device: where to compute.

        Raises:
            SslMedError: too few images, or features that are not finite.
        """


def pooled_levels(backbone: Backbone, batches: Iterable[Batch], *, device: torch.device) -> list[Tensor]:
    """Pooled features of all images, level by level: a list of (N, channels[i]) float32 on the CPU, finest level first.

    Raises:
        NotFiniteError: a feature is nan or infinite.
    """
    levels = tuple(range(len(backbone.channels)))

    def features_of(batch: Batch) -> tuple[list[str], Tensor, Tensor]:
        joined = pooled(backbone, batch["image"], levels)
        return list(batch["id"]), joined, torch.zeros(len(joined), dtype=torch.int64)

    found = extract(backbone, batches, features_of, device=device).x
    return list(torch.split(found, list(backbone.channels), dim=1))
