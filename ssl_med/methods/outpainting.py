"""Out-painting: restore what lies around a few boxes.

Paper: Zhou et al., "Models Genesis", Medical Image Analysis 67 (2021), whose out-painting is used alone here.
Official code: github.com/MrGiovanni/ModelsGenesis @ 12f7feb (non-commercial licence; nothing of it is used here).

Where we differ, and why:
- the paper says that less than a quarter of an image is painted; the boxes of the official code, which are ours, leave
  68 % painted on average. At MSE the network shows a blurred surrounding, not the one that was there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import GenesisConfig, Restoration
from ssl_med.transforms.corruptions import outpaint


class Outpainting(Restoration):
    """Restores the original from `transforms.corruptions.outpaint`."""

    Config = GenesisConfig
    paper = Paper("Zhou et al.", "Models Genesis", "Medical Image Analysis 67", 2021)

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Noise everywhere but in one to five boxes."""
        return outpaint(target, generator)
