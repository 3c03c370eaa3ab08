"""Parts of the Rubik's cube tasks: sub-cubes in one of K orders, each turned or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.methods.core.about import ACCURACY
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.predictive import PatchConfig, PatchMethod, cells_of, classify
from ssl_med.networks.heads import Projector
from ssl_med.ranges import Range, Seed, Share, Width
from ssl_med.spec import Batch
from ssl_med.transforms.patches import permutation_set, permute
from ssl_med.transforms.rotations import apply_rotations, half_turns, rotations_of


@dataclass
class RubikConfig(PatchConfig):
    """Settings of sub-cubes, orders, turns and heads."""

    jitter: Share = 0.3
    """how far a sub-cube moves within its cell, as a share of the cell's side: a gap of 10 voxels of 64 on average"""
    standardize: bool = False
    """each sub-cube to mean 0 and variance 1"""
    grid: Annotated[int, Range(2, 3, special=(0,))] = 0
    """cells per axis, 2 or 3; 0: 3 in images, 2 in volumes"""
    permutations: Annotated[int, Range(2, 10**5)] = 100
    """number of orders K"""
    permutation_seed: Seed = 0
    """seed of the set of orders"""
    turns: Literal["half", "legal"] = "half"
    """half turns about two axes, or every quarter turn that the sub-cube's shape admits"""
    labels: Literal["slot", "original"] = "slot"
    """whether a turn is predicted for the slot that shows it or for the place that the sub-cube came from"""
    hidden_dim: Width = 1024
    """width of the hidden layer of each head"""


class Rubik(PatchMethod):
    """One encoder for all sub-cubes; heads read the concatenated features. A subclass weights the losses."""

    metric = ACCURACY
    config: RubikConfig
    orders: Tensor

    def build(self) -> None:
        """Adds grid, orders, turns and two heads."""
        c = self.config
        self.make_grid(cells_of(c.grid, self.spec.spatial_dims))
        self.rotations = half_turns(self.spec.spatial_dims) if c.turns == "half" else rotations_of(self.grid.patch)
        self.register_buffer("orders", permutation_set(self.grid.cells, c.permutations, seed=c.permutation_seed))
        self.rescale = self.rescaling(per_image=self.grid.cells)
        self.order_head = self.make_head(self.grid.cells, c.permutations)
        if c.labels == "slot":
            self.rotation_head = self.make_head(1, len(self.rotations) - 1)
        else:
            self.rotation_head = self.make_head(self.grid.cells, self.grid.cells * (len(self.rotations) - 1))

    def make_head(self, slots: int, outputs: int) -> Projector:
        """A head that maps the concatenated features of `slots` slots, (B, slots * d), to (B, outputs)."""
        return Projector(slots * self.backbone.out_channels, self.config.hidden_dim, outputs, layers=2, norm=False)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Shuffled and turned `patches` (B, P, C, *patch), the order's number `label` (B,), `turned` (B, P).

        turned[b, i] is the rotation, uniform over all, in which slot i shows its sub-cube, or with `labels: original` the
        one of the sub-cube that came from cell i.
        """
        image, classes = batch["image"], len(self.rotations)
        label = torch.randint(0, len(self.orders), (len(image),), generator=generator, device=image.device)
        order = self.orders[label]
        patches = permute(self.cut(image, generator), order)
        which = torch.randint(0, classes, order.shape, generator=generator, device=image.device)
        patches = apply_rotations(patches.flatten(0, 1), which.flatten(), self.rotations).view_as(patches)
        turned = permute(which, order.argsort(1)) if self.config.labels == "original" else which
        return {"patches": patches, "label": label, "turned": turned}

    def solve(self, views: Tensors) -> tuple[Tensors, Tensor]:
        """Terms "order" and "rotation", their accuracies, and the features of each slot as heads see them (B, P, d)."""
        encoded = self.encode(views["patches"])
        features = self.rescale(encoded)
        joined = features.flatten(1)
        order = classify(self.order_head(joined), views["label"])
        by_slot = self.config.labels == "slot"
        logits = to_float32(self.rotation_head(features if by_slot else joined)).view(-1, len(self.rotations) - 1)
        turned = views["turned"].flatten()
        found = torch.where(logits.amax(1) > 0, logits.argmax(1) + 1, 0)
        terms = {
            "order": order["loss"],
            "rotation": turn_loss(logits, turned, exclusive=self.config.turns == "legal"),
            "rotation_accuracy": (found == turned).float().mean(),
            "metric": order["metric"],
            "baseline": order["baseline"],
            "features": encoded[:, 0].detach(),
        }
        return terms, features


def turn_loss(logits: Tensor, turned: Tensor, *, exclusive: bool) -> Tensor:
    """Mean binary cross-entropy of "turned by rotation r + 1", or cross-entropy over all rotations with logit 0 for none.

    Args:
        logits: (N, R - 1).
        turned: (N,) int64, 0 for none.
        exclusive: cross-entropy; a binary one would be swamped by the many turns that a sub-cube did not make.
    """
    if exclusive:
        return F.cross_entropy(F.pad(logits, (1, 0)), turned)
    target = F.one_hot(turned, logits.shape[1] + 1)[:, 1:].to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target)
