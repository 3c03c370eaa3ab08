"""Patch shuffling: put the cells of a grid back where they were.

Paper: a baseline of Zhou et al., "Models Genesis", Medical Image Analysis 67 (2021), after Chen et al., "Self-supervised
learning for medical image analysis using image context restoration", Medical Image Analysis 58 (2019). No official code of
the baseline.

Where we differ, and why:
- Models Genesis' sources do not say how patches are drawn. Ours are isolated: cells of a grid, of which a random half changes
  places in one random permutation. `context_restoration` is Chen et al.'s own form, patches anywhere, swapped one pair after
  the other.
- side and share are not in our sources: the side is that of context_restoration, cut to a divisor of the crop's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import Restoration, RestorationConfig, cell_side
from ssl_med.ranges import PositiveShare, Side
from ssl_med.transforms.cells import rearrange


@dataclass
class PatchShufflingConfig(RestorationConfig):
    """Which patches move."""

    patch: tuple[Side, ...] = ()
    """side of a patch in voxels, a divisor of the crop's; empty: about S/7 in 2D, S/4 in 3D"""
    share: PositiveShare = 0.5
    """part of the patches that change places"""


class PatchShuffling(Restoration):
    """Restores the original from `transforms.cells.rearrange`."""

    Config = PatchShufflingConfig
    any_intensity = True
    paper = Paper("Zhou et al.", "Models Genesis", "Medical Image Analysis 67", 2021)
    config: PatchShufflingConfig

    def build(self) -> None:
        """Checks the patch against the crop before any data is read."""
        part = 7 if self.spec.spatial_dims == 2 else 4
        limit = [max(1, s // part) for s in self.spec.patch_size]
        self.patch = cell_side("method.patch", self.config.patch, self.spec, limit=limit, cells=2)
        super().build()

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """One random permutation of the chosen cells."""
        return rearrange(target, generator, side=self.patch, share=self.config.share)
