"""Parts of methods that compare two views: random views of images and volumes, and the embedding network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn

from ssl_med.methods.core.checks import check_order
from ssl_med.networks.pyramid import Backbone
from ssl_med.ranges import NonNegative, PositiveShare, Range, Share
from ssl_med.setting import SET, setting
from ssl_med.transforms._sampling import uniform
from ssl_med.transforms.colour import apply_equalize, apply_greyscale, check_colour, colour_jitter
from ssl_med.transforms.intensity import brightness_contrast, gaussian_blur, solarize
from ssl_med.transforms.spatial import flip, random_resized_crop


@dataclass
class ViewConfig:
    """Random view of an image; of the papers' changes of colour, grey images have brightness and contrast."""

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
    saturation: Share = setting(default=0.0, before=0.0, needs={"colours": ("coloured",), "jitter": SET})
    """coloured images: largest relative change"""
    hue: Annotated[float, Range(0, 0.5)] = setting(
        default=0.0, before=0.0, needs={"colours": ("coloured",), "jitter": SET}
    )
    """coloured images: largest turn of the circle of hues, 0.5 for half of it"""
    greyscale: Share = setting(default=0.0, before=0.0, needs={"colours": ("coloured",)})
    """coloured images: probability that only the luminance is left"""
    equalize: Share = setting(default=0.0, before=0.0, needs={"colours": ("coloured",)})
    """coloured images: probability that the histogram of each channel is made flat"""

    def __post_init__(self) -> None:
        check_order(crop_scale=self.crop_scale, blur_sigma=self.blur_sigma)


@dataclass
class TwoViewConfig:
    """Both views are drawn from the same distribution."""

    view: ViewConfig = field(default_factory=ViewConfig)


def random_view(
    image: Tensor, generator: torch.Generator, config: ViewConfig, *, size: Sequence[int] | None = None
) -> Tensor:
    """(B, C, *S) in [0, 1] -> an independent view per sample, same range, of `size` (default: the image's own).

    Raises:
        SslMedError: the config has changes of colour, and the images have other than three channels.
    """
    view = random_resized_crop(image, generator, scale=config.crop_scale, size=size)
    view = flip(view, generator, p=config.flip, axes=(1,) if image.ndim == 4 else None)
    coloured = config.saturation or config.hue or config.greyscale or config.equalize
    view = _coloured(view, generator, config) if coloured else _grey(view, generator, config)
    view = gaussian_blur(view, generator, sigma=config.blur_sigma, p=config.blur).clamp(0, 1)
    view = solarize(view, generator, p=config.solarize) if config.solarize else view
    return apply_equalize(view, uniform(generator, len(view)) < config.equalize) if config.equalize else view


def _grey(view: Tensor, generator: torch.Generator, config: ViewConfig) -> Tensor:
    return brightness_contrast(view, generator, brightness=config.brightness, contrast=config.contrast, p=config.jitter)


def _coloured(view: Tensor, generator: torch.Generator, config: ViewConfig) -> Tensor:
    check_colour(view)
    strengths = {key: getattr(config, key) for key in ("brightness", "contrast", "saturation", "hue")}
    view = colour_jitter(view, generator, **strengths, p=config.jitter)
    return apply_greyscale(view, uniform(generator, len(view)) < config.greyscale)


class Embedding(nn.Module):
    """Encoder, global average pool and projector as one network, so that a teacher can be its copy."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, C, *S) -> pyramid, finest level first, and embedding (B, d), not normalised."""
        pyramid = self.backbone(x)
        return pyramid, self.projector(self.backbone.pool(pyramid))
