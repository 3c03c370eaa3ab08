"""Rotation: predict by which quarter turns an image was rotated.

Papers: Gidaris et al., "Unsupervised representation learning by predicting image rotations", ICLR 2018 (images); Taleb et
al., "3D self-supervised methods for medical imaging", NeurIPS 2020 (volumes).
Official code: github.com/gidariss/FeatureLearningRotNet (MIT); github.com/HealthML/self-supervised-3d-tasks (MIT).

Classes are the identity and all quarter turns about one axis that the crop's shape admits: 4 for a square image, 10 for a
cube (both papers), 6 for a crop with two equal sides such as 64x64x32, 4 for three different ones, 2 for an oblong image.

Where we differ, and why:
- crops that are no cubes have fewer classes instead of being resampled; nothing is ever interpolated.
- the head is linear on the pooled features: what it can read is what transfers.
- orientation that is printed on an image (markers, borders) is a short cut; crops without borders are safer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.methods.core.about import ACCURACY, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.predictive import classify
from ssl_med.networks.heads import ClassificationHead
from ssl_med.ranges import Share
from ssl_med.spec import Batch
from ssl_med.transforms.rotations import apply_rotations, rotate, rotations_of
from ssl_med.transforms.spatial import flip


@dataclass
class RotationConfig:
    """Defaults of RotNet; its 3D form turns each volume once (`every: false`)."""

    every: bool = True
    """all rotations of each image in one batch, or one at random"""
    flip: Share = 0.5
    """probability of a left-right mirror before the rotation"""


class Rotation(Method):
    """Encoder and a linear classifier of rotations."""

    Config = RotationConfig
    any_intensity = True
    family = ("prediction",)
    paper = Paper("Gidaris et al.", "Unsupervised representation learning by predicting image rotations", "ICLR", 2018)
    metric = ACCURACY
    config: RotationConfig

    def build(self) -> None:
        """Classes follow from the crop's shape."""
        self.rotations = rotations_of(self.spec.patch_size)
        self.rescale = self.rescaling(per_image=len(self.rotations) if self.config.every else 1)
        self.head = ClassificationHead(self.backbone.out_channels, len(self.rotations))

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """`image` (B, R, C, *S) and its rotations `label` (B, R); R is 1 or the number of classes."""
        leftright = 1 if self.spec.spatial_dims == 2 else 0  # columns of an image; x of a volume
        image = flip(batch["image"], generator, p=self.config.flip, axes=(leftright,))
        classes, device = len(self.rotations), image.device
        if self.config.every:
            turned: Tensor = torch.stack([rotate(image, rotation) for rotation in self.rotations], 1)
            return {"image": turned, "label": torch.arange(classes, device=device).repeat(len(image), 1)}
        label = torch.randint(0, classes, (len(image),), generator=generator, device=device)
        return {"image": apply_rotations(image, label, self.rotations)[:, None], "label": label[:, None]}

    def terms(self, views: Tensors) -> Tensors:
        """Cross-entropy over all rotated images."""
        pooled = self.backbone.pool(self.backbone(views["image"].flatten(0, 1)))
        copies = views["image"].shape[1]
        return {
            **classify(self.head(self.rescale(pooled)), views["label"].flatten()),
            "features": pooled[::copies].detach(),
        }
