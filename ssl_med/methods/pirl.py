"""PIRL: an image and its shuffled patches share one embedding, which differs from those of all other images in a memory.

Paper: Misra and van der Maaten, "Self-supervised learning of pretext-invariant representations", CVPR 2020.
Code consulted for numbers: github.com/facebookresearch/vissl (MIT).

m_I is the memory's average of the image's embedding f; the patches' embedding is g. Loss (eq. 7):
weight * L(m_I, g) + (1 - weight) * L(m_I, f), with the memory's entries of other images as negatives.

Where we differ, and why:
- InfoNCE, as the port of PyContrast; `loss: nce` is the paper's noise-contrastive estimation.
- an image that the memory has not seen, in the first epoch and in validation, is its own m_I, without gradient; the official
  code compares with random vectors then.
- negatives are a window of the memory that begins at a random entry, all of it when it holds no more than `negatives`, and
  never the image itself: no table of random numbers, and all processes hold the same memory.
- volumes: 2x2x2 patches, from the same crops in all epochs, or the memory would remember other crops than those it meets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import nn
from torch.nn import functional as F

from ssl_med.distributed import gather
from ssl_med.losses.contrastive import info_nce, nce
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.pair import ViewConfig, random_view
from ssl_med.methods.core.predictive import PatchConfig, PatchMethod, cells_of
from ssl_med.networks.heads import Projector
from ssl_med.networks.memory import Memory
from ssl_med.ranges import Count, Positive, Range, Share, Width
from ssl_med.spec import Batch, DataSpec, Need, SslMedError


@dataclass
class PIRLConfig(PatchConfig):
    """Defaults of the paper."""

    view: ViewConfig = field(default_factory=lambda: ViewConfig(crop_scale=(0.08, 1.0)))
    """the image"""
    patch_view: ViewConfig = field(default_factory=lambda: ViewConfig(crop_scale=(0.6, 1.0)))
    """the image that patches are cut from"""
    standardize: bool = False
    """each patch to mean 0 and variance 1; images are not, and share the encoder"""
    grid: Annotated[int, Range(2, 3, special=(0,))] = 0
    """cells per axis, 2 or 3; 0: 3 in images, 2 in volumes"""
    loss: Literal["info_nce", "nce"] = "info_nce"
    """contrast with the memory"""
    weight: Share = 0.5
    """share of the patches' term"""
    temperature: Positive = 0.07
    """tau of the contrast"""
    memory_momentum: Share = 0.5
    """share of its former value in a new entry of the memory"""
    negatives: Count = 32000
    """number of negatives; fewer when there are fewer training samples"""
    out_dim: Width = 128
    """dimension of the embedding"""


class PIRL(PatchMethod):
    """One encoder for image and patches, a head for each, and a memory."""

    Config = PIRLConfig
    family = ("contrast",)
    paper = Paper(
        "Misra and van der Maaten", "Self-supervised learning of pretext-invariant representations", "CVPR", 2020
    )
    metric = RETRIEVAL
    config: PIRLConfig

    @classmethod
    def need(cls, config: PIRLConfig, spec: DataSpec) -> Need:
        """The same crops in every epoch: the memory knows them by number."""
        return Need(fixed=True)

    def build(self) -> None:
        """Grid, heads and memory."""
        c, width = self.config, self.backbone.out_channels
        self.make_grid(cells_of(c.grid, self.spec.spatial_dims))
        self.image_head, self.patch_head = (
            Projector(width, 0, c.out_dim, layers=1, entry=self.rescaling()) for _ in range(2)
        )
        self.joint_head = nn.Linear(self.grid.cells * c.out_dim, c.out_dim)
        self.memory = Memory(c.out_dim, normalize=True)

    def before_training(self, samples: int) -> None:
        """One entry for each training sample.

        Raises:
            SslMedError: a single sample, which has no negatives.
        """
        if samples < 2:
            raise SslMedError("data.root: pirl needs two training samples at least; add scans or data.crops_per_volume")
        self.memory.resize(samples)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """A view of the image, shuffled patches (B, P, C, *patch) of another one, its number, and the first negative's."""
        image = batch["image"]
        order = torch.rand(len(image), self.grid.cells, generator=generator, device=image.device).argsort(1)
        patches = random_view(image, generator, self.config.patch_view)
        size = len(self.memory.entries)
        return {
            "view": random_view(image, generator, self.config.view),
            "patches": self.cut(patches, generator, order),
            "index": batch["index"].to(image.device),
            "first": torch.randint(size, (), generator=generator, device=image.device),
        }

    def terms(self, views: Tensors) -> Tensors:
        """Both contrasts; in training the images of all processes enter the memory after the loss is computed."""
        c, index = self.config, views["index"].long()
        pooled = self.backbone.pool(self.backbone(views["view"]))
        f = F.normalize(to_float32(self.image_head(pooled)), dim=1)
        patches = self.patch_head(self.encode(views["patches"]).flatten(0, 1)).view(len(pooled), -1)
        g = F.normalize(to_float32(self.joint_head(patches)), dim=1)
        size = len(self.memory.entries)
        shown = (views["first"].long() + torch.arange(min(c.negatives, size), device=index.device)) % size
        anchor, itself = f.detach(), None
        if self.training:  # samples of validation have numbers of their own
            known = self.memory.seen[index][:, None]
            anchor = torch.where(known, self.memory.entries[index].to(f.dtype), anchor)
            itself = shown == index[:, None]
        negatives = self.memory.entries[shown].T
        contrast = info_nce if c.loss == "info_nce" else nce
        image, patches = (contrast(x, anchor, negatives, temperature=c.temperature, left_out=itself) for x in (f, g))
        if self.training:
            self.memory.write(gather(index), gather(f.detach()), momentum=c.memory_momentum)
        pair = torch.stack([g, f]).detach()
        return {
            "loss": c.weight * patches + (1 - c.weight) * image,
            "image": image.detach(),
            "patches": patches.detach(),
            "features": pooled.detach(),
            "pair": pair,
            **retrieval(*pair),
        }

    @property
    def validation_is_comparable(self) -> bool:
        """Only once most of the memory is real: the random entries it starts with are easy negatives."""
        return bool(self.memory.seen.float().mean() > 0.9)
