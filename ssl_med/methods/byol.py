"""BYOL: predict a slowly moving teacher's embedding of another view, without negatives.

Paper: Grill et al., "Bootstrap your own latent: a new approach to self-supervised learning", NeurIPS 2020.
Official code: github.com/google-deepmind/deepmind-research/tree/master/byol (Apache-2.0).

The teacher's coefficient tau rises from `momentum` to 1 along half a cosine over the training (Sec. 3.3, App. J).

Where we differ, and why:
- each view sees the augmentation that is its own (view 1 is always blurred, view 2 sometimes solarised), as in the paper;
  hue, saturation and greyscale do not exist on grey images.
- the default batch is far below the paper's 4,096, so that its recipe for 300 epochs (tau 0.99) is the one that is shipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.losses.distillation import cosine_distance
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.pair import Embedding, ViewConfig, random_view
from ssl_med.methods.core.schedule import Schedule, ScheduleConfig, cosine_to
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import Projector
from ssl_med.ranges import Share, Width
from ssl_med.spec import Batch


@dataclass
class BYOLConfig(ScheduleConfig):
    """Defaults of the paper's runs of 300 epochs; those of 1,000 epochs start at tau = 0.996."""

    view: ViewConfig = field(default_factory=lambda: ViewConfig(crop_scale=(0.08, 1.0), blur=1.0))
    """first view"""
    view2: ViewConfig = field(default_factory=lambda: ViewConfig(crop_scale=(0.08, 1.0), blur=0.1, solarize=0.2))
    """second view"""
    momentum: Share = 0.99
    """EMA coefficient tau of the teacher at the start; it ends at 1"""
    hidden_dim: Width = 4096
    """width of projector and predictor"""
    out_dim: Width = 256
    """dimension of the predicted embedding"""


class BYOL(Method):
    """Online network with predictor, and a teacher without; both views take both parts."""

    Config = BYOLConfig
    family = ("self-distillation",)
    paper = Paper(
        "Grill et al.", "Bootstrap your own latent: a new approach to self-supervised learning", "NeurIPS", 2020
    )
    metric = RETRIEVAL
    config: BYOLConfig

    def build(self) -> None:
        """Projector and predictor of equal shape, and the step count of tau."""
        c = self.config
        self.projector = Projector(self.backbone.out_channels, c.hidden_dim, c.out_dim, entry=self.rescaling())
        self.predictor = Projector(c.out_dim, c.hidden_dim, c.out_dim)
        self.schedule = Schedule(c)

    def after_init(self) -> None:
        """The teacher starts as a copy; it has no predictor."""
        self.teacher = EMA(Embedding(self.backbone, self.projector), batch_statistics=True)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Two views, each from its own distribution."""
        c, image = self.config, batch["image"]
        return {"view1": random_view(image, generator, c.view), "view2": random_view(image, generator, c.view2)}

    def terms(self, views: Tensors) -> Tensors:
        """L(p1, z2) + L(p2, z1) (eq. 2 and below); both views pass each network as one batch."""
        x = torch.cat([views["view1"], views["view2"]])
        pooled = self.backbone.pool(self.backbone(x))
        p1, p2 = to_float32(self.predictor(self.projector(pooled))).chunk(2)
        z1, z2 = to_float32(self.teacher(x)[1]).chunk(2)
        loss = cosine_distance(p1, z2) + cosine_distance(p2, z1)
        pair = _unit(p1, z2)
        return {"loss": loss, "features": pooled[: len(p1)].detach(), "pair": torch.stack(pair), **retrieval(*pair)}

    @property
    def tau(self) -> float:
        """Coefficient of the next update: 1 - (1 - tau_0) (cos(pi k / K) + 1) / 2."""
        return cosine_to(self.config.momentum, 1.0, self.schedule.share(self))

    def after_step(self) -> None:
        """Moves the teacher: xi <- tau xi + (1 - tau) theta."""
        self.teacher.update(Embedding(self.backbone, self.projector), self.tau)
        self.schedule.advance()


def _unit(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(first.detach(), dim=1), F.normalize(second, dim=1)
