"""MoCo v2: contrast with a queue of keys from a slowly moving teacher.

Papers: He et al., "Momentum contrast for unsupervised visual representation learning", CVPR 2020; Chen et al., "Improved
baselines with momentum contrastive learning", arXiv 2003.04297.
Official code: github.com/facebookresearch/moco @ 7397dfe (MIT).

Where we differ, and why:
- instead of ShuffleBN the teacher normalises with averaged running statistics (EMAN, Cai et al., CVPR 2021): nothing
  leaks between query and key, and the result does not depend on the number of devices.
- the queue takes any batch size (it wraps around); the official code needs a divisor of its length. It starts with the
  first batch's keys in all places, not with random directions (networks/queue.py says why).
- grey images: colour jitter reduces to brightness and contrast, random greyscale is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ssl_med.distributed import gather
from ssl_med.losses.contrastive import info_nce
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.pair import Embedding, TwoViewConfig, random_view
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import Projector
from ssl_med.networks.queue import Queue, own_keys
from ssl_med.ranges import Count, Positive, Share, Width
from ssl_med.spec import Batch, SslMedError


@dataclass
class MoCoConfig(TwoViewConfig):
    """Defaults of MoCo v2; v1 is `head: linear`, `temperature: 0.07` and `view.blur: 0`."""

    temperature: Positive = 0.2
    """tau of InfoNCE"""
    momentum: Share = 0.999
    """EMA coefficient m of the teacher"""
    queue: Count = 65536
    """number of keys K; a queue longer than the data set holds each image several times"""
    head: str = "mlp"
    """mlp (v2) or linear (v1)"""
    out_dim: Width = 128
    """dimension of the contrasted embedding"""

    def __post_init__(self) -> None:
        if self.head not in ("mlp", "linear"):
            raise SslMedError(f"method.head is '{self.head}'; it must be mlp or linear")


class MoCo(Method):
    """Query from the student, positive key from the teacher, negatives from the queue."""

    Config = MoCoConfig
    family = ("contrast",)
    paper = Paper("He et al.", "Momentum contrast for unsupervised visual representation learning", "CVPR", 2020)
    metric = RETRIEVAL
    config: MoCoConfig

    def build(self) -> None:
        """Projector (the v2 head is as wide as the features) and queue."""
        width = self.backbone.out_channels
        layers = 2 if self.config.head == "mlp" else 1
        self.projector = Projector(width, width, self.config.out_dim, layers=layers, norm=False, entry=self.rescaling())
        self.queue = Queue(self.config.out_dim, self.config.queue)

    def after_init(self) -> None:
        """The teacher starts as a copy."""
        self.teacher = EMA(Embedding(self.backbone, self.projector))

    def check_batch_size(self, batch_size: int, samples: int) -> list[str]:
        """Says when former keys of an image are among its negatives."""
        return [*super().check_batch_size(batch_size, samples), *own_keys(self.config.queue, samples)]

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Two independent views per image."""
        return {key: random_view(batch["image"], generator, self.config.view) for key in ("query", "key")}

    def terms(self, views: Tensors) -> Tensors:
        """InfoNCE; in training the new keys of all processes enter the queue after the loss is computed."""
        pooled = self.backbone.pool(self.backbone(views["query"]))
        q = F.normalize(to_float32(self.projector(pooled)), dim=1)
        with torch.no_grad():
            k = F.normalize(to_float32(self.teacher(views["key"])[1]), dim=1)
        loss = info_nce(q, k, self.queue.keys, temperature=self.config.temperature)
        if self.training:
            self.queue.push(gather(k))
        pair = torch.stack([q, k]).detach()
        return {"loss": loss, "features": pooled.detach(), "pair": pair, **retrieval(q, k)}

    @property
    def validation_is_comparable(self) -> bool:
        """Only once the queue is full: negatives that it holds several times make the first losses differ."""
        return self.queue.full

    def after_step(self) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q."""
        self.teacher.update(Embedding(self.backbone, self.projector), self.config.momentum)
