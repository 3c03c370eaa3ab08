"""Semantic Genesis: name the anatomical position of a crop, and restore it.

Papers: Haghighi et al., "Learning semantics-enriched representation via self-discovery, self-classification, and
self-restoration", MICCAI 2020; "Transferable visual words", IEEE TMI 40 (2021).
Official code: github.com/fhaghighi/SemanticGenesis (non-commercial licence; nothing of it is used here).

Self-discovery: an autoencoder of whole scans describes each patient; for every class there is one reference patient and one
position in the body, and the patients nearest to the reference show that class there. Self-classification: the encoder
names the class of a crop. Self-restoration: the decoder restores the crop from one of four corruptions.

Where we differ, and why:
- the stages run at once, not one after the other: crops come at C positions from the start, the autoencoder learns on the
  thumbnails that come with them, and nearest neighbours are found by a copy of its encoder that is renewed every `renew`
  steps. The first `memory` different scans that come by represent all patients: the first C of them are the references, and
  "nearest" means nearer than the given share of them, so that no stage reads the data twice. Crops of other patients are
  restored but not classified.
- the autoencoder is small (whole scans of 32^D voxels) and its descriptor L2-normalised; the authors' is the U-Net on
  128x128x64, with plain distances.
- positions are spread evenly over the scan, 20 % away from its ends in 3D, not drawn at random with a filter for tissue.
- crops of 3D scans have the size of the patch times U(50/64, 80/64) in the first two axes, as the authors'; in images, of
  which they publish no code, half of the image's sides times that.
- cross-entropy of logits; the official network puts out a softmax, of which the loss takes the logarithm.
- corruptions have Models Genesis' windows. The official code shuffles five windows (0.08 % of the voxels, as good as
  nothing) and paints one box. Its elastic deformation of the input is off by default (`elastic`; alpha = 991, sigma = 8 is
  about 3.8 voxels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.distributed import all_reduce_sum, gather, world_size
from ssl_med.losses.restoration import mse
from ssl_med.methods.core.about import ACCURACY, Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.restoration import ShuffleConfig, Shuffling
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import ClassificationHead, RestorationHead
from ssl_med.networks.pyramid import Norm, conv_norm_relu
from ssl_med.ranges import Count, NonNegative, PositiveShare, Range, Share
from ssl_med.spec import Batch, DataSpec, Need, Positions, SslMedError
from ssl_med.transforms.corruptions import inpaint, one_of, outpaint
from ssl_med.transforms.intensity import nonlinear
from ssl_med.transforms.spatial import elastic

_WIDTHS = (8, 16, 32, 64, 128)  # of the autoencoder; its last level is an eighth of a thumbnail
_CHUNK = 32  # thumbnails described at once


@dataclass
class SemanticGenesisConfig(ShuffleConfig):
    """Defaults of the papers and, where those are silent, of the official training script."""

    flip: Share = 0.0
    """probability per axis that an image is mirrored, input and target alike; positions have a left and a right"""
    classes: Annotated[int, Range(2, 10**5)] = 44
    """number C of anatomical positions"""
    neighbours: PositiveShare = 0.32
    """share of the patients nearest to a class's reference that show the class: 200 of LUNA16's 623"""
    classify_weight: NonNegative = 0.01
    """weight of the cross-entropy; restoration has 1"""
    elastic: NonNegative = 0.0
    """standard deviation in voxels of an elastic deformation of the input; 0: none"""
    memory: Count = 256
    """scans that "nearest" is judged by, the references among them; their thumbnails are kept in bytes"""
    renew: Count = 100
    """steps between renewals of all descriptors"""
    thumbnail: Annotated[int, Range(16, 1024)] = 32
    """side of a scan as the autoencoder sees it, in voxels"""

    def __post_init__(self) -> None:
        if self.memory < self.classes:
            raise SslMedError(f"method.memory is {self.memory}; it must hold a reference for each of method.classes")
        if self.thumbnail % 8:
            raise SslMedError(f"method.thumbnail is {self.thumbnail}; it must be a multiple of 8")


class Discovery(nn.Module):
    """Self-discovery: describes whole scans, and says which of them are near the reference of a class.

    scans: (M, channels, *T) thumbnails, uint8, of the first M different scans that came by; owners: (M,) their numbers in the
    split, -1 for none yet; found: how many. The reference of class c is scan c, or c modulo `found` while there are fewer.
    descriptors: (M, d) of them, all by the same encoder. age: steps since that was renewed.

    Args:
        channels: modalities.
        size: of a thumbnail, *T.
        neighbours: share of the scans that are near.
        memory: M.
        norm: normalisation layers.
    """

    scans: Tensor
    owners: Tensor
    found: Tensor
    descriptors: Tensor
    age: Tensor

    def __init__(self, channels: int, size: tuple[int, ...], *, neighbours: float, memory: int, norm: Norm) -> None:
        super().__init__()
        self.neighbours, dims = neighbours, len(size)
        small = backbone_config("unet", channels=_WIDTHS, norm=norm)
        self.encoder = build_backbone(small, spatial_dims=dims, in_channels=channels)
        self.decoder = self.encoder.build_decoder(skips=False)
        self.head = RestorationHead(self.decoder.out_channels, channels, dims, activation="sigmoid")
        self.register_buffer("scans", torch.zeros(memory, channels, *size, dtype=torch.uint8))
        self.register_buffer("owners", torch.full((memory,), -1))
        self.register_buffer("found", torch.zeros((), dtype=torch.long))
        self.register_buffer("descriptors", torch.zeros(memory, self.encoder.out_channels))
        self.register_buffer("age", torch.zeros((), dtype=torch.long))

    def start(self) -> None:
        """The describing encoder starts as a copy of the learning one."""
        self.describer = EMA(self.encoder)

    def renew(self) -> None:
        """The describing encoder becomes a copy again, and describes all scans anew."""
        self.describer.update(self.encoder, 0.0)
        self.descriptors.copy_(torch.cat([self.describe(part) for part in torch.split(self.scans, _CHUNK)]))
        self.age.zero_()

    def forward(self, scan: Tensor) -> Tensor:
        """(B, C, *T) -> restored scan."""
        restored: Tensor = self.head(self.decoder(self.encoder(scan)))
        return restored

    @torch.no_grad()
    def describe(self, scan: Tensor) -> Tensor:
        """(B, C, *T) uint8 -> unit descriptor (B, d)."""
        pyramid = self.describer(scan.to(self.descriptors.dtype) / 255)
        return F.normalize(to_float32(self.encoder.pool(pyramid)), dim=1)

    @torch.no_grad()
    def near(self, descriptor: Tensor, instance: Tensor) -> Tensor:
        """(B,) bool: whether a scan is among the nearest to the reference of its crop's class; all are at the beginning."""
        reference = self.descriptors[instance % self.found.clamp_min(1)]  # (B, d)
        known = torch.arange(len(self.owners), device=self.found.device) < self.found
        likeness = (reference @ self.descriptors.T).masked_fill(~known, -torch.inf)
        last = (self.found * self.neighbours).ceil().long().clamp_min(1) - 1
        least = likeness.sort(dim=1, descending=True).values.index_select(1, last.view(1))[:, 0]
        return (descriptor * reference).sum(1) >= least

    @torch.no_grad()
    def remember(self, scan: Tensor, descriptor: Tensor, case: Tensor) -> None:
        """Takes in scans (B, C, *T) uint8 that it does not know yet, with their numbers (B,), while there is room."""
        count = len(self.owners)
        twin = torch.tril(case[:, None] == case[None], -1).any(1)
        fresh = ~(case[:, None] == self.owners[None]).any(1) & ~twin
        place = torch.where(fresh, self.found + fresh.cumsum(0) - 1, count)
        rows = (place[None] == torch.arange(count, device=case.device)[:, None]).int()  # (M, B)
        taken, source = rows.any(1), rows.argmax(1)
        for mine, theirs in ((self.scans, scan), (self.descriptors, descriptor), (self.owners, case)):
            shape = taken.view(-1, *[1] * (mine.ndim - 1))
            mine.copy_(torch.where(shape, theirs[source].to(mine.dtype), mine))
        self.found.copy_((self.found + fresh.sum()).clamp(max=count))


class SemanticGenesis(Shuffling):
    """Restoration of Models Genesis' family, and classification of positions on the last encoder level."""

    Config = SemanticGenesisConfig
    family = ("restoration", "prediction")
    paper = Paper(
        "Haghighi et al.",
        "Learning semantics-enriched representation via self-discovery, self-classification, and self-restoration",
        "MICCAI",
        2020,
    )
    metric = ACCURACY
    of_one_training = tuple(f"discovery.{name}" for name in ("scans", "owners", "found", "descriptors", "age"))
    config: SemanticGenesisConfig

    @classmethod
    def need(cls, config: SemanticGenesisConfig, spec: DataSpec) -> Need:
        """Crops at C positions, with thumbnails."""
        is_2d, dims = spec.spatial_dims == 2, spec.spatial_dims
        positions = Positions(
            count=config.classes,
            thumbnail=(config.thumbnail,) * dims,
            border=0.0 if is_2d else 0.2,
            share=0.5 if is_2d else 0.0,
            scale=(50 / 64, 80 / 64),
            jitter=0.05,
        )
        return Need(positions=positions)

    def build(self) -> None:
        """The classifier (3^d convolution to twice the width, pooled, linear) and self-discovery."""
        super().build()
        c, spec, width, norm = self.config, self.spec, self.backbone.out_channels, self.backbone_config.norm
        self.widen = conv_norm_relu(spec.spatial_dims, width, 2 * width, norm)
        self.classifier = ClassificationHead(2 * width, c.classes)
        self.discovery = Discovery(
            spec.in_channels,
            (c.thumbnail,) * spec.spatial_dims,
            neighbours=c.neighbours,
            memory=c.memory,
            norm=norm,
        )

    def after_init(self) -> None:
        """The encoder that describes scans starts as a copy."""
        self.discovery.start()

    def after_step(self) -> None:
        """Every `renew` steps it becomes a copy again."""
        self.discovery.age += 1
        if int(self.discovery.age) >= self.config.renew:
            self.discovery.renew()

    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """Elastic deformation if asked for, then exactly one of shuffling, intensity map, in- and out-painting."""
        x = elastic(target, generator, magnitude=self.config.elastic) if self.config.elastic > 0 else target
        return one_of(x, generator, transforms=[self.shuffled, nonlinear_always, inpaint, outpaint])

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Also which position each crop shows, (B,), the scan it is from, (B, C, *T), and that scan's number, (B,)."""
        views = super().views(batch, generator)
        return views | {"instance": batch["instance"], "scan": batch["scan"], "case": batch["case"]}

    def terms(self, views: Tensors) -> Tensors:
        """Restoration, the autoencoder's error, and cross-entropy over crops of near scans; accuracy is the metric."""
        restored, pyramid = self.restore(views["input"])
        terms = self.compared(to_float32(restored), pyramid, views)
        instance, case = views["instance"].long(), views["case"].long()
        logits = to_float32(self.classifier(self.widen(pyramid[-1]).flatten(2).mean(2)))
        scan = (views["scan"] * 255).round().to(torch.uint8)
        descriptor = self.discovery.describe(scan)
        near = self.discovery.near(descriptor, instance).to(logits.dtype)
        if self.training:
            self.discovery.remember(gather(scan), gather(descriptor), gather(case))
        total = all_reduce_sum(near.sum()).clamp_min(1) / world_size()  # mean over the crops of all processes
        classify = (F.cross_entropy(logits, instance, reduction="none") * near).sum() / total
        discover = mse(to_float32(self.discovery(views["scan"])), views["scan"])
        return {
            "loss": terms["loss"] + self.config.classify_weight * classify + discover,
            "restore": terms["loss"].detach(),
            "classify": classify.detach(),
            "discover": discover.detach(),
            "near": near.mean(),
            "features": terms["features"],
            "metric": ((logits.detach().argmax(1) == instance) * near).sum() / near.sum().clamp_min(1),
            "baseline": logits.new_tensor(1 / self.config.classes),
        }


def nonlinear_always(x: Tensor, generator: torch.Generator) -> Tensor:
    """An intensity curve for every image."""
    return nonlinear(x, generator, p=1.0)
