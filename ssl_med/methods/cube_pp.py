"""Rubik's cube++: restore a volume whose cubes changed places and turned.

Paper: Tao et al., "Revisiting Rubik's cube: self-supervised learning with volume-wise transformation for 3D medical image
segmentation", MICCAI 2020. No official code known to us.

Where we differ, and why:
- the cubes are those of PCRL's comparison (Zhou et al., ICCV 2021): 64x64x32 voxels are 32 cubes of 16^3. Whether the paper
  permutes them, turns them or both is not in our sources; by default a random half does both, and each can be switched off.
  PCRL turns all of them and permutes none: that is the preset `cube_pp/pcrl`.
- half of the cubes stay, as the frame to which the others are restored. When all of them change places (`share: 1`), a crop
  from anywhere in a body has no such frame, and short trainings learned no more than the mean grey.
- turns are all rotations that keep a cube's shape, 24 of a cube, without interpolation. In 2D, which the paper does not
  treat, squares turn by quarters.
- the adversarial part is off by default (`adversarial: 0`), so that the comparison with other restoration methods is one of
  tasks. With it a Wasserstein critic with gradient penalty (Gulrajani et al. 2017) scores the restored volume beside the
  disarranged one; a third-party port weights it 0.01 of the restoration error. Validation leaves the critic out, because its
  scale drifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.critic import Critic
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.restoration import Restoration, RestorationConfig, cell_side
from ssl_med.ranges import NonNegative, Positive, PositiveShare, Side, Width
from ssl_med.setting import SET, setting
from ssl_med.spec import Batch, SslMedError
from ssl_med.transforms.cells import rearrange


@dataclass
class CubePPConfig(RestorationConfig):
    """What happens to the cubes, and who judges the result."""

    cube: tuple[Side, ...] = ()
    """side of a cube in voxels, a divisor of the crop's; empty: half of the crop's shortest side in 3D, a quarter in 2D"""
    permute: bool = True
    """cubes change places"""
    rotate: bool = True
    """cubes turn"""
    share: PositiveShare = 0.5
    """part of the cubes that it happens to"""
    adversarial: NonNegative = 0.0
    """weight of the critic's score; 0: no critic"""
    critic_channels: tuple[Width, ...] = setting(default=(32, 64, 128), needs={"adversarial": SET})
    """widths of the critic's levels"""
    critic_lr: Positive = setting(default=1e-4, needs={"adversarial": SET})
    """learning rate of the critic's Adam"""

    def __post_init__(self) -> None:
        if not (self.permute or self.rotate):
            raise SslMedError("method.permute and method.rotate are both false; nothing is left to restore")
        if self.adversarial > 0 and not self.critic_channels:
            raise SslMedError("method.critic_channels must name at least one width")


class CubePP(Restoration):
    """Restores the original from `transforms.cells.rearrange`."""

    Config = CubePPConfig
    paper = Paper(
        "Tao et al.",
        "Revisiting Rubik's cube: self-supervised learning with volume-wise transformation for 3D medical image segmentation",
        "MICCAI",
        2020,
    )
    config: CubePPConfig

    def build(self) -> None:
        """Checks the cubes against the crop before any data is read."""
        c, spec = self.config, self.spec
        side = min(spec.patch_size) // (2 if spec.spatial_dims == 3 else 4)
        self.cube = cell_side("method.cube", c.cube, spec, limit=[side] * spec.spatial_dims, cells=2)
        super().build()
        self.critic = None
        if c.adversarial > 0:
            self.critic = Critic(
                2 * spec.in_channels, c.critic_channels, spatial_dims=spec.spatial_dims, lr=c.critic_lr
            )

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Cubes in random order, each turned at random."""
        c = self.config
        return rearrange(target, generator, side=self.cube, share=c.share, permute=c.permute, rotate=c.rotate)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Also `mix` (B,), where the critic's slope is looked at."""
        views, image = super().views(batch, generator), batch["image"]
        if self.critic is not None:
            views["mix"] = torch.rand(len(image), generator=generator, device=image.device)
        return views

    def terms(self, views: Tensors) -> Tensors:
        """In training with a critic, it learns from this batch first, then its score is part of the loss."""
        restored, pyramid = self.restore(views["input"])
        restored = to_float32(restored)
        terms = self.compared(restored, pyramid, views)
        if self.critic is None or not self.training:
            return terms
        critic_loss = self.critic.learn(views["target"], restored, views["input"], views["mix"])
        with torch.autocast(restored.device.type, enabled=False):
            score = self.critic(restored, views["input"]).mean()
        return {
            **terms,
            "loss": terms["loss"] - self.config.adversarial * score,
            "restore": terms["loss"].detach(),
            "score": score.detach(),
            "critic": critic_loss,
        }
