"""Autoencoder: restore the image itself from a narrow code.

Paper: Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313 (2006); the
identity mapping among the ablations of Zhou et al., "Models Genesis", Medical Image Analysis 67 (2021). No official code of
the latter's ablation.

Where we differ, and why:
- `skips` defaults to false: through a U-Net's skips the image is copied and the encoder learns nothing. Models Genesis'
  ablation keeps them (`skips: true`).
- nothing is corrupted, so returning the input is the solution; the baseline solver beside the metric returns one grey value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.restoration import GenesisConfig, Restoration, grey_error


@dataclass
class AutoencoderConfig(GenesisConfig):
    """The code is the encoder's last level."""

    skips: bool = False
    """true: a U-Net, which can copy its input"""


class Autoencoder(Restoration):
    """Input and target are the same image."""

    Config = AutoencoderConfig
    any_intensity = True
    paper = Paper(
        "Hinton and Salakhutdinov", "Reducing the dimensionality of data with neural networks", "Science 313", 2006
    )
    config: AutoencoderConfig

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Nothing is corrupted."""
        return target.clone()

    def baseline(self, views: Tensors) -> Tensor:
        """One grey value per image."""
        return grey_error(views["target"])
