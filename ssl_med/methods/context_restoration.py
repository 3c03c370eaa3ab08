"""Context restoration: undo the swapping of patches.

Paper: Chen et al., "Self-supervised learning for medical image analysis using image context restoration", Medical Image
Analysis 58 (2019). No official code.

Where we differ, and why:
- the paper's network is VGG-like; here every method shares the suite's backbone, or the comparison would be of networks.
- the number of swaps and the patch size are not in our sources: the defaults are a suggestion for 224^2 images (10 swaps
  of 32^2, one seventh of the side) and 64x64x32 crops (16x16x8, one quarter).
- the two patches of a swap never overlap, so the corrupted image holds exactly the original's values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import Restoration, RestorationConfig
from ssl_med.ranges import Natural, Side
from ssl_med.spec import SslMedError
from ssl_med.transforms.corruptions import swap_patches


@dataclass
class ContextRestorationConfig(RestorationConfig):
    """`skips: true` is the paper's decoder for segmentation, `skips: false` the one for classification."""

    swaps: Natural = 10
    """number of swaps T"""
    patch: tuple[Side, ...] = ()
    """side of a swapped patch in voxels; empty: S/7 in 2D, S/4 in 3D"""
    disjoint: bool = False
    """isolated patches: no patch takes part in two swaps"""


class ContextRestoration(Restoration):
    """Restores the original from `transforms.corruptions.swap_patches`."""

    Config = ContextRestorationConfig
    any_intensity = True
    paper = Paper(
        "Chen et al.",
        "Self-supervised learning for medical image analysis using image context restoration",
        "Medical Image Analysis 58",
        2019,
    )
    config: ContextRestorationConfig

    def build(self) -> None:
        """Checks the patch against the crop before any data is read."""
        share = 7 if self.spec.spatial_dims == 2 else 4
        size = self.spec.patch_size
        self.patch = tuple(self.config.patch) or tuple(max(1, side // share) for side in size)
        if len(self.patch) != len(size) or any(p < 1 or 3 * p > s for p, s in zip(self.patch, size, strict=False)):
            raise SslMedError(
                f"method.patch {list(self.patch)} does not fit data.patch_size {list(size)}: "
                "give one number per axis, each at most a third of the crop"
            )
        super().build()

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Swap by swap on the current image."""
        return swap_patches(target, generator, swaps=self.config.swaps, patch=self.patch, disjoint=self.config.disjoint)
