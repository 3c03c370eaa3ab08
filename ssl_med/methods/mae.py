"""MAE: restore masked patches from the visible ones.

Paper: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022. Official code:
github.com/facebookresearch/mae (CC BY-NC; nothing of it is used here).

Where we differ, and why:
- the network is the suite's U-Net or ResNet, so that the comparison is of methods and not of networks. A convolution
  cannot leave masked patches out as a vision transformer does: they hold one learned value per modality (as in SimMIM, Xie et
  al., CVPR 2022), the whole crop is computed, and three quarters of the work are not saved.
- at transfer no patch is masked: the encoder then sees other statistics than in pretraining. Sparse convolutions (SparK,
  Tian et al., ICLR 2023) would mend that, at the price of another encoder.
- the decoder is the backbone's, with skips, in place of a small transformer.
- targets are intensities as data.normalisation gives them, in [0, 1] by default; the authors' better variant, patches
  normalised by their own mean and standard deviation, is `normalize: true`. In the air of a CT that is normalised noise.
- patches are 1/8 of the crop's sides, from 4 up to the paper's 16 pixels: a 64x64x32 crop has 8x8x8 of 8x8x4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.restoration import RestorationConfig, Restorer, cell_side
from ssl_med.ranges import Range, Side
from ssl_med.spec import Batch, SslMedError
from ssl_med.transforms.cells import cells_mask, grid_of, join_cells, sample_cells, split_cells


@dataclass
class MAEConfig(RestorationConfig):
    """Defaults of the paper."""

    ratio: Annotated[float, Range(above=0, below=1)] = 0.75
    """share of the patches that are masked"""
    patch: tuple[Side, ...] = ()
    """side of a patch in voxels, a divisor of the crop's; empty: about S/8, from 4 to 16"""
    normalize: bool = False
    """targets normalised within each patch, and a linear output"""

    def __post_init__(self) -> None:
        if self.loss == "ssim":
            raise SslMedError("method.loss=ssim needs whole images; masked patches take mse or mae")


class MAE(Restorer):
    """The loss is the mean over masked voxels; every image has equally many."""

    Config = MAEConfig
    any_intensity = True
    paper = Paper("He et al.", "Masked autoencoders are scalable vision learners", "CVPR", 2022)
    config: MAEConfig

    @property
    def activation(self) -> Literal["sigmoid", "linear"]:
        """Normalised targets have no bounds."""
        return "linear" if self.config.normalize else super().activation

    def build(self) -> None:
        """Also the value that masked voxels show, one per modality."""
        size = self.spec.patch_size
        limit = [min(16, max(4, s // 8)) for s in size]
        self.patch = cell_side("method.patch", self.config.patch, self.spec, limit=limit, cells=2)
        super().build()
        self.token = nn.Parameter(torch.zeros(1, self.spec.in_channels, *[1] * self.spec.spatial_dims))

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """`image` (B, C, *S), `mask` (B, 1, *S), 1 where a patch is masked, and `target` like the image."""
        image = self.target(batch["image"], generator)
        size = image.shape[2:]
        count = math.prod(grid_of(size, self.patch))
        chosen = sample_cells(len(image), count, generator, share=self.config.ratio)
        mask = cells_mask(chosen, size, self.patch).to(image.dtype)
        return {"image": image, "mask": mask, "target": self.normalized(image) if self.config.normalize else image}

    def normalized(self, image: Tensor) -> Tensor:
        """Each patch and modality with mean 0 and variance 1."""
        parts = split_cells(image, self.patch)
        variance, mean = torch.var_mean(parts, dim=-1, keepdim=True)
        return join_cells((parts - mean) / (variance + 1e-6).sqrt(), image.shape[2:], self.patch)

    def restored(self, image: Tensor, generator: torch.Generator) -> Tensors:
        """What is masked, as the network completes it; what is visible stays, since nothing is learned of it.

        Values that are normalised by patch get the mean and deviation of the true patch back, as He et al. show them.
        """
        size = image.shape[2:]
        chosen = sample_cells(len(image), math.prod(grid_of(size, self.patch)), generator, share=self.config.ratio)
        mask = cells_mask(chosen, size, self.patch).to(image.dtype)
        corrupted = torch.lerp(image, self.token.to(mask.dtype), mask)
        found = to_float32(self.restore(corrupted)[0])
        if self.config.normalize:
            variance, mean = torch.var_mean(split_cells(image, self.patch), dim=-1, keepdim=True)
            parts = split_cells(found, self.patch) * (variance + 1e-6).sqrt() + mean
            found = join_cells(parts, size, self.patch)
        return {"corrupted": corrupted, "restored": torch.lerp(image, found, mask)}

    def terms(self, views: Tensors) -> Tensors:
        """Distance on what was masked."""
        mask, target = views["mask"], views["target"]
        restored, pyramid = self.restore(torch.lerp(views["image"], self.token.to(mask.dtype), mask))
        error = to_float32(restored) - target
        distance = error.abs() if self.config.loss == "mae" else error.square()
        grey = masked_mean(target, mask).view(-1, *[1] * (target.ndim - 1))  # the best single value, per image
        return {
            "loss": masked_mean(distance, mask).mean(),
            "features": self.backbone.pool(pyramid).detach(),
            "metric": masked_mean(error.detach().square(), mask).mean(),
            "baseline": masked_mean((target - grey).square(), mask).mean(),
        }


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked voxels of all channels: (B, C, *S), (B, 1, *S) -> (B,)."""
    return (x * mask).flatten(1).sum(1) / (mask.flatten(1).sum(1) * x.shape[1])
