"""PCRLv2: restore pixels and compare views at every scale of a U-Net without skips.

Paper: Zhou et al., "A unified visual information preservation framework for self-supervised pre-training in medical image
analysis", IEEE TPAMI 45 (2023). Official code: github.com/RL4M/PCRLv2 (MIT; consulted for numbers, nothing of it is used).

An image has two large views and several small ones. The decoder, which sees the last encoder level alone (nsUNet), restores
the clean first view at full resolution, and a 1^d convolution restores it from each of its scales too, with a weight beta
that falls along half a cosine from 1 to 0. At every scale a predictor p of one view's pooled, batch-normalised features must
point where those of another view do, z (SimSiam: no negatives, no gradient through z): the large views each other, each small
one both large ones.

Where we differ, and why:
- losses are means over the scales; the official code draws one scale per comparison, which has the same mean but leaves the
  heads of all others without a gradient, for which several processes would wait.
- z is batch-normalised without learned scale, and large and small views keep running statistics of their own.
- 1 - cos instead of -cos: the same gradient, and 0 is perfect.
- the finest scale's restoration is the output itself; the official code has another head there.
- outputs are sigmoids of images in [0, 1]; the official inputs are standardised per crop, and images' outputs linear.
- small views of volumes are cut out of the two clean large crops by turns, 3 to 25 % of their voxels, so that the loader
  yields two crops and not eight; the official sizes go down to 8^3 of a scan, resized to 16^3.
- colour transforms of images reduce to brightness and contrast. Volumes are turned in one plane and not scaled, as pairs come
  in several sizes anyway; swapped patches have an eighth of each side (official 8x4x4 of 64x64x32), a fifth of the voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.losses.distillation import cosine_distance
from ssl_med.losses.restoration import mse
from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.checks import check_order
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.multicrop import crops, small_size
from ssl_med.methods.core.restoration import RestorationConfig, Restorer, better_of, grey_error
from ssl_med.methods.core.schedule import Schedule, ScheduleConfig, cosine_to
from ssl_med.networks.heads import Projector, RestorationHead
from ssl_med.ranges import Degrees, Natural, NonNegative, PositiveShare, Range, Share
from ssl_med.setting import SET, setting
from ssl_med.spec import Batch, DataSpec, Need
from ssl_med.transforms.corruptions import swap_patches
from ssl_med.transforms.intensity import brightness_contrast, cutout, gamma, gaussian_blur, gaussian_noise
from ssl_med.transforms.spatial import flip, random_resized_crop, small_rotation

# crop sizes of the official 3D pairs (64x64x32, 96x96x64, 96^3, 112x112x64) as multiples of 64x64x32
PAIR_SCALES_3D = ((1.0, 1.0, 1.0), (1.5, 1.5, 2.0), (1.5, 1.5, 3.0), (1.75, 1.75, 2.0))
_GAMMA = (math.exp(-0.3), math.exp(0.3))


@dataclass
class PCRLv2Config(RestorationConfig, ScheduleConfig):
    """Defaults of the official code."""

    skips: bool = False
    """whether the decoder sees the encoder's finer levels (U-Net) or only the last one (nsUNet)"""
    flip: Share = 0.5
    """probability per axis that a view is mirrored; an image is mirrored left-right only"""
    rotation_deg: Degrees = 10.0
    """largest in-plane rotation of a view"""
    large_scale: tuple[PositiveShare, PositiveShare] = setting(default=(0.3, 1.0), needs={"dims": ("2D",)})
    """images: area of the large views, as a share of the image"""
    min_iou: Share = setting(default=0.3, needs={"dims": ("3D",)})
    """volumes: least overlap of the two large views"""
    small_scale: tuple[PositiveShare, PositiveShare] = setting(default=(0.05, 0.3), needs={"small_crops": SET})
    """area or volume of the small views, as a share of the image's or the large view's"""
    small_share: PositiveShare = setting(default=96 / 224, needs={"small_crops": SET})
    """side of a small view as a share of a large one's"""
    small_crops: Annotated[int, Range(0, 1000)] = 6
    """number of small views"""
    noise: NonNegative = setting(default=0.25, needs={"dims": ("3D",)})
    """volumes: largest standard deviation of the noise"""
    swaps: Natural = setting(default=50, needs={"dims": ("3D",)})
    """volumes: pairs of patches that change places in a large view"""
    deep_weight: NonNegative = 1.0
    """beta at the beginning"""
    compare_weight: NonNegative = 1.0
    """weight of both comparisons, between large views and of small with large ones"""

    def __post_init__(self) -> None:
        check_order("method.", large_scale=self.large_scale, small_scale=self.small_scale)


class Comparison(nn.Module):
    """Of pooled features at one scale: (B, C, *S) -> z (B, C), batch-normalised, and its prediction p (B, C).

    Large and small views are normalised apart, as in training they are different batches: common running statistics would
    lie between theirs, and in evaluation all large views would seem alike and all small ones their opposite.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large, self.small = (nn.BatchNorm1d(channels, affine=False) for _ in range(2))
        self.predictor = Projector(channels, 2 * channels, channels)

    def forward(self, x: Tensor, *, small: bool) -> tuple[Tensor, Tensor]:  # noqa: D102
        pooled = x.flatten(2).mean(2)
        z = self.small(pooled) if small else self.large(pooled)
        return to_float32(z), to_float32(self.predictor(z))


class PCRLv2(Restorer):
    """Pixel restoration and siamese comparison along the decoder's feature pyramid."""

    Config = PCRLv2Config
    family = ("restoration", "self-distillation")
    paper = Paper(
        "Zhou et al.",
        "A unified visual information preservation framework for self-supervised pre-training in medical image analysis",
        "IEEE TPAMI 45",
        2023,
    )
    config: PCRLv2Config

    @classmethod
    def need(cls, config: PCRLv2Config, spec: DataSpec) -> Need:
        """Volumes: overlapping crop pairs of several sizes. Images: the image."""
        if spec.spatial_dims == 2:
            return Need()
        return Need(pair=True, min_iou=config.min_iou, pair_scales=PAIR_SCALES_3D)

    def build(self) -> None:
        """Also a comparison at each scale of the decoder, and an output at each but the finest."""
        super().build()
        assert self.decoder is not None
        widths, spec = self.decoder.channels, self.spec
        self.small = small_size(spec.patch_size, self.backbone, share=self.config.small_share)
        self.comparisons = nn.ModuleList(Comparison(width) for width in widths)
        self.outputs = nn.ModuleList(
            RestorationHead(width, spec.in_channels, spec.spatial_dims, activation=self.activation)
            for width in widths[:-1]
        )
        self.schedule = Schedule(self.config)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """large0, large1 (B, C, *S), small0, small1, ... (B, C, *small), and target, which is large0 before its corruption."""
        c, is_2d = self.config, self.spec.spatial_dims == 2
        if is_2d:
            image = batch["image"]
            clean = [random_resized_crop(image, generator, scale=c.large_scale) for _ in range(2)]
            sources = [image]
        else:
            clean = sources = [batch["image"], batch["image2"]]
        clean = [self.moved(x, generator) for x in clean]
        views = {f"large{i}": self.corrupt(x, generator, large=True) for i, x in enumerate(clean)}
        for i in range(c.small_crops):
            source = sources[i % len(sources)]
            x = random_resized_crop(source, generator, scale=c.small_scale, size=self.small)
            views[f"small{i}"] = self.corrupt(self.moved(x, generator), generator, large=False)
        return views | {"target": clean[0]}

    def moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, *S) turned a little and mirrored; input and target share that."""
        x = small_rotation(x, generator, degrees=self.config.rotation_deg)
        return flip(x, generator, p=self.config.flip, axes=(1,) if x.ndim == 4 else None)

    def corrupt(self, x: Tensor, generator: torch.Generator, *, large: bool) -> Tensor:
        """(B, C, *S) clean -> network input in [0, 1]; large views lose parts, too."""
        c = self.config
        if x.ndim == 4:
            x = gaussian_blur(x, generator, sigma=(0.1, 2.0), p=0.5)
            x = brightness_contrast(x, generator, brightness=0.4, contrast=0.4, p=1.0)
            return cutout(x, generator, holes=3, fraction=32 / 224) if large else x
        x = gaussian_blur(x, generator, sigma=(0.0, 2.0), p=1.0).clamp(0, 1)
        x = gaussian_noise(x, generator, sigma=(0.0, c.noise), p=1.0)
        x = gamma(x, generator, exponent=_GAMMA, p=1.0)
        patch = [max(1, side // 8) for side in x.shape[2:]]
        return swap_patches(x, generator, swaps=c.swaps, patch=patch) if large else x

    def restored(self, image: Tensor, generator: torch.Generator) -> Tensors:
        """By the finest scale, of what a large view loses; and of the image without a corruption."""
        corrupted = self.corrupt(image, generator, large=True)
        shown = {"restored": corrupted, "unchanged": image}
        return {"corrupted": corrupted, **{name: self.restore(x)[0] for name, x in shown.items()}}

    def terms(self, views: Tensors) -> Tensors:
        """Restoration + beta restoration at all scales + weight (large with large + small with large)."""
        assert self.decoder is not None
        large, small, target = crops(views, "large"), crops(views, "small"), views["target"]
        count = len(target)
        pyramid = self.backbone(torch.cat(large))
        scales = list(self.decoder.scales(pyramid))
        shown = self.shown([x[:count] for x in scales])
        restore = self.distance(shown[-1], target)
        deep = torch.stack([self.distance(x, target) for x in shown]).mean()
        ours = [comparison(x, small=False) for comparison, x in zip(self.comparisons, scales, strict=True)]
        compare = torch.stack([between(parts(z, 2), parts(p, 2)) for z, p in ours]).mean()
        beta = cosine_to(self.config.deep_weight, 0.0, self.schedule.share(self))
        loss = restore + beta * deep + self.config.compare_weight * compare
        terms = {"restore": restore.detach(), "deep": deep.detach(), "compare": compare.detach()}
        if small:
            tiny = self.decoder.scales(self.backbone(torch.cat(small)))
            theirs = [comparison(x, small=True) for comparison, x in zip(self.comparisons, tiny, strict=True)]
            local = torch.stack([across(a, b, len(small)) for a, b in zip(ours, theirs, strict=True)]).mean()
            loss = loss + self.config.compare_weight * local
            terms["compare_small"] = local.detach()
        return {
            "loss": loss,
            **terms,
            "features": self.backbone.pool(pyramid)[:count].detach(),
            "pair": F.normalize(torch.stack(parts(ours[0][0].detach(), 2)), dim=2),
            "metric": mse(shown[-1].detach(), target),
            "baseline": better_of(mse(views["large0"], target), grey_error(target)),
        }

    def shown(self, scales: list[Tensor]) -> list[Tensor]:
        """What each scale of the decoder shows, (B, C, *S) at full resolution."""
        size, mode = scales[-1].shape[2:], "bilinear" if self.spec.spatial_dims == 2 else "trilinear"
        coarse = [to_float32(head(x)) for head, x in zip(self.outputs, scales[:-1], strict=True)]
        return [*(F.interpolate(x, size=size, mode=mode) for x in coarse), to_float32(self.head(scales[-1]))]

    def after_step(self) -> None:
        """Counts, for beta."""
        self.schedule.advance()


def parts(x: Tensor, count: int) -> list[Tensor]:
    """(count * B, d) -> `count` views (B, d)."""
    return list(x.chunk(count))


def between(z: list[Tensor], p: list[Tensor]) -> Tensor:
    """Mean of 1 - cos(p_1, z_2) and 1 - cos(p_2, z_1); all (B, d)."""
    return (cosine_distance(p[0], z[1]) + cosine_distance(p[1], z[0])) / 4


def across(large: tuple[Tensor, Tensor], small: tuple[Tensor, Tensor], count: int) -> Tensor:
    """Mean of `between` over both large views and `count` small ones; z and p of all of them, view by view."""
    pairs = [
        between([z, w], [p, q])
        for z, p in zip(parts(large[0], 2), parts(large[1], 2), strict=True)
        for w, q in zip(parts(small[0], count), parts(small[1], count), strict=True)
    ]
    return torch.stack(pairs).mean()
