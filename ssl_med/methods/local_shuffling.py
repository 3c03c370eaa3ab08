"""Local shuffling: put back voxels that changed places within small windows.

Paper: Zhou et al., "Models Genesis", Medical Image Analysis 67 (2021), whose local pixel shuffling is used alone here.
Official code: github.com/MrGiovanni/ModelsGenesis @ 12f7feb (non-commercial licence; nothing of it is used here).

Where we differ, and why:
- every image is shuffled; within Models Genesis every second one is.
- `windows` defaults to the paper's 1,000; the official code runs 10,000 (78.6 % instead of 16.0 % of the voxels change).
- windows read the original image and the last writer wins, as in the official code, so a few values are duplicated or
  lost, although the paper says that the distribution is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import ShuffleConfig, Shuffling


class LocalShuffling(Shuffling):
    """Restores the original from `transforms.corruptions.local_shuffle`."""

    Config = ShuffleConfig
    any_intensity = True
    paper = Paper("Zhou et al.", "Models Genesis", "Medical Image Analysis 67", 2021)

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Each window's voxels in random order."""
        return self.shuffled(target, generator)
