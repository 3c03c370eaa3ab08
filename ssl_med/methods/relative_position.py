"""Relative position: predict in which direction a second patch lies from the first.

Papers: Doersch et al., "Unsupervised visual representation learning by context prediction", ICCV 2015 (8 directions in
images); Taleb et al., "3D self-supervised methods for medical imaging", NeurIPS 2020 (26 in volumes).
Code consulted for numbers: github.com/open-mmlab/mmselfsup (Apache-2.0), github.com/HealthML/self-supervised-3d-tasks (MIT).

The crop is cut into 3 cells per axis; the pair is a patch of the central cell and one of another cell. Labels count the other
cells row by row, the last axis fastest.

Where we differ, and why:
- each patch is brought to mean 0 and variance 1 (`standardize`), because absolute brightness would tell its place in CT.
- no dropout in the head: what is random belongs to the views, or N devices would not agree with one.
- the 3D code's jitter is 3 voxels of 42; the share of the images' 255 pixels (21 of 85) is used for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.methods.core.about import ACCURACY, Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.predictive import PatchConfig, PatchMethod, classify
from ssl_med.networks.heads import Projector
from ssl_med.ranges import Width
from ssl_med.spec import Batch


@dataclass
class RelativePositionConfig(PatchConfig):
    """The paper leaves half a patch between neighbours (`gap: 0.33`); jitter alone does so on average."""

    hidden_dim: Width = 4096
    """width of the head's hidden layer"""


class RelativePosition(PatchMethod):
    """Shared encoder, concatenated features of both patches, two-layer classifier."""

    Config = RelativePositionConfig
    any_intensity = True
    paper = Paper("Doersch et al.", "Unsupervised visual representation learning by context prediction", "ICCV", 2015)
    metric = ACCURACY
    config: RelativePositionConfig

    def build(self) -> None:
        """3 cells per axis and as many classes as there are cells around the centre."""
        self.make_grid((3,) * self.spec.spatial_dims)
        self.classes = self.grid.cells - 1
        self.rescale = self.rescaling(per_image=2)
        self.head = Projector(2 * self.backbone.out_channels, self.config.hidden_dim, self.classes, layers=2, norm=True)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """`pair` (B, 2, C, *patch), the central patch first, and `label` (B,)."""
        image = batch["image"]
        label = torch.randint(0, self.classes, (len(image),), generator=generator, device=image.device)
        centre = self.classes // 2
        other = label + (label >= centre).long()
        cells = torch.stack([torch.full_like(other, centre), other], 1)
        return {"pair": self.cut(image, generator, cells), "label": label}

    def terms(self, views: Tensors) -> Tensors:
        """Cross-entropy over directions."""
        features: Tensor = self.encode(views["pair"])
        return {
            **classify(self.head(self.rescale(features).flatten(1)), views["label"]),
            "features": features[:, 0].detach(),
        }
