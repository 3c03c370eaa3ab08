"""Segmentation losses: a sigmoid per region where regions may overlap, a softmax over classes that exclude each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.distributed import all_reduce_sum_with_grad
from ssl_med.slabs import slabs

TINY = 1e-5  # of nnU-Net: keeps an empty region defined and does nothing else


def dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0, over_batch: bool = False) -> Tensor:
    """1 - soft Dice, mean over batch and regions (Milletari et al. 2016, with plain sums in the denominator).

    Args:
        logits: (B, K, *S).
        target: (B, K, *S) in {0, 1}, of any number type.
        smooth: added to numerator and denominator: an empty region that is predicted empty costs nothing.
        over_batch: as in `soft_dice`.
    """
    both, total, _ = _summed(logits, target, exclusive=False, entropy=False)
    return _dice(both, total, smooth=smooth, over_batch=over_batch)


def dice_bce(logits: Tensor, target: Tensor, *, smooth: float = 1.0, over_batch: bool = False) -> Tensor:
    """Mean of soft Dice loss and voxel-wise binary cross-entropy; arguments as in `dice_loss`."""
    both, total, entropy = _summed(logits, target, exclusive=False)
    return (_dice(both, total, smooth=smooth, over_batch=over_batch) + entropy) / 2


def dice_ce(logits: Tensor, target: Tensor, *, exclusive: bool, over_batch: bool = False) -> Tensor:
    """Sum of soft Dice loss without the background and of cross-entropy, as nnU-Net (Isensee et al., Nature Methods 2021).

    Args:
        logits: (B, K, *S); of exclusive classes against the background, whose logit is 0.
        target: (B, K, *S) in {0, 1}; of exclusive classes at most one is 1.
        exclusive: a softmax over background and classes; else a sigmoid for each region, which may overlap.
        over_batch: as in `soft_dice`.
    """
    both, total, entropy = _summed(logits, target, exclusive=exclusive)
    return _dice(both, total, smooth=TINY, over_batch=over_batch) + entropy


def soft_dice(probability: Tensor, target: Tensor, *, smooth: float, over_batch: bool) -> Tensor:
    """1 - soft Dice, mean over regions, and over samples unless `over_batch`.

    Args:
        probability: (B, K, *S).
        target: (B, K, *S) in {0, 1}.
        smooth: added to numerator and denominator.
        over_batch: sums run over all samples of the batch, those of all processes, so that a sample in which a region is
            small or absent does not count as much as one that it fills.
    """
    return _dice(*_overlap(probability, target), smooth=smooth, over_batch=over_batch)


def _summed(logits: Tensor, target: Tensor, *, exclusive: bool, entropy: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """(B, K) probability inside the regions, (B, K) probability and region together, and the mean cross-entropy.

    Slab by slab where nothing is learned: a whole scan may be as large as memory allows.
    """
    pieces = slabs(logits, 2) if not logits.requires_grad else [slice(None)]
    found = [_terms(logits[:, :, piece], target[:, :, piece], exclusive, entropy) for piece in pieces]
    if len(found) == 1:
        return found[0]
    both, total, each = (torch.stack(column) for column in zip(*found, strict=True))
    shares = torch.tensor([logits[0, 0, piece].numel() / logits[0, 0].numel() for piece in pieces]).to(each)
    return both.sum(0), total.sum(0), (each * shares).sum()


def _terms(logits: Tensor, target: Tensor, exclusive: bool, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    target = target.to(logits.dtype)
    if not exclusive:
        each = F.binary_cross_entropy_with_logits(logits, target) if entropy else logits.new_zeros(())
        return *_overlap(logits.sigmoid(), target), each
    whole = torch.cat([torch.zeros_like(logits[:, :1]), logits], 1).log_softmax(1)
    numbers = torch.arange(1, target.shape[1] + 1, device=target.device)
    label = (target * numbers.view(-1, *[1] * (target.ndim - 2))).sum(1)
    return *_overlap(whole[:, 1:].exp(), target), F.nll_loss(whole, label.long())


def _overlap(probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    probability, truth = probability.flatten(2), target.flatten(2)
    return (probability * truth).sum(2), probability.sum(2) + truth.sum(2)


def _dice(both: Tensor, total: Tensor, *, smooth: float, over_batch: bool) -> Tensor:
    if over_batch:
        both, total = all_reduce_sum_with_grad(torch.stack([both.sum(0), total.sum(0)]))
    return (1 - (2 * both + smooth) / (total + smooth)).mean()


def against_others(logits: Tensor) -> Tensor:
    """(B, K, *S) logits of exclusive classes against the background -> log odds of each against the likeliest other.

    Positive where the class is the answer, so that they are read like those of regions.
    """
    if logits.shape[1] == 1:
        return logits
    if not logits.requires_grad and len(pieces := slabs(logits, 2)) > 1:
        odds = torch.empty_like(logits)
        for piece in pieces:
            odds[:, :, piece] = against_others(logits[:, :, piece])
        return odds
    top = logits.topk(2, dim=1).values
    best, second = top[:, :1], top[:, 1:]
    others = torch.where(logits == best, second, best)
    return logits - others.clamp_min(0)


def supervision_weights(scales: int) -> list[float]:
    """Weights of the losses of so many scales of a decoder, finest first: 1, 1/2, 1/4 ... and 0 for the coarsest, of sum 1.

    Source: nnU-Net (Isensee et al., Nature Methods 2021), `_build_loss`.
    """
    raw = [*(0.5**k for k in range(scales - 1)), 0.0]
    return [weight / sum(raw) for weight in raw]


def shrunk(mask: Tensor, size: torch.Size) -> Tensor:
    """(B, K, *S) -> (B, K, *size): the voxel in the middle of each coarse one."""
    return F.interpolate(mask, size=tuple(size), mode="nearest-exact")
