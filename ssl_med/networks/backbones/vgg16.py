"""VGG-16 (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015).

In 2D and 3D, with normalisation, without the layers behind the last pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Level, check_widths, conv_norm_relu
from ssl_med.ranges import Count, Width
from ssl_med.spec import SslMedError


@dataclass
class VGGConfig(BackboneConfig):
    """Settings of VGG: by default its form D, of 13 convolutions."""

    channels: tuple[Width, ...] = (64, 128, 256, 512, 512)
    """channels of each level"""
    convolutions: tuple[Count, ...] = (2, 2, 3, 3, 3)
    """convolutions of each level, before the pooling that follows"""

    def __post_init__(self) -> None:
        check_widths("channels", self.channels, norm=self.norm)
        if len(self.convolutions) != len(self.channels):
            raise SslMedError(
                f"backbone.convolutions {list(self.convolutions)}: give one number for each of the {len(self.channels)} levels "
                "of backbone.channels"
            )


class VGG16(Backbone):
    """Levels of plain convolutions of kernel 3, halved by max pooling in between.

    The pyramid holds what each pooling takes (strides 1, 2, 4, 8, 16); the last pooling, before the original's fully
    connected layers, is left out.
    """

    Config = VGGConfig
    config: VGGConfig

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        self.levels, before = nn.ModuleList(), in_channels
        for width, count in zip(config.channels, config.convolutions, strict=True):
            widths = [before, *[width] * count]
            units = [conv_norm_relu(spatial_dims, a, b, config.norm) for a, b in pairwise(widths)]
            self.levels.append(nn.Sequential(*units))
            before = width
        self.halve = nn.MaxPool2d(2) if spatial_dims == 2 else nn.MaxPool3d(2)

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Each level has half the sides of the one before."""
        return [Level(width, (2**level,) * spatial_dims) for level, width in enumerate(config.channels)]

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Its convolutions."""
        return tuple((level,) for level in self.levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> (B, channels[i], *S / 2^i), finest first."""
        pyramid: list[Tensor] = []
        for level in self.levels:
            x = level(self.halve(x) if pyramid else x)
            pyramid.append(x)
        return pyramid
