"""In-painting: fill boxes that hold noise.

Paper: Pathak et al., "Context encoders: feature learning by inpainting", CVPR 2016, in the 3D form that Zhou et al., "Models
Genesis", Medical Image Analysis 67 (2021), use alone as a baseline.
Official code: github.com/MrGiovanni/ModelsGenesis @ 12f7feb (non-commercial licence; nothing of it is used here).

Where we differ, and why:
- no adversarial part (Pathak et al. add one): Models Genesis' baseline has none.
- up to five boxes of noise, by Models Genesis' window rules, in place of one empty region; one image in twenty keeps all
  its voxels, as in the official code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import GenesisConfig, Restoration
from ssl_med.transforms.corruptions import inpaint


class Inpainting(Restoration):
    """Restores the original from `transforms.corruptions.inpaint`."""

    Config = GenesisConfig
    paper = Paper("Pathak et al.", "Context encoders: feature learning by inpainting", "CVPR", 2016)

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Up to five boxes of noise."""
        return inpaint(target, generator)
