"""Context restoration: undo the swapping of patches.

Paper: Chen et al., "Self-supervised learning for medical image analysis using image context restoration", Medical Image
Analysis 58 (2019). No official code.

Where we differ, and why:
- the paper's network is VGG-like; here every method shares the suite's backbone, or the comparison would be of networks. With
  `backbone=vgg16` it is the paper's, as far as the sources say: a pooling layer after a few single convolutions.
- the reconstruction path is the backbone's decoder, the paper's for segmentation. The one for classification is the preset
  `context_restoration/classification`; how many deconvolutions are "a few" is not in our sources: one for each halving.
- the number of swaps and the patch size are not in our sources: the defaults are a suggestion for 224^2 images (10 swaps
  of 32^2, one seventh of the side) and 64x64x32 crops (16x16x8, one quarter).
- the two patches of a swap never overlap, so the corrupted image holds exactly the original's values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.restoration import Restoration, RestorationConfig
from ssl_med.networks.deconvolution import Deconvolutions
from ssl_med.ranges import Natural, Side
from ssl_med.setting import setting
from ssl_med.spec import SslMedError
from ssl_med.transforms.corruptions import swap_patches


@dataclass
class ContextRestorationConfig(RestorationConfig):
    """The defaults are those of the paper for segmentation."""

    path: Literal["decoder", "deconvolution"] = setting(default="decoder", before="decoder")
    """reconstruction path: the backbone's decoder, or a few transposed convolutions, which are left behind"""
    skips: bool = setting(default=True, needs={"path": ("decoder",)})
    """whether the decoder sees the encoder's finer levels (U-Net) or only the last one"""
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

    def build_path(self) -> int:
        """The decoder, or deconvolutions, which do not travel."""
        if self.config.path == "decoder":
            return super().build_path()
        self.deconvolutions = Deconvolutions(
            self.backbone.channels, self.backbone.strides, norm=self.backbone_config.norm
        )
        return self.deconvolutions.out_channels

    def reconstruct(self, pyramid: list[Tensor]) -> Tensor:
        """Pyramid -> features at full resolution."""
        if self.config.path == "decoder":
            return super().reconstruct(pyramid)
        features: Tensor = self.deconvolutions(pyramid)
        return features

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Swap by swap on the current image."""
        return swap_patches(target, generator, swaps=self.config.swaps, patch=self.patch, disjoint=self.config.disjoint)
