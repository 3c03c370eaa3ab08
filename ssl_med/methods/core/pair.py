"""Parts of methods that compare two views: random views of images and volumes, and the embedding network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssl_med.methods.core.checks import check_order
from ssl_med.networks.pyramid import Backbone
from ssl_med.ranges import NonNegative, PositiveShare, Share
from ssl_med.setting import SET, setting
from ssl_med.transforms.intensity import brightness_contrast, gaussian_blur, solarize
from ssl_med.transforms.spatial import flip, random_resized_crop


@dataclass
class ViewConfig:
    """Random view of an image; colour transforms of the papers reduce to brightness and contrast on grey images."""

    crop_scale: tuple[PositiveShare, PositiveShare] = (0.2, 1.0)
    """area or volume of the random resized crop, as a share of the image"""
    flip: Share = 0.5
    """probability per flipped axis; an image is flipped left-right only"""
    brightness: Share = setting(default=0.4, needs={"jitter": SET})
    """largest relative change"""
    contrast: Share = setting(default=0.4, needs={"jitter": SET})
    """largest relative change"""
    jitter: Share = 0.8
    """probability of brightness and contrast changes"""
    blur: Share = 0.5
    """probability of a Gaussian blur"""
    blur_sigma: tuple[NonNegative, NonNegative] = setting(default=(0.1, 2.0), needs={"blur": SET})
    """standard deviation of the blur in voxels"""
    solarize: Share = 0.0
    """probability that all values from 0.5 upwards are inverted"""

    def __post_init__(self) -> None:
        check_order(crop_scale=self.crop_scale, blur_sigma=self.blur_sigma)


@dataclass
class TwoViewConfig:
    """Both views are drawn from the same distribution."""

    view: ViewConfig = field(default_factory=ViewConfig)


def random_view(
    image: Tensor, generator: torch.Generator, config: ViewConfig, *, size: Sequence[int] | None = None
) -> Tensor:
    """(B, C, *S) in [0, 1] -> an independent view per sample, same range, of `size` (default: the image's own)."""
    view = random_resized_crop(image, generator, scale=config.crop_scale, size=size)
    view = flip(view, generator, p=config.flip, axes=(1,) if image.ndim == 4 else None)
    view = brightness_contrast(view, generator, brightness=config.brightness, contrast=config.contrast, p=config.jitter)
    view = gaussian_blur(view, generator, sigma=config.blur_sigma, p=config.blur).clamp(0, 1)
    return solarize(view, generator, p=config.solarize) if config.solarize else view


class Embedding(nn.Module):
    """Encoder, global average pool and projector as one network, so that a teacher can be its copy."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, C, *S) -> pyramid, finest level first, and embedding (B, d), not normalised."""
        pyramid = self.backbone(x)
        return pyramid, self.projector(self.backbone.pool(pyramid))
