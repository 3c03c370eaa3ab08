"""PCRL: contrastive learning that also preserves what the image looks like.

Paper: Zhou et al., "Preservational learning improves self-supervised medical image models by reconstructing diverse
contexts", ICCV 2021. Official code: github.com/Luchixiang/PCRL @ 197bf91 (no licence; nothing of it is used here).

Three branches (ordinary o, momentum m, hybrid h) share one decoder, which must restore T_k(X_k), a flipped and rotated
clean crop, from features of the corrupted crop that TransAtt has informed which T_k was drawn.

Where we differ, and why:
- the positive is part of the denominator of InfoNCE; eq. 7 as printed leaves it out.
- attention is the `gate` form by default: the paper's outer product holds C^3 weights (134 M at C = 512, twelve times a
  ResNet-18). `attention: paper` is the paper's.
- targets are transforms of the clean crop, as in the paper; the official code transforms the corrupted one.
- the teacher normalises with averaged running statistics (EMAN, Cai et al., CVPR 2021) instead of ShuffleBN.
- the queue starts with the first batch's keys in all places, not with random directions (networks/queue.py says why).
- lambda is Beta(1, 1) as in the paper; the official code folds it to max(lambda, 1 - lambda): `lambda_fold`.
- the ablation with RotNet (Table 2) is not described further: the clean ordinary crop, turned by a random quarter, passes
  the encoder once more, so that the contrasted views stay those of the contrastive loss alone.
- in 2D the official code corrupts by jitter, blur and cutout and in 3D by shuffling and painting; we do the same, with
  the paper's <= 10 degree rotation applied to the clean crop, so that input and target share one frame. Blur in 2D is as
  wide, relative to the crop, as the official code's in crops of 224 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.distributed import gather
from ssl_med.losses.contrastive import info_nce
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.pair import Embedding
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import ClassificationHead, Projector, RestorationHead
from ssl_med.networks.queue import Queue, own_keys
from ssl_med.ranges import BelowOne, Count, Degrees, NonNegative, Positive, Share, Width
from ssl_med.setting import setting
from ssl_med.spec import Batch, DataSpec, Need, SslMedError
from ssl_med.transforms.corruptions import local_shuffle, paint
from ssl_med.transforms.intensity import brightness_contrast, cutout, gaussian_blur
from ssl_med.transforms.spatial import apply_flip_rot, flip_rot, indicator, sample_flip, small_rotation

# crop sizes of the paper's 3D pairs (64x64x32, 96x96x48, 96^3, 32x32x16, 112x112x56) as multiples of 64x64x32
PAIR_SCALES_3D = ((1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (1.5, 1.5, 3.0), (0.5, 0.5, 0.5), (1.75, 1.75, 1.75))


@dataclass
class PCRLConfig:
    """Defaults of the paper; its ablations (Tables 1 and 2) are the presets in conf/method/pcrl."""

    reconstruct: bool = True
    """false: contrastive loss only, no decoder"""
    rotnet: bool = False
    """instead of a decoder: predict by which quarter turn a crop was rotated (Gidaris et al. 2018)"""
    transform: Literal["none", "flip", "flip_rot"] = "flip_rot"
    """transforms T_k of the targets; none: plain self-reconstruction without attention"""
    crossmix: bool = True
    """the hybrid branch"""
    attention: Literal["gate", "paper"] = "gate"
    """form of TransAtt: channel gate from the indicator alone, or outer product of indicator and features"""
    alpha: Positive = setting(default=1.0, needs={"crossmix": (True,)})
    """CrossMix: lambda ~ Beta(alpha, alpha)"""
    lambda_fold: bool = setting(default=False, needs={"crossmix": (True,)})
    """max(lambda, 1 - lambda): the ordinary branch always weighs more, as in the official code"""
    temperature: Positive = 0.2
    """tau of InfoNCE"""
    queue: Count = 16384
    """number of keys N"""
    momentum: Share = 0.99
    """EMA coefficient beta of the momentum encoder"""
    out_dim: Width = 128
    """dimension of the contrasted embedding"""
    contrast_weight: NonNegative = 0.5
    """weight of the contrastive loss"""
    restore_weight: NonNegative = 0.5
    """weight of the sum of the branches' squared errors, or of RotNet's cross-entropy"""
    shuffle: Share = setting(default=0.5, needs={"dims": ("3D",)})
    """3D: probability of local pixel shuffling"""
    paint: Share = setting(default=0.9, needs={"dims": ("3D",)})
    """3D: probability of in- or out-painting; it takes thousands of steps to tell painted crops from each other"""
    min_iou: BelowOne = 0.2
    """least overlap of the two crops of a pair"""
    rotation_deg: Degrees = setting(default=10.0, needs={"dims": ("3D",)})
    """3D: largest in-plane rotation of a crop"""

    def __post_init__(self) -> None:
        if self.crossmix and not self.reconstruct:
            raise SslMedError("method.crossmix needs a decoder: set method.crossmix=false or method.reconstruct=true")
        if self.rotnet and self.reconstruct:
            raise SslMedError("method.rotnet replaces the decoder: set method.reconstruct=false")


class TransAtt(nn.Module):
    """Tells the decoder, through the last encoder level, which transform its output must show (Sec. 3.2).

    paper: f_p = MLP(v), f_l = GAP(F); weights = sigmoid(ReLU(W vec(f_p f_l^T))); gate: weights = sigmoid(MLP(v)). Then
    conv3(F * weights).

    Args:
        channels: C of the last encoder level.
        indicators: length of v.
        spatial_dims: 2 or 3.
        form: "gate" or "paper"; the latter holds C^3 weights.
    """

    def __init__(self, channels: int, indicators: int, *, spatial_dims: int, form: str) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.embed = nn.Sequential(nn.Linear(indicators, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.outer = nn.Linear(channels * channels, channels) if form == "paper" else None
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.mix = convolution(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, v: Tensor) -> Tensor:
        """(B, C, *S), (B, indicators) -> (B, C, *S)."""
        weights = self.embed(v)
        if self.outer is not None:
            pooled = features.flatten(2).mean(2)
            weights = F.relu(self.outer(torch.einsum("bi,bj->bij", weights, pooled).flatten(1)))
        gates = weights.sigmoid().view(*weights.shape, *[1] * (features.ndim - 2))
        mixed: Tensor = self.mix(features * gates)
        return mixed


class PCRL(Method):
    """Contrast with a queue, and restoration of transformed contexts by three branches."""

    Config = PCRLConfig
    family = ("contrast", "restoration")
    paper = Paper(
        "Zhou et al.",
        "Preservational learning improves self-supervised medical image models by reconstructing diverse contexts",
        "ICCV",
        2021,
    )
    needs_decoder = True
    metric = RETRIEVAL
    config: PCRLConfig

    @classmethod
    def need(cls, config: PCRLConfig, spec: DataSpec) -> Need:
        """Overlapping crop pairs; of an image, random resized crops."""
        return Need(pair=True, min_iou=config.min_iou, pair_scales=PAIR_SCALES_3D if spec.spatial_dims == 3 else ())

    def build(self) -> None:
        """Projector, queue and, with reconstruction, decoder, attention and output head, or RotNet's head."""
        c, width, dims = self.config, self.backbone.out_channels, self.spec.spatial_dims
        self.projector = Projector(width, c.out_dim, c.out_dim, layers=2, norm=False, entry=self.rescaling())
        self.queue = Queue(c.out_dim, c.queue)
        if c.reconstruct:
            self.decoder = self.backbone.build_decoder()
            self.head = RestorationHead(
                self.decoder.out_channels, self.spec.in_channels, dims, activation="sigmoid" if dims == 3 else "linear"
            )
            if c.transform != "none":
                self.attention = TransAtt(width, dims + 4, spatial_dims=dims, form=c.attention)
        if c.rotnet:
            size = self.spec.patch_size
            if size[0] != size[1]:
                raise SslMedError(
                    f"data.patch_size {list(size)}: method.rotnet turns crops by quarters in the plane of the first two "
                    "axes, which must be a square"
                )
            self.rotation_head = ClassificationHead(width, 4)

    def after_init(self) -> None:
        """The momentum encoder starts as a copy."""
        self.teacher = EMA(Embedding(self.backbone, self.projector))

    def corrupt(self, crop: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, *S) clean -> corrupted network input."""
        if self.spec.spatial_dims == 2:
            x = brightness_contrast(crop, generator, brightness=0.4, contrast=0.4, p=1.0)
            shrink = min(self.spec.patch_size) / 224  # the official widths are those of crops of 224 pixels
            x = gaussian_blur(x, generator, sigma=(0.1 * shrink, 2.0 * shrink), p=0.5)
            return cutout(x, generator, holes=3, fraction=32 / 224)
        x = gaussian_blur(crop, generator, sigma=(0.1, 2.0), p=0.5)
        c = self.config
        return paint(local_shuffle(x, generator, p=c.shuffle), generator, p=c.paint, inpaint_rate=0.2)

    def check_batch_size(self, batch_size: int, samples: int) -> list[str]:
        """Says when former keys of an image are among its negatives."""
        return [*super().check_batch_size(batch_size, samples), *own_keys(self.config.queue, samples)]

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Inputs of both encoders, and per branch k the target T_k(X_k) with its indicator v_k."""
        crops = {"o": batch["image"], "m": batch["image2"]}
        if self.spec.spatial_dims == 3 and self.config.rotation_deg > 0:
            crops = {k: small_rotation(x, generator, degrees=self.config.rotation_deg) for k, x in crops.items()}
        views = {f"input_{k}": self.corrupt(x, generator) for k, x in crops.items()}
        if self.config.rotnet:
            views["turned"], params = flip_rot(crops["o"], generator, flips=False)
            views["turns"] = params.turns
        if not self.config.reconstruct:
            return views
        if self.config.crossmix:
            mix = _beta(self.config.alpha, generator, crops["o"])
            views["mix"] = torch.maximum(mix, 1 - mix) if self.config.lambda_fold else mix
            crops["h"] = torch.lerp(crops["m"], crops["o"], views["mix"])
        for k, crop in crops.items():
            if self.config.transform == "none":
                views[f"target_{k}"] = crop
                continue
            params = flip_rot(crop, generator, flips=True, rotations=self.config.transform == "flip_rot")[1]
            views[f"target_{k}"], views[f"indicator_{k}"] = apply_flip_rot(crop, params), indicator(params)
        return views

    def terms(self, views: Tensors) -> Tensors:
        """0.5 InfoNCE + 0.5 sum over branches of MSE (Sec. 3.4); new keys enter the queue after the loss."""
        ordinary = self.backbone(views["input_o"])
        pooled = self.backbone.pool(ordinary)
        q = F.normalize(to_float32(self.projector(pooled)), dim=1)
        with torch.no_grad():
            momentum, k = self.teacher(views["input_m"])
            k = F.normalize(to_float32(k), dim=1)
        contrast = info_nce(q, k, self.queue.keys, temperature=self.config.temperature)
        if self.training:
            self.queue.push(gather(k))
        terms = {"contrast": contrast.detach(), "features": pooled.detach(), "pair": torch.stack([q, k]).detach()}
        terms |= retrieval(q, k)
        loss = self.config.contrast_weight * contrast
        if self.config.reconstruct:
            restored = self.restore(ordinary, momentum, views)
            errors = {f"restore_{k}": F.mse_loss(to_float32(x), views[f"target_{k}"]) for k, x in restored.items()}
            loss = loss + self.config.restore_weight * torch.stack(list(errors.values())).sum()
            terms |= {key: value.detach() for key, value in errors.items()}
        if self.config.rotnet:
            logits = to_float32(self.rotation_head(self.backbone.pool(self.backbone(views["turned"]))))
            rotation = F.cross_entropy(logits, views["turns"])
            loss = loss + self.config.restore_weight * rotation
            right = (logits.argmax(1) == views["turns"]).float().mean()
            terms |= {"rotation": rotation.detach(), "rotation_accuracy": right}
        return {"loss": loss, **terms}

    def restore(self, ordinary: list[Tensor], momentum: list[Tensor], views: Tensors) -> Tensors:
        """What each branch's decoder shows; the branches pass the shared decoder as one batch."""
        assert self.decoder is not None
        branches = {"o": ordinary, "m": momentum}
        if self.config.crossmix:  # every level is mixed (eq. 5)
            branches["h"] = [
                torch.lerp(m, o, views["mix"].to(o.dtype)) for o, m in zip(ordinary, momentum, strict=True)
            ]
        pyramid = [torch.cat(level) for level in zip(*branches.values(), strict=True)]
        if self.config.transform != "none":
            v = torch.cat([views[f"indicator_{k}"] for k in branches])
            pyramid[-1] = self.attention(pyramid[-1], v)
        shown = self.head(self.decoder(pyramid)).chunk(len(branches))
        return dict(zip(branches, shown, strict=True))

    @property
    def restores(self) -> bool:
        """Where it has a decoder."""
        return self.config.reconstruct

    def restored(self, image: Tensor, generator: torch.Generator) -> Tensors:
        """By the ordinary branch, which is told to neither mirror nor turn; and of the image without a corruption."""
        assert self.decoder is not None
        corrupted, found = self.corrupt(image, generator), {}
        still = indicator(sample_flip(len(image), self.spec.spatial_dims, generator, p=0.0))
        for name, x in {"restored": corrupted, "unchanged": image}.items():
            pyramid = self.backbone(x)
            if self.config.transform != "none":
                pyramid[-1] = self.attention(pyramid[-1], still)
            found[name] = self.head(self.decoder(pyramid))
        return {"corrupted": corrupted, **found}

    @property
    def validation_is_comparable(self) -> bool:
        """Only once the queue is full: negatives that it holds several times make the first losses differ."""
        return self.queue.full

    def after_step(self) -> None:
        """theta_m <- beta theta_m + (1 - beta) theta_o."""
        self.teacher.update(Embedding(self.backbone, self.projector), self.config.momentum)


def _beta(alpha: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """One draw from Beta(alpha, alpha) as a ratio of gamma draws."""
    pair = torch._standard_gamma(torch.full((2,), alpha, device=like.device), generator=generator)
    return (pair[0] / pair.sum()).to(like.dtype)
