"""SwAV: predict the cluster of one view from another, with clusters that a batch uses equally.

Paper: Caron et al., "Unsupervised learning of visual features by contrasting cluster assignments", NeurIPS 2020.
Official code: github.com/facebookresearch/swav (CC BY-NC 4.0; nothing of it is used here).

Embeddings are compared with prototypes; Sinkhorn's algorithm makes soft assignments q of the two large crops, and all other
crops must predict them (eq. 2). Assignments are made over the batch of all devices, and over a queue of recent embeddings
once `queue_from` of the training is done, because a batch is smaller than the number of prototypes.

Where we differ, and why:
- prototypes are normalised when they are used, the official code normalises them in place before each step: their gradient
  then lies in the sphere's tangent, and weight decay cannot move them.
- the queue sets in after a share of the training (15 of 400 epochs), and prototypes are frozen for a number of steps (one
  epoch of ImageNet): epochs of medical data sets are of any length.
- 300 prototypes instead of 3,000, ten times fewer, as the data sets here are ten times smaller and more.
- small crops have the sides nearest to 96 / 224 of a crop's that the network can halve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.distributed import gather, rank
from ssl_med.losses.distillation import sinkhorn, soft_cross_entropy
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.multicrop import MultiCropConfig, multi_crop, pool_crops, small_size
from ssl_med.methods.core.pair import ViewConfig
from ssl_med.methods.core.schedule import Schedule
from ssl_med.networks.heads import Projector, Prototypes
from ssl_med.networks.queue import Queue
from ssl_med.ranges import Natural, Positive, Range, Share, Width
from ssl_med.setting import SET, setting
from ssl_med.spec import Batch


@dataclass
class SwAVConfig(MultiCropConfig):
    """Defaults of the official run with batches of 256."""

    view: ViewConfig = field(default_factory=lambda: ViewConfig(crop_scale=(0.14, 1.0)))
    """the two large crops"""
    prototypes: Annotated[int, Range(2, 2**20)] = 300
    """number of clusters K"""
    temperature: Positive = 0.1
    """tau of the predictions"""
    epsilon: Positive = 0.05
    """entropy of Sinkhorn's assignments"""
    iterations: Annotated[int, Range(1, 10**4)] = 3
    """iterations of Sinkhorn's algorithm"""
    queue: Natural = 3840
    """embeddings of former batches that take part in the assignment, per large crop; 0: none"""
    queue_from: Share = setting(default=15 / 400, needs={"queue": SET})
    """share of the training after which they do"""
    hidden_dim: Width = 2048
    """width of the projection head"""
    out_dim: Width = 128
    """dimension of the embedding"""


class SwAV(Method):
    """Swapped prediction of Sinkhorn's assignments."""

    Config = SwAVConfig
    family = ("clustering",)
    paper = Paper(
        "Caron et al.", "Unsupervised learning of visual features by contrasting cluster assignments", "NeurIPS", 2020
    )
    metric = RETRIEVAL
    min_batch = 2
    config: SwAVConfig

    def build(self) -> None:
        """Projector, prototypes, and a queue for each large crop."""
        c = self.config
        self.small = small_size(self.spec.patch_size, self.backbone, share=c.small_share)
        self.projector = Projector(self.backbone.out_channels, c.hidden_dim, c.out_dim)
        self.prototypes = Prototypes(c.out_dim, c.prototypes)
        self.queues = nn.ModuleList(Queue(c.out_dim, c.queue) for _ in range(2 if c.queue else 0))
        self.schedule = Schedule(c)

    def check_batch_size(self, batch_size: int, samples: int) -> list[str]:
        """Says when an assignment has fewer embeddings than prototypes, which cannot all be used."""
        notes = super().check_batch_size(batch_size, samples)
        together, count = batch_size + self.config.queue, self.config.prototypes
        if together < count:
            notes.append(
                f"an assignment has {together} embeddings (trainer.batch_size + method.queue) for {count} prototypes, of which "
                "some get none; lower method.prototypes"
            )
        return notes

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Two large and several small crops."""
        c = self.config
        return multi_crop(
            batch["image"],
            generator,
            large=(c.view, c.view),
            small=c.small_view,
            count=c.small_crops,
            size=self.small,
        )

    def terms(self, views: Tensors) -> Tensors:
        """Cross-entropy between the assignment of each large crop and the predictions from all other crops."""
        count = len(views["large0"])
        pooled = pool_crops(self.backbone, views)
        z = to_float32(self.projector(pooled))
        frozen = self.schedule.done < self.config.freeze_steps
        scores = torch.split(to_float32(self.prototypes(z, frozen=frozen)), count)
        first, second = (F.normalize(x, dim=1) for x in torch.split(z.detach(), count)[:2])
        targets = [self.assign(scores[i].detach(), i) for i in range(2)]
        if self.training:
            for queue, keys in zip(self.queues, (first, second), strict=False):
                assert isinstance(queue, Queue)
                queue.push(gather(keys))
        losses = [
            soft_cross_entropy(targets[i], scores[j] / self.config.temperature)
            for i in range(2)
            for j in range(len(scores))
            if j != i
        ]
        return {
            "loss": torch.stack(losses).mean(),
            "features": pooled[:count].detach(),
            "pair": torch.stack([first, second]),
            **retrieval(first, second),
        }

    @torch.no_grad()
    def assign(self, scores: Tensor, crop: int) -> Tensor:
        """(B, K) similarities of a large crop -> their assignments, made over all processes and the queue."""
        everyone = gather(scores)
        if self.uses_queue:
            queue = self.queues[crop]
            assert isinstance(queue, Queue)
            everyone = torch.cat([everyone, to_float32(self.prototypes(queue.keys.T))])
        start = rank() * len(scores)
        shares = sinkhorn(everyone, epsilon=self.config.epsilon, iterations=self.config.iterations)
        return shares[start : start + len(scores)]

    @property
    def uses_queue(self) -> bool:
        """Once `queue_from` of the training is done and the queue holds real embeddings alone."""
        if not self.config.queue or self.schedule.share(self) < self.config.queue_from:
            return False
        queue = self.queues[0]
        assert isinstance(queue, Queue)
        return queue.full

    def after_step(self) -> None:
        """Counts, for freezing and queue."""
        self.schedule.advance()
