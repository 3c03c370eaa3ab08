"""Measures of embeddings: signs of collapse, and retrieval of an image's second view by its first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.distributed import gather


@torch.no_grad()
def collapse(features: Tensor, pair: Tensor | None = None) -> dict[str, Tensor]:
    """Signs that all inputs are mapped to the same place or the same few directions.

    Args:
        features: (B, d).
        pair: (2, B, d), L2-normalised embeddings of the two views of each image.

    Returns:
        "collapse/feature_std": mean over dimensions of the standard deviation of L2-normalised features, times
        sqrt(d): 0 when collapsed, about 1 when isotropic. "collapse/effective_rank": exponential of the entropy of the
        centred features' normalised singular values (Roy and Vetterli 2007), at most min(B, d). With a pair also
        "collapse/alignment", mean squared distance of positives, and "collapse/uniformity", log of the mean of
        exp(-2 d^2) over pairs of different images of the first view (Wang and Isola 2020, alpha = t = 2); lower is
        better for both, and 0 is a collapsed uniformity. All are nan for features that are not finite.
    """
    features = to_float32(gather(features.detach()))
    unit = F.normalize(features, dim=1)
    std = unit.std(0).mean() * features.shape[1] ** 0.5
    centred = features - features.mean(0)
    # the decomposition would raise an error of its own; a run that has diverged is told by its loss and weights
    values = torch.linalg.svdvals(centred) if centred.isfinite().all() else centred.new_full((1,), torch.nan)
    share = values / values.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    signs = {"collapse/feature_std": std, "collapse/effective_rank": entropy.exp()}
    if pair is not None:
        first, second = (to_float32(gather(x.detach())) for x in pair)
        signs["collapse/alignment"] = (first - second).square().sum(1).mean()
        if len(first) > 1:
            signs["collapse/uniformity"] = torch.pdist(first).square().mul(-2).exp().mean().log()
    return signs


@torch.no_grad()
def retrieval(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Share of images whose first view is nearest to their own second view: the metric of two-view methods.

    Args:
        first: (B, d), L2-normalised.
        second: (B, d), L2-normalised.

    The batch is that of all processes.
    """
    first, second = gather(first), gather(second)
    hits = (first @ second.T).argmax(1) == torch.arange(len(first), device=first.device)
    return {"metric": hits.float().mean(), "baseline": first.new_tensor(1 / len(first))}


def to_float32(x: Tensor) -> Tensor:
    """Casts half precision to float32, in which losses and cosine similarities are computed."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
