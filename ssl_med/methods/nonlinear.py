"""Non-linear: undo a random intensity curve.

Paper: Zhou et al., "Models Genesis", Medical Image Analysis 67 (2021), whose intensity transform is used alone here.
Official code: github.com/MrGiovanni/ModelsGenesis @ 12f7feb (non-commercial licence; nothing of it is used here).

Where we differ, and why:
- every image is mapped; within Models Genesis nine in ten are.
- the curve is tabulated, see `transforms.intensity.apply_curve`; integer HU are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import GenesisConfig, Restoration
from ssl_med.transforms.intensity import nonlinear


class Nonlinear(Restoration):
    """Restores the original from `transforms.intensity.nonlinear`."""

    Config = GenesisConfig
    paper = Paper("Zhou et al.", "Models Genesis", "Medical Image Analysis 67", 2021)

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """A Bezier curve per image; half of them fall, which inverts the contrast."""
        return nonlinear(target, generator, p=1.0)
