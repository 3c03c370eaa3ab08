"""Exemplar: an image lies nearer to a distorted copy of itself than to another image.

Papers: Dosovitskiy et al., "Discriminative unsupervised feature learning with exemplar convolutional neural networks", TPAMI
2016; as triplets in Taleb et al., "3D self-supervised methods for medical imaging", NeurIPS 2020.
Official code of the latter: github.com/HealthML/self-supervised-3d-tasks (MIT).

Where we differ, and why:
- triplets, as in the 3D paper; a classifier with one class per image, as in Dosovitskiy et al., would grow with the data.
- positive and negative are both distorted, or the distortion itself would tell them apart.
- the negative is never the anchor's own image, which the official shuffle allows.
- brightness is changed by a factor instead of a summand, as everywhere in the suite.
- `margin` is 0.1, not 1 (preset `exemplar/code`). Two unrelated binary codes are 1/2 apart in mean square, and no large set of
  codes has all its pairs further apart (Plotkin 1960), so a margin of 1 is never met: the loss stays linear, every entry of
  the code is pulled towards the same most telling bit, and features get poorer the longer it is trained.
- features are averaged over the image before the code; the official code flattens them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.losses.triplet import triplet
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.ranges import BelowOne, Positive, Share, Width
from ssl_med.setting import SET, setting
from ssl_med.spec import Batch
from ssl_med.transforms._sampling import uniform
from ssl_med.transforms.intensity import brightness_contrast
from ssl_med.transforms.spatial import Crop, apply_crop, flip, rot90, sample_crop


@dataclass
class ExemplarConfig:
    """Defaults of the 3D paper's code, but for the margin."""

    margin: Positive = 0.1
    """margin of the triplet loss; codes lie in [0, 1], so their mean squared distance does too"""
    code_dim: Width = 1024
    """dimension of the sigmoid code"""
    flip: Share = 0.5
    """probability per axis to be mirrored"""
    rot90: Share = 0.5
    """probability of quarter turns in the plane of the first two axes"""
    jitter: Share = 0.5
    """probability of brightness and contrast changes"""
    brightness: Share = setting(default=0.125, needs={"jitter": SET})
    """largest relative change"""
    contrast: Share = setting(default=0.5, needs={"jitter": SET})
    """largest relative change"""
    zoom_p: Share = 0.15
    """probability of a zoom"""
    zoom: BelowOne = setting(default=0.2, needs={"zoom_p": SET})
    """share of a side that a zoom leaves out at most"""


class Exemplar(Method):
    """Encoder, linear sigmoid code, triplet loss."""

    Config = ExemplarConfig
    family = ("contrast",)
    paper = Paper(
        "Dosovitskiy et al.",
        "Discriminative unsupervised feature learning with exemplar convolutional neural networks",
        "TPAMI",
        2016,
    )
    metric = RETRIEVAL
    min_batch, in_batch_negatives = 2, True
    config: ExemplarConfig

    def build(self) -> None:
        """The code."""
        self.rescale = self.rescaling()
        self.code = nn.Linear(self.backbone.out_channels, self.config.code_dim)

    def distort(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, *S) in [0, 1] -> a distorted copy of the same shape and range."""
        c, dims = self.config, image.ndim - 2
        crop = sample_crop(len(image), dims, generator, scale=((1 - c.zoom) ** dims, 1.0), ratio=(1.0, 1.0))
        chosen = (uniform(generator, len(image)) < c.zoom_p).view(-1, 1)
        view = apply_crop(image, Crop(crop.corner * chosen, torch.where(chosen, crop.side, torch.ones_like(crop.side))))
        view = rot90(flip(view, generator, p=c.flip), generator, p=c.rot90)
        return brightness_contrast(view, generator, brightness=c.brightness, contrast=c.contrast, p=c.jitter)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """`anchor` as it is, `positive` its distorted copy, `negative` that of another image of the batch."""
        image = batch["image"]
        size = len(image)
        offset = torch.randint(1, max(2, size), (size,), generator=generator, device=image.device)
        other = (torch.arange(size, device=image.device) + offset) % size
        return {
            "anchor": image,
            "positive": self.distort(image, generator),
            "negative": self.distort(image[other], generator),
        }

    def terms(self, views: Tensors) -> Tensors:
        """Triplet loss; retrieval by the cosine of codes around their middle, 1/2."""
        images = torch.cat([views[key] for key in ("anchor", "positive", "negative")])
        pooled = self.backbone.pool(self.backbone(images))
        anchor, positive, negative = to_float32(self.code(self.rescale(pooled))).sigmoid().chunk(3)
        near, far = ((anchor - x).detach().square().mean(1) for x in (positive, negative))
        first, second = (F.normalize(x.detach() - 0.5, dim=1) for x in (anchor, positive))
        return {
            "loss": triplet(anchor, positive, negative, margin=self.config.margin),
            "triplet_accuracy": (near < far).float().mean(),
            "features": pooled[: len(anchor)].detach(),
            "pair": torch.stack([first, second]),
            **retrieval(first, second),
        }
