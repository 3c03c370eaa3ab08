"""Whitened features, in which a cosine is near 0 for images that have nothing in common.

Paper: Anton et al. 2022, Sec. 4.4.3, after Ericsson et al., "Why do self-supervised models transfer?", 2021. With mean m and
covariance S of the features of N images, z(x) = (m - f(x)) L, where L L^T = (S + 1e-6 I)^-1. The cosine of two z depends on
L L^T alone, so that every such L serves; ours comes from the eigenvectors of S, in float64.

Shrinkage: with fewer images than features S has no inverse, and the ridge of 1e-6 gives the empty directions, which hold
nothing but rounding, the greatest weight. Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance
matrices", J. Multivariate Analysis 2004, replaces S by (1 - r) S + r (tr S / d) I with

    r = min(1, sum_k |x_k x_k^T - S|^2 / N^2 / |S - (tr S / d) I|^2),   S = mean of x_k x_k^T, centred.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_RIDGE = 1e-6


@dataclass(frozen=True)
class Whitening:
    """Mean (d,) and matrix L (d, d), float64; `shrinkage`: r, 0 where the covariance is taken as it is."""

    mean: Tensor
    matrix: Tensor
    shrinkage: float

    @classmethod
    def of(cls, features: Tensor, *, robust: bool) -> Whitening:
        """From the features (N, d) of N images; with `robust` by Ledoit and Wolf's estimate."""
        x = features.double()
        mean = x.mean(0)
        x = x - mean
        covariance = x.T @ x / (len(x) if robust else max(1, len(x) - 1))
        shrinkage = 0.0
        if robust:
            shrinkage, covariance = _shrunk(x, covariance)
        values, vectors = torch.linalg.eigh(covariance)
        return cls(mean, vectors * (values.clamp_min(0) + _RIDGE).rsqrt(), shrinkage)

    def __call__(self, features: Tensor) -> Tensor:
        """(..., d) -> (..., d) float64."""
        return (self.mean - features.double()) @ self.matrix


def _shrunk(x: Tensor, covariance: Tensor) -> tuple[float, Tensor]:
    count, width = x.shape
    target = torch.eye(width, dtype=x.dtype) * (covariance.trace() / width)
    spread = float((covariance - target).square().sum())
    # sum_k |x_k x_k^T - S|^2 = sum_k |x_k|^4 - N |S|^2
    noise = float(x.square().sum(1).square().sum() - count * covariance.square().sum()) / count**2
    share = min(1.0, noise / spread) if spread > 0 else 0.0
    return share, (1 - share) * covariance + share * target


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine along the last axis; 1 where both are the same, though they be 0."""
    lengths = a.norm(dim=-1) * b.norm(dim=-1)
    found = (a * b).sum(-1) / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return torch.where((a == b).all(-1), torch.ones_like(found), found)


def chosen_whitening(features: Tensor, *, robust: bool) -> tuple[Whitening, list[str]]:
    """The whitening that an analysis takes, robust in any case where there are fewer images than features; and notes."""
    count, width = features.shape
    found = Whitening.of(features, robust=robust or count <= width)
    notes = [f"whitened by the covariance of {width} features over {count} images"]
    if found.shrinkage:
        reason = "" if robust else ", because there are no more images than features; images.cases=0 takes all"
        notes.append(f"the covariance is Ledoit and Wolf's, shrunk by {found.shrinkage:.3f}{reason}")
    return found, notes
