"""How many directions the features of each level use: effective rank, decay of the eigenvalues, and uniformity.

Papers: Roy and Vetterli, "The effective rank", EUSIPCO 2007; Garrido et al., "RankMe", ICML 2023 (the same number of a
self-supervised encoder's features, as a predictor of transfer); Wang and Isola, "Understanding contrastive representation
learning through alignment and uniformity on the hypersphere", ICML 2020.

With centred features X (N, d) and singular values s_k of X, p_k = s_k / sum(s):

- effective rank: exp(-sum p_k log p_k), between 1 (all images lie on a line) and min(N - 1, d);
- relative rank: effective rank / min(N - 1, d);
- decay: slope a of log(s_k^2) = c - a log(k) by least squares over the eigenvalues above 1e-6 of the largest; it is larger
  where few directions hold most of the variance;
- uniformity: log of the mean of exp(-2 |x - y|^2) over pairs of images whose features have length 1: 0 where all have one
  direction, more negative the more evenly they lie on the sphere. Alignment needs two views and is logged in pretrainings.

Where we deviate: RankMe does not centre the features; a constant offset then counts as a direction, which says nothing of
images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import curves
from ssl_med.features.core.images import Images
from ssl_med.finite import check_rows
from ssl_med.ranges import LARGEST, Range
from ssl_med.spec import SslMedError

_ROWS = 1024  # images whose distances to all others are held at once
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

    def measure(self, images: Images) -> Findings:
        """Numbers `levelK/effective_rank`, `relative_rank`, `decay` and `uniformity`, K = 0 for the finest level."""
        if images.count < self.config.min_images:
            raise SslMedError(
                f"kind=spectrum needs {self.config.min_images} images or more, there are {images.count}; raise images.cases"
            )
        numbers: dict[str, float] = {"images": float(images.count)}
        arrays = {}
        for number, features in enumerate(images.pooled_levels()):
            numbers |= {f"level{number}/{name}": value for name, value in spectrum(features).items()}
            numbers[f"level{number}/uniformity"] = uniformity(features)
            arrays[f"level{number}"] = eigenvalues(features).numpy()
        return Findings(numbers, f"level{number}/effective_rank", arrays=arrays)

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """The eigenvalues of the last level, as shares of the largest."""
        lines = {}
        for name, findings in found.items():
            last = max(findings.arrays, key=lambda key: int(key.removeprefix("level")))
            values = findings.arrays[last]
            kept = values[values > _FLOOR * values[0]] / values[0]
            lines[name] = (range(1, len(kept) + 1), kept)
        figure = curves(lines, title="Eigenvalues of the last level", x="rank", y="share of the largest", log="xy")
        caption = "A line that falls early: few directions hold most of what tells images apart."
        return [Drawing("spectrum", "eigenvalues by rank", figure, caption)]


def eigenvalues(features: Tensor) -> Tensor:
    """Eigenvalues of the covariance of features (N, d), times N, largest first: float64, min(N, d) of them."""
    check_rows([str(k) for k in range(len(features))], features, "features")
    x: Any = features.double()
    values: Tensor = torch.linalg.svdvals(x - x.mean(0)).square()
    return values


def spectrum(features: Tensor) -> dict[str, float]:
    """Effective rank, relative rank and decay of features (N, d), in float64; features that are all equal have rank 0."""
    squares = eigenvalues(features)
    values = squares.sqrt()
    largest = min(len(features) - 1, features.shape[1])
    if not values[0] > 0:
        return {"effective_rank": 0.0, "relative_rank": 0.0, "decay": float("nan")}
    share = values / values.sum()
    rank = float(torch.special.entr(share).sum().exp())
    kept = squares[squares > _FLOOR * squares[0]]
    decay = float("nan")
    if len(kept) > 1:
        k = torch.arange(1, len(kept) + 1, dtype=torch.float64).log()
        k = k - k.mean()
        decay = -float((k * kept.log()).sum() / k.square().sum())
    return {"effective_rank": rank, "relative_rank": rank / largest, "decay": decay}


def uniformity(features: Tensor) -> float:
    """Log of the mean Gaussian potential over pairs of features (N, d) on the unit sphere, in float64."""
    x = torch.nn.functional.normalize(features.double(), dim=1)
    total = 0.0
    for start in range(0, len(x), _ROWS):
        total += float((-2 * torch.cdist(x[start : start + _ROWS], x).square()).exp().sum())
    pairs = len(x) * (len(x) - 1)
    return math.log((total - len(x)) / pairs)
