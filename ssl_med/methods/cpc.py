"""Contrastive predictive coding: predict the codes of patches further down from those above.

Papers: van den Oord et al., "Representation learning with contrastive predictive coding", arXiv 1807.03748, 2018 (images: 7x7
patches that overlap by half); Taleb et al., "3D self-supervised methods for medical imaging", NeurIPS 2020 (3D-CPC: 4x4x4
patches). Official code of the latter: github.com/HealthML/self-supervised-3d-tasks (MIT).

Patches pass one encoder; a GRU reads the codes of a column along the first axis (rows of an image, x of a volume); from its
state at row t one linear map per step k predicts the code at row t + k. InfoNCE: the true code among those of all patches of
the global batch. Rows that overlap the context are not predicted.

The encoder must not average over patches: batch normalisation carries statistics of the patches to be predicted into the
context. So the method's yaml sets `backbone.norm: group`; keep it unless you want to measure the leak.

Where we differ, and why:
- the paper on volumes states InfoNCE, its code learns a binary classification: that is `loss: bce`, from the state at the row
  above the middle, all rows below at once, one negative column per column.
- with `bce` the negative column is drawn from the next image of the batch instead of from any, so that N devices agree with
  one.
- the code's context is a pyramid of neighbours that widens upwards; ours is the column itself.
- scores z·ẑ are divided by sqrt(d) in InfoNCE, so that they start at unit scale whatever the code's length; in `bce` they are
  means over dimensions and rows, as in the code.
- each patch is brought to mean 0 and variance 1 (`standardize`): with grey values in [0, 1] and group normalisation the codes
  differed so little that 30 steps on chest radiographs taught nothing.
- features are averaged over a patch before the code; the 3D code flattens them.
- the code's random 7/8 crop of each patch, padded back, is a jitter of 1/8 here, without padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.distributed import gather_with_grad, rank
from ssl_med.methods.core.about import ACCURACY, Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.predictive import PatchConfig, PatchMethod
from ssl_med.ranges import Range, Share, Width
from ssl_med.setting import setting
from ssl_med.spec import Batch, SslMedError
from ssl_med.transforms.spatial import flip


@dataclass
class CPCConfig(PatchConfig):
    """Patches, code, context, loss."""

    loss: Literal["nce", "bce"] = "nce"
    """InfoNCE, or the binary classification of the 3D code"""
    grid: Annotated[int, Range(2, 64, special=(0,))] = 0
    """patches per axis; 0: 7 in images, 4 in volumes"""
    jitter: Share = 1 / 8
    """how far a patch moves within its cell, as a share of the cell's side"""
    flip: Share = 0.5
    """probability of each patch to be mirrored along the first axis"""
    steps: Annotated[int, Range(1, 64)] = setting(default=5, needs={"loss": ("nce",)})
    """nce: rows predicted ahead, at most what the grid holds"""
    code_dim: Width = 1024
    """dimension d of a code z"""
    context_dim: Width = 256
    """state of the GRU"""


class CPC(PatchMethod):
    """Encoder, code, GRU and one linear predictor per step."""

    Config = CPCConfig
    any_intensity = True
    paper = Paper(
        "van den Oord et al.", "Representation learning with contrastive predictive coding", "arXiv 1807.03748", 2018
    )
    metric = ACCURACY
    in_batch_negatives = True
    config: CPCConfig

    def build(self) -> None:
        """Images: cells overlap by half, so the next row is skipped."""
        c, is_2d = self.config, self.spec.spatial_dims == 2
        side = c.grid or (7 if is_2d else 4)
        first = 2 if is_2d else 1
        self.middle = side // 2 - 1
        farthest = side - 1 if c.loss == "nce" else side - 1 - self.middle
        last = min(farthest, first + c.steps - 1) if c.loss == "nce" else farthest
        if side < 2 or last < first:
            raise SslMedError(f"method.grid is {c.grid}; prediction needs at least {first + 1} rows of patches")
        self.make_grid((side,) * self.spec.spatial_dims, overlap=0.5 if is_2d else 0.0)
        self.steps = range(first, last + 1)
        self.code = nn.Linear(self.backbone.out_channels, c.code_dim)
        self.context = nn.GRU(c.code_dim, c.context_dim, batch_first=True)
        self.predictors = nn.ModuleList(nn.Linear(c.context_dim, c.code_dim) for _ in self.steps)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """`patches` (B, P, C, *patch); with `loss: bce` also each column's `negative` column (B, Q)."""
        patches = self.cut(batch["image"], generator)
        flipped = flip(patches.flatten(0, 1), generator, p=self.config.flip, axes=(0,)).view_as(patches)
        if self.config.loss == "nce":
            return {"patches": flipped}
        columns = self.grid.cells // self.grid.counts[0]
        shape, device = (len(patches), columns), patches.device
        return {"patches": flipped, "negative": torch.randint(0, columns, shape, generator=generator, device=device)}

    def terms(self, views: Tensors) -> Tensors:
        """InfoNCE or binary cross-entropy; "features" are those of the central patch."""
        features = self.encode(views["patches"])
        rows = self.grid.counts[0]
        codes = to_float32(self.code(features))
        codes = codes.view(len(codes), rows, -1, codes.shape[-1])  # (B, R, Q, d)
        columns = codes.transpose(1, 2)
        states = self.context(columns.flatten(0, 1))[0].view(*columns.shape[:3], -1).transpose(1, 2)
        solved = self.nce(codes, states) if self.config.loss == "nce" else self.bce(codes, states, views["negative"])
        return {**solved, "features": features[:, self.grid.cells // 2].detach()}

    def nce(self, codes: Tensor, states: Tensor) -> Tensors:
        """Mean over images, columns, contexts and steps of the cross-entropy of the true code among all codes.

        Args:
            codes: (B, R, Q, d).
            states: (B, R, Q, context).
        """
        candidates = gather_with_grad(codes).flatten(0, 2)
        mine = codes[..., 0].numel()
        own = torch.arange(rank() * mine, (rank() + 1) * mine, device=codes.device).view(codes.shape[:3])
        loss, hits, count = codes.new_zeros(()), codes.new_zeros(()), 0
        for step, predictor in zip(self.steps, self.predictors, strict=True):
            predicted = to_float32(predictor(states[:, :-step])).flatten(0, 2)
            target = own[:, step:].flatten()
            logits = predicted @ candidates.T / codes.shape[-1] ** 0.5
            loss = loss + F.cross_entropy(logits, target, reduction="sum")
            hits += (logits.detach().argmax(1) == target).sum()
            count += len(target)
        return {"loss": loss / count, "metric": hits / count, "baseline": codes.new_tensor(1 / len(candidates))}

    def bce(self, codes: Tensor, states: Tensor, negative: Tensor) -> Tensors:
        """Mean binary cross-entropy of true columns against columns of the next image of the global batch.

        Args:
            codes: (B, R, Q, d).
            states: (B, R, Q, context).
            negative: (B, Q), a column of the next image.
        """
        rows = [self.middle + step for step in self.steps]
        predicted = torch.stack([to_float32(p(states[:, self.middle])) for p in self.predictors], 1)  # (B, K, Q, d)
        start = rank() * len(codes)
        after = gather_with_grad(codes).roll(-1, 0)[start : start + len(codes), rows]
        index = negative[:, None, :, None].expand_as(predicted)
        scores = torch.stack([(predicted * z).mean((1, 3)) for z in (codes[:, rows], after.gather(2, index))])
        truth = torch.tensor([1.0, 0.0], dtype=scores.dtype, device=scores.device).view(2, 1, 1).expand_as(scores)
        return {
            "loss": F.binary_cross_entropy_with_logits(scores, truth),
            "metric": ((scores.detach() > 0) == (truth > 0)).float().mean(),
            "baseline": scores.new_tensor(0.5),
        }
