"""Rubik's cube+: as `rubik_cube`, and also predict which sub-cubes were masked.

Paper: Zhu et al., "Rubik's Cube+: a self-supervised feature learning framework for 3D medical image analysis", Medical Image
Analysis 64 (2020). No official code.

Every sub-cube is masked with probability 1/2; of a masked one each voxel is set to 0 with probability 1/2, in all channels.

Where we differ, and why: as in `rubik_cube`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.rubik import Rubik, RubikConfig
from ssl_med.ranges import NonNegative, Share
from ssl_med.setting import SET, setting
from ssl_med.spec import Batch
from ssl_med.transforms._sampling import uniform


@dataclass
class RubikCubePlusConfig(RubikConfig):
    """Defaults of the paper: three tasks of equal weight."""

    mask: Share = 0.5
    """probability of a sub-cube to be masked"""
    mask_voxels: Share = setting(default=0.5, needs={"mask": SET})
    """probability of a voxel of a masked sub-cube to be 0"""
    order_weight: NonNegative = 1 / 3
    """weight of the order's cross-entropy"""
    rotation_weight: NonNegative = 1 / 3
    """weight of the turns' binary cross-entropy"""
    mask_weight: NonNegative = 1 / 3
    """weight of the masks' binary cross-entropy"""


class RubikCubePlus(Rubik):
    """Order, turns and masks."""

    Config = RubikCubePlusConfig
    paper = Paper(
        "Zhu et al.",
        "Rubik's Cube+: a self-supervised feature learning framework for 3D medical image analysis",
        "Medical Image Analysis 64",
        2020,
    )
    config: RubikCubePlusConfig

    def build(self) -> None:
        """A third head."""
        super().build()
        self.mask_head = self.make_head(1, 1)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """As the cube's, and `masked` (B, P) in {0, 1}, by slot."""
        views = super().views(batch, generator)
        patches = views["patches"]
        masked = uniform(generator, *patches.shape[:2]) < self.config.mask
        lost = uniform(generator, *patches.shape[:2], 1, *patches.shape[3:]) < self.config.mask_voxels
        lost &= masked.view(*masked.shape, *[1] * (patches.ndim - 2))
        return views | {"patches": patches.masked_fill(lost, 0.0), "masked": masked.to(patches.dtype)}

    def terms(self, views: Tensors) -> Tensors:
        """Weighted sum of three tasks."""
        c, masked = self.config, views["masked"]
        terms, features = self.solve(views)
        logits = to_float32(self.mask_head(features)).flatten(1)
        terms["mask"] = F.binary_cross_entropy_with_logits(logits, masked.to(logits.dtype))
        terms["mask_accuracy"] = ((logits.detach() > 0) == (masked > 0)).float().mean()
        loss = c.order_weight * terms["order"] + c.rotation_weight * terms["rotation"] + c.mask_weight * terms["mask"]
        return {"loss": loss, **terms}
