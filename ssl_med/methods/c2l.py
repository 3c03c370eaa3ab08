"""C2L, comparing to learn: MoCo that also compares mixtures of images with mixtures of images and of keys.

Paper: Zhou et al., "Comparing to learn: surpassing ImageNet pretraining on radiographs by comparing image representations",
MICCAI 2020. Official code: github.com/funnyzhou/C2L_MICCAI2020 (no licence; nothing of it is used here).

With images x, a permutation of the batch and lambda = max(u, 1 - u), u ~ U(0, 1): both views are mixed with those of the
permuted images, and so are the teacher's keys. Loss: mean of the contrasts (q, k), (q of mixture, k of mixture) and
(q of mixture, mixture of k).

Where we differ, and why:
- InfoNCE with the positive in the denominator; `loss: nce` is the authors' noise-contrastive estimation, with its constant
  taken from the first batch as they do, without the 1e-5 in its denominators, which are as small.
- the keys of the plain views alone enter the queue: a mixture of an image is no fair negative of it.
- the teacher normalises with averaged running statistics (EMAN, Cai et al., CVPR 2021) instead of ShuffleBN.
- grey images: colour jitter reduces to brightness and contrast, random greyscale is left out. Volumes take the same steps,
  with cutout of boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.distributed import gather
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.pair import Embedding, ViewConfig, random_view
from ssl_med.methods.core.queue_contrast import QueueContrast
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import Projector
from ssl_med.networks.queue import Queue
from ssl_med.ranges import Count, Degrees, Positive, Range, Share, Width
from ssl_med.spec import Batch
from ssl_med.transforms.intensity import cutout
from ssl_med.transforms.spatial import small_rotation


@dataclass
class C2LConfig:
    """Defaults of the paper; `loss: nce` is the official code's."""

    view: ViewConfig = field(default_factory=lambda: ViewConfig(jitter=1.0, blur=0.0))
    """both views"""
    rotation_deg: Degrees = 10.0
    """largest in-plane rotation of a view"""
    holes: Annotated[int, Range(0, 1000)] = 3
    """boxes that are cut out of a view, each 32 / 224 of the sides"""
    loss: Literal["info_nce", "nce"] = "info_nce"
    """contrast with the queue"""
    mix_inputs: bool = True
    """compare mixtures of images"""
    mix_features: bool = True
    """compare mixtures of images with mixtures of keys"""
    temperature: Positive = 0.07
    """tau of the contrast"""
    momentum: Share = 0.999
    """EMA coefficient of the teacher"""
    queue: Count = 16384
    """number of keys"""
    out_dim: Width = 128
    """dimension of the contrasted embedding"""


class C2L(QueueContrast):
    """Plain, mixed and feature-mixed contrast with one queue."""

    Config = C2LConfig
    family = ("contrast",)
    paper = Paper(
        "Zhou et al.",
        "Comparing to learn: surpassing ImageNet pretraining on radiographs by comparing image representations",
        "MICCAI",
        2020,
    )
    metric = RETRIEVAL
    config: C2LConfig

    def build(self) -> None:
        """Linear projector, queue, and the constant of NCE (0 until the first batch)."""
        self.projector = Projector(self.backbone.out_channels, 0, self.config.out_dim, layers=1, entry=self.rescaling())
        self.queue = Queue(self.config.out_dim, self.config.queue)
        self.register_buffer("mean", torch.zeros(()))

    def after_init(self) -> None:
        """The teacher starts as a copy."""
        self.teacher = EMA(Embedding(self.backbone, self.projector))

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Two views, their mixtures with the views of other images, and which images these are in the global batch."""
        views = {key: self._view(batch["image"], generator) for key in ("query", "key")}
        if not (self.config.mix_inputs or self.config.mix_features):
            return views
        device, count = batch["image"].device, len(batch["image"])
        partner = torch.randperm(count, generator=generator, device=device)
        share = torch.rand((), generator=generator, device=device)
        views["share"] = torch.maximum(share, 1 - share)
        for key in ("query", "key") if self.config.mix_inputs else ("query",):
            views[f"{key}_mix"] = torch.lerp(views[key][partner], views[key], views["share"].to(views[key].dtype))
        views["partner"] = partner
        return views

    def _view(self, image: Tensor, generator: torch.Generator) -> Tensor:
        c = self.config
        view = random_view(image, generator, c.view)
        view = small_rotation(view, generator, degrees=c.rotation_deg) if c.rotation_deg else view
        return cutout(view, generator, holes=c.holes)

    def terms(self, views: Tensors) -> Tensors:
        """Mean of the contrasts; in training the new keys of all processes enter the queue after the loss is computed."""
        pooled = self.backbone.pool(self.backbone(views["query"]))
        q = F.normalize(to_float32(self.projector(pooled)), dim=1)
        k = self._key(views["key"])
        everyone = gather(k)
        self.settle(q, k)
        terms = {"contrast": self.contrast(q, k)}
        if "query_mix" in views:
            mixed = to_float32(self.projector(self.backbone.pool(self.backbone(views["query_mix"]))))
            if self.config.mix_inputs:
                terms["contrast_mix"] = self.contrast(mixed, self._key(views["key_mix"]))
            if self.config.mix_features:
                other = everyone[views["partner"].long()]
                terms["contrast_features"] = self.contrast(mixed, torch.lerp(other, k, views["share"].to(k.dtype)))
        loss = torch.stack(list(terms.values())).mean()
        if self.training:
            self.queue.push(everyone)
        pair = torch.stack([q.detach(), k])
        logged = {key: value.detach() for key, value in terms.items()}
        return {"loss": loss, **logged, "features": pooled.detach(), "pair": pair, **retrieval(*pair)}

    def _key(self, view: Tensor) -> Tensor:
        return F.normalize(to_float32(self.teacher(view)[1]), dim=1)

    def after_step(self) -> None:
        """The teacher follows the student."""
        self.teacher.update(Embedding(self.backbone, self.projector), self.config.momentum)
