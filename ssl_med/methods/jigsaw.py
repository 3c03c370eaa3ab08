"""Jigsaw: predict in which of K orders the patches of an image are shown.

Papers: Noroozi and Favaro, "Unsupervised learning of visual representations by solving jigsaw puzzles", ECCV 2016 (images);
Taleb et al., "3D self-supervised methods for medical imaging", NeurIPS 2020 (volumes).
Code consulted for numbers: github.com/facebookresearch/vissl (MIT), github.com/HealthML/self-supervised-3d-tasks (MIT).

Slot i shows patch order[i], where the order is one of K that are far from each other in Hamming distance.

Where we differ, and why:
- K = 100 (the 3D papers' number) instead of 2000: medical sets hold thousands of images, not millions.
- volumes have 2 cells per axis by default, `grid: 3` gives the 27 of Taleb et al.; 64x64x32 leaves no more for the network.
- orders are chosen greedily by largest smallest distance; the 3D code draws them at random.
- no dropout in the head: what is random belongs to the views, or N devices would not agree with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ssl_med.methods.core.about import ACCURACY, Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.predictive import PatchConfig, PatchMethod, cells_of, classify
from ssl_med.ranges import Range, Seed, Width
from ssl_med.spec import Batch
from ssl_med.transforms.patches import permutation_set, permute


@dataclass
class JigsawConfig(PatchConfig):
    """Cells, orders and head."""

    grid: Annotated[int, Range(2, 3, special=(0,))] = 0
    """cells per axis, 2 or 3; 0: 3 in images, 2 in volumes"""
    permutations: Annotated[int, Range(2, 10**5)] = 100
    """number of orders K"""
    permutation_seed: Seed = 0
    """seed by which the set of orders is drawn"""
    hidden_dim: Width = 1000
    """width to which each patch's features are brought before they are concatenated"""


class Jigsaw(PatchMethod):
    """Shared encoder and layer for every patch, one linear classifier of the concatenated result."""

    Config = JigsawConfig
    any_intensity = True
    paper = Paper(
        "Noroozi and Favaro", "Unsupervised learning of visual representations by solving jigsaw puzzles", "ECCV", 2016
    )
    metric = ACCURACY
    config: JigsawConfig
    orders: Tensor

    def build(self) -> None:
        """Grid, orders and head."""
        c = self.config
        self.make_grid(cells_of(c.grid, self.spec.spatial_dims))
        cells = self.grid.cells
        self.register_buffer("orders", permutation_set(cells, c.permutations, seed=c.permutation_seed))
        self.rescale = self.rescaling(per_image=cells)
        self.patch_head = nn.Sequential(nn.Linear(self.backbone.out_channels, c.hidden_dim), nn.ReLU())
        self.head = nn.Linear(cells * c.hidden_dim, c.permutations)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Shuffled `patches` (B, P, C, *patch) and the order's number, `label` (B,)."""
        image = batch["image"]
        label = torch.randint(0, len(self.orders), (len(image),), generator=generator, device=image.device)
        return {"patches": permute(self.cut(image, generator), self.orders[label]), "label": label}

    def terms(self, views: Tensors) -> Tensors:
        """Cross-entropy over orders."""
        features = self.encode(views["patches"])
        logits = self.head(self.patch_head(self.rescale(features)).flatten(1))
        return {**classify(logits, views["label"]), "features": features[:, 0].detach()}
