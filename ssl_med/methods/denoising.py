"""De-noising: remove additive Gaussian noise.

Paper: Vincent et al., "Stacked denoising autoencoders", JMLR 11 (2010); a baseline of Zhou et al., "Models Genesis", Medical
Image Analysis 67 (2021). No official code of the baseline.

Where we differ, and why:
- neither source gives a strength for CT: `sigma` defaults to a tenth of the intensity window (200 HU of 2000).
- noisy values are clipped to the window, as every input of the suite lies in [0, 1].
- the network is the suite's U-Net trained end to end, not a stack of layers trained one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import GenesisConfig, Restoration
from ssl_med.ranges import Positive
from ssl_med.transforms.intensity import gaussian_noise


@dataclass
class DenoisingConfig(GenesisConfig):
    """The same noise level for every image."""

    sigma: Positive = 0.1
    """standard deviation of the noise, as a share of the intensity window"""


class Denoising(Restoration):
    """Restores the original from `transforms.intensity.gaussian_noise`."""

    Config = DenoisingConfig
    paper = Paper("Vincent et al.", "Stacked denoising autoencoders", "JMLR 11", 2010)
    config: DenoisingConfig

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Adds N(0, sigma^2) to every voxel."""
        return gaussian_noise(target, generator, sigma=(self.config.sigma, self.config.sigma), p=1.0)
