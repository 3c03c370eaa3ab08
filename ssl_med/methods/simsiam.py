"""SimSiam: predict the same network's embedding of another view, without negatives and without a teacher.

Paper: Chen and He, "Exploring simple Siamese representation learning", CVPR 2021.
Official code: github.com/facebookresearch/simsiam (CC BY-NC; nothing of it is used here).

Only the stopped gradient keeps the embeddings from collapsing (Sec. 4.1); the predictor and batch normalisation in the
projector are needed to learn well (Sec. 4.2, 4.4).

Where we differ, and why:
- the loss is 2 + 2 D, the squared distance of unit vectors, and not D itself, the negative cosine in [-1, 1]: it has the same
  gradient up to the factor 2 by which the paper's learning rate is halved, is 0 when views agree, and is BYOL's measure.
- both views pass as one batch, so that batch statistics are over both and not over each; they have one distribution.
- the predictor's learning rate falls with that of all other weights; in the paper that costs half a point of
  accuracy (Table 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ssl_med.losses.distillation import cosine_distance
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.pair import TwoViewConfig, random_view
from ssl_med.networks.heads import Projector
from ssl_med.ranges import Width
from ssl_med.spec import Batch


@dataclass
class SimSiamConfig(TwoViewConfig):
    """Defaults of the paper; views are MoCo v2's."""

    out_dim: Width = 2048
    """dimension of the embedding, and width of the projector's hidden layers"""
    bottleneck: Width = 512
    """width of the predictor's hidden layer, a quarter of the embedding in the paper"""


class SimSiam(Method):
    """One network for both views, a predictor behind one of them, and no gradient through the other."""

    Config = SimSiamConfig
    family = ("self-distillation",)
    paper = Paper("Chen and He", "Exploring simple Siamese representation learning", "CVPR", 2021)
    metric = RETRIEVAL
    config: SimSiamConfig

    def build(self) -> None:
        """A projector of three layers, normalised also behind the last one, and a predictor with a bottleneck."""
        c = self.config
        entry = self.rescaling()
        self.projector = Projector(self.backbone.out_channels, c.out_dim, c.out_dim, layers=3, entry=entry)
        self.output_norm = nn.BatchNorm1d(c.out_dim, affine=False)
        self.predictor = Projector(c.out_dim, c.bottleneck, c.out_dim)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Two views of one distribution."""
        return {key: random_view(batch["image"], generator, self.config.view) for key in ("view1", "view2")}

    def terms(self, views: Tensors) -> Tensors:
        """The mean of the squared distances of p1 from z2 and of p2 from z1 (eq. 2 to 4); both views pass as one batch."""
        pooled = self.backbone.pool(self.backbone(torch.cat([views["view1"], views["view2"]])))
        z = self.output_norm(self.projector(pooled))
        p1, p2 = to_float32(self.predictor(z)).chunk(2)
        z1, z2 = to_float32(z.detach()).chunk(2)
        loss = (cosine_distance(p1, z2) + cosine_distance(p2, z1)) / 2
        pair = F.normalize(p1.detach(), dim=1), F.normalize(z2, dim=1)
        return {"loss": loss, "features": pooled[: len(p1)].detach(), "pair": torch.stack(pair), **retrieval(*pair)}
