"""DINO: self-distillation without labels; a student on all crops matches a centred, sharpened teacher on the large ones.

Paper: Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021 (Algorithm 1).
Official code: github.com/facebookresearch/dino (Apache-2.0).

Loss: mean over pairs of a large crop x of the teacher and another crop y of the student of
-sum_k softmax((t(x) - c) / tau_t)_k log softmax(s(y) / tau_s)_k; the centre c follows the teacher's mean output.

Where we differ, and why:
- the network is the suite's U-Net or ResNet, as all methods share theirs; crops and optimiser are the official ones for a
  ResNet-50, where the paper's are for vision transformers.
- the centre is a plain mean over the first steps and counts the batch at hand; Algorithm 1 starts it at 0 and moves it after
  the loss, so that the first steps teach what all outputs have in common, from which short runs do not recover.
- schedules run over shares of the training, and the output layer is frozen for a number of steps instead of an epoch:
  epochs of medical data sets are of any length.
- small crops have the sides nearest to 96 / 224 of a crop's that the network can halve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.distributed import all_reduce_mean
from ssl_med.losses.distillation import soft_cross_entropy
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.multicrop import MultiCropConfig, crops, multi_crop, pool_crops, small_size
from ssl_med.methods.core.pair import Embedding, ViewConfig
from ssl_med.methods.core.schedule import Schedule, cosine_to
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import Projector, Prototypes
from ssl_med.ranges import Positive, Range, Share, Width
from ssl_med.setting import SET, setting
from ssl_med.spec import Batch


@dataclass
class DINOConfig(MultiCropConfig):
    """Defaults of the official run with a ResNet-50."""

    view: ViewConfig = field(default_factory=lambda: ViewConfig(crop_scale=(0.14, 1.0), blur=1.0))
    """first large crop"""
    view2: ViewConfig = field(default_factory=lambda: ViewConfig(crop_scale=(0.14, 1.0), blur=0.1, solarize=0.2))
    """second large crop"""
    small_crops: Annotated[int, Range(0, 1000)] = 8
    """number of small crops"""
    momentum: Share = 0.996
    """EMA coefficient of the teacher at the start; it ends at 1"""
    temperature: Positive = 0.1
    """tau_s of the student"""
    teacher_temperature: Positive = 0.07
    """tau_t of the teacher after its warm-up"""
    warmup_temperature: Positive = setting(default=0.04, needs={"warmup": SET})
    """tau_t at the start"""
    warmup: Share = 50 / 800
    """share of the training over which tau_t rises linearly"""
    center_momentum: Share = 0.9
    """largest share of the former centre in the next one"""
    hidden_dim: Width = 2048
    """width of the head"""
    bottleneck: Width = 256
    """dimension of the normalised embedding before the output layer"""
    out_dim: Annotated[int, Range(2, 2**20)] = 65536
    """number of outputs K"""


class DINO(Method):
    """Student, teacher and centre."""

    Config = DINOConfig
    family = ("self-distillation",)
    paper = Paper("Caron et al.", "Emerging properties in self-supervised vision transformers", "ICCV", 2021)
    metric = RETRIEVAL
    min_batch = 2
    config: DINOConfig
    center: Tensor

    def build(self) -> None:
        """Head without batch normalisation, output layer of unit rows, centre."""
        c = self.config
        self.small = small_size(self.spec.patch_size, self.backbone, share=c.small_share)
        self.projector = Projector(
            self.backbone.out_channels,
            c.hidden_dim,
            c.bottleneck,
            layers=3,
            norm=False,
            gelu=True,
            entry=self.rescaling(),
        )
        for part in self.projector.modules():
            if isinstance(part, nn.Linear):  # as official: biases would drown what differs between images
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        self.prototypes = Prototypes(c.bottleneck, c.out_dim)
        self.register_buffer("center", torch.zeros(c.out_dim))
        self.schedule = Schedule(c)

    def after_init(self) -> None:
        """The teacher starts as a copy."""
        self.teacher = EMA(Embedding(self.backbone, self.projector), batch_statistics=True)
        self.teacher_prototypes = EMA(self.prototypes)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Two large and several small crops."""
        c = self.config
        return multi_crop(
            batch["image"],
            generator,
            large=(c.view, c.view2),
            small=c.small_view,
            count=c.small_crops,
            size=self.small,
        )

    def terms(self, views: Tensors) -> Tensors:
        """Cross-entropy from each large crop to all others; in training the centre moves first."""
        c, count = self.config, len(views["large0"])
        pooled = pool_crops(self.backbone, views)
        z = to_float32(self.projector(pooled))
        frozen = self.schedule.done < c.freeze_steps
        scores = to_float32(self.prototypes(z, frozen=frozen))
        student = torch.split(scores / c.temperature, count)
        with torch.no_grad():
            taught = to_float32(self.teacher(torch.cat(crops(views, "large")))[1])
            outputs = to_float32(self.teacher_prototypes(taught))
            if self.training:
                kept = min(c.center_momentum, self.schedule.done / (self.schedule.done + 1))
                self.center.lerp_(all_reduce_mean(outputs.mean(0)).to(self.center.dtype), 1 - kept)
            targets = torch.softmax((outputs - self.center) / self.teacher_temperature, dim=1).chunk(2)
        losses = [soft_cross_entropy(targets[i], student[j]) for i in range(2) for j in range(len(student)) if j != i]
        said, meant = (F.normalize(x - self.center, dim=1) for x in (scores[:count].detach(), outputs[count:]))
        return {
            "loss": torch.stack(losses).mean(),
            "features": pooled[:count].detach(),
            "pair": torch.stack([F.normalize(x, dim=1) for x in (z[:count].detach(), taught[count:])]),
            **retrieval(said, meant),  # of centred outputs, which the loss compares
        }

    @property
    def teacher_temperature(self) -> float:
        """The tau_t of the next step."""
        c = self.config
        done = min(1.0, self.schedule.share(self) / c.warmup) if c.warmup else 1.0
        return c.warmup_temperature + done * (c.teacher_temperature - c.warmup_temperature)

    @property
    def tau(self) -> float:
        """EMA coefficient of the next update."""
        return cosine_to(self.config.momentum, 1.0, self.schedule.share(self))

    def after_step(self) -> None:
        """The teacher follows the student."""
        self.teacher.update(Embedding(self.backbone, self.projector), self.tau)
        self.teacher_prototypes.update(self.prototypes, self.tau)
        self.schedule.advance()
