"""SimCLR: agreement between two views against all other images of the batch.

Paper: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020.
Official code: github.com/google-research/simclr (Apache-2.0).

Where we differ, and why:
- the loss is the mean over the 2B anchors; the official code adds the means of the two halves, which is twice as much.
- grey images: colour jitter reduces to brightness and contrast, random greyscale has no effect and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch.nn import functional as F

from ssl_med.distributed import gather_with_grad, rank
from ssl_med.losses.contrastive import nt_xent
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.pair import TwoViewConfig, random_view
from ssl_med.networks.heads import Projector
from ssl_med.ranges import Positive, Range, Width
from ssl_med.spec import Batch


@dataclass
class SimCLRConfig(TwoViewConfig):
    """Defaults of the paper's ImageNet runs where they carry over to grey images."""

    temperature: Positive = 0.1
    """tau of NT-Xent (eq. 1)"""
    hidden_dim: Width = 2048
    """width of the projection head"""
    out_dim: Width = 128
    """dimension of the contrasted embedding"""
    layers: Annotated[int, Range(1, 100)] = 2
    """linear layers of the projection head"""


class SimCLR(Method):
    """Two views, one encoder, NT-Xent over the global batch."""

    Config = SimCLRConfig
    family = ("contrast",)
    paper = Paper("Chen et al.", "A simple framework for contrastive learning of visual representations", "ICML", 2020)
    metric = RETRIEVAL
    min_batch, in_batch_negatives = 2, True
    config: SimCLRConfig

    def build(self) -> None:
        """Projection head g."""
        c = self.config
        self.projector = Projector(self.backbone.out_channels, c.hidden_dim, c.out_dim, layers=c.layers, norm=True)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Two independent views per image."""
        return {key: random_view(batch["image"], generator, self.config.view) for key in ("view1", "view2")}

    def terms(self, views: Tensors) -> Tensors:
        """Both views pass the encoder as one batch, so that its normalisation sees both."""
        pooled = self.backbone.pool(self.backbone(torch.cat([views["view1"], views["view2"]])))
        z1, z2 = F.normalize(to_float32(self.projector(pooled)), dim=1).chunk(2)
        loss = nt_xent(
            z1,
            z2,
            temperature=self.config.temperature,
            all1=gather_with_grad(z1),
            all2=gather_with_grad(z2),
            offset=rank() * len(z1),
        )
        return {
            "loss": loss,
            "features": pooled[: len(z1)].detach(),
            "pair": torch.stack([z1, z2]).detach(),
            **retrieval(z1, z2),
        }
