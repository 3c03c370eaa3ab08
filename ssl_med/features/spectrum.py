"""How many directions the features of each level use: effective rank and the decay of the eigenvalues.

Papers: Roy and Vetterli, "The effective rank", EUSIPCO 2007; Garrido et al., "RankMe", ICML 2023 (the same number of a
self-supervised encoder's features, as a predictor of transfer).

With centred features X (N, d) and singular values s_k of X, p_k = s_k / sum(s):

- effective rank: exp(-sum p_k log p_k), between 1 (all images lie on a line) and min(N - 1, d);
- relative rank: effective rank / min(N - 1, d);
- decay: slope a of log(s_k^2) = c - a log(k) by least squares over the eigenvalues above 1e-6 of the largest; it is larger
  where few directions hold most of the variance.

Where we deviate: RankMe does not centre the features; a constant offset then counts as a direction, which says nothing of
images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from ssl_med.features.core.analysis import Analysis, Findings, pooled_levels
from ssl_med.finite import check_rows
from ssl_med.networks.pyramid import Backbone
from ssl_med.ranges import LARGEST, Range
from ssl_med.spec import Batch, SslMedError

_FLOOR = 1e-6  # share of the largest eigenvalue below which rounding of float32 features rules


@dataclass
class SpectrumConfig:
    """Which images are too few to speak of a spectrum."""

    min_images: Annotated[int, Range(2, LARGEST)] = 16
    """fewest images; the effective rank is at most their number less one"""


class Spectrum(Analysis):
    """Effective rank and eigenvalue decay of the pooled features of each level."""

    Config = SpectrumConfig
    paper = "Roy and Vetterli 2007; Garrido et al. 2023"

    def measure(self, backbone: Backbone, batches: Iterable[Batch], *, device: torch.device) -> Findings:
        """Numbers `levelK/effective_rank`, `levelK/relative_rank` and `levelK/decay`, K = 0 for the finest level."""
        levels = pooled_levels(backbone, batches, device=device)
        images = len(levels[0])
        if images < self.config.min_images:
            raise SslMedError(f"kind=spectrum needs {self.config.min_images} images or more, there are {images}")
        numbers: dict[str, float] = {"images": float(images)}
        for number, features in enumerate(levels):
            numbers |= {f"level{number}/{name}": value for name, value in spectrum(features).items()}
        return Findings(numbers)


def spectrum(features: Tensor) -> dict[str, float]:
    """Effective rank, relative rank and decay of features (N, d), in float64; features that are all equal have rank 0."""
    check_rows([str(k) for k in range(len(features))], features, "features")
    x: Any = features.double()
    values = torch.linalg.svdvals(x - x.mean(0))
    largest = min(len(x) - 1, x.shape[1])
    if not values[0] > 0:
        return {"effective_rank": 0.0, "relative_rank": 0.0, "decay": float("nan")}
    share = values / values.sum()
    rank = float(torch.special.entr(share).sum().exp())
    eigenvalues = values.square()
    kept = eigenvalues[eigenvalues > _FLOOR * eigenvalues[0]]
    decay = float("nan")
    if len(kept) > 1:
        k = torch.arange(1, len(kept) + 1, dtype=torch.float64).log()
        k = k - k.mean()
        decay = -float((k * kept.log()).sum() / k.square().sum())
    return {"effective_rank": rank, "relative_rank": rank / largest, "decay": decay}
