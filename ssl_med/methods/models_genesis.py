"""Models Genesis: restore an image from intensity, texture and context corruptions.

Paper: Zhou et al., "Models Genesis", Medical Image Analysis 67 (2021); MICCAI 2019.
Official code: github.com/MrGiovanni/ModelsGenesis @ 12f7feb (non-commercial licence; nothing of it is used here).

Where we differ, and why:
- flips act on the spatial axes; in the official code one of the three flipped axes is the channel and z is never flipped.
- `windows` defaults to the paper's 1,000; the official code runs 10,000 (78.6 % instead of 16.0 % of the voxels change).
- windows of local shuffling read the original image and the last writer wins, as in the official code, so a few values
  are duplicated or lost, although the paper says that the distribution is kept.
- in 2D the z rule of every window is dropped; the official code has no 2D form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import ShuffleConfig, Shuffling
from ssl_med.ranges import Share
from ssl_med.setting import SET, setting
from ssl_med.transforms.corruptions import models_genesis


@dataclass
class ModelsGenesisConfig(ShuffleConfig):
    """Probabilities of the official `generate_pair`; 0 switches a transform off, so any combination is a config."""

    shuffle: Share = 0.5
    """local pixel shuffling"""
    nonlinear: Share = 0.9
    """Bezier intensity mapping, half of the draws decreasing"""
    paint: Share = 0.9
    """in- or out-painting, mutually exclusive"""
    inpaint_rate: Share = setting(default=0.2, needs={"paint": SET})
    """share of painting that is in-painting"""


class ModelsGenesis(Shuffling):
    """Restores the original from `transforms.corruptions.models_genesis`."""

    Config = ModelsGenesisConfig
    paper = Paper("Zhou et al.", "Models Genesis", "Medical Image Analysis 67", 2021)
    config: ModelsGenesisConfig

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Shuffle, map, paint, in the official order."""
        c = self.config
        return models_genesis(
            target,
            generator,
            shuffle=c.shuffle,
            windows=c.windows,
            nonlinear=c.nonlinear,
            paint=c.paint,
            inpaint_rate=c.inpaint_rate,
            maps=self.maps,
        )
