"""The U-Net of anatomix: reflected borders, upsampling without parameters, and a last convolution to features for each voxel.

Dey et al., "Learning general-purpose biomedical volume representations using randomized synthesis", ICLR 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, Level, check_widths, norm_layer
from ssl_med.ranges import Count, Positive, Width
from ssl_med.setting import setting
from ssl_med.spec import SslMedError


@dataclass
class AnatomixConfig(BackboneConfig):
    """Settings of anatomix' U-Net; the defaults are those of its published weights."""

    filters: Width = 16
    """channels of the finest level; each coarser level has twice as many"""
    halvings: Count = 4
    """how often the sides are halved"""
    features: Width = 16
    """channels that leave the decoder"""
    pooling: Literal["max", "average"] = "max"
    """how sides are halved"""
    upsampling: Literal["nearest", "linear"] = "nearest"
    """how sides are doubled"""
    norm_eps: Positive = setting(default=1e-5, needs={"norm": ("batch", "instance")})
    """added to the variance of normalisation layers"""
    affine: bool = setting(default=True, needs={"norm": ("instance",)})
    """whether instance normalisation learns a scale and a shift"""
    bias: bool = False
    """whether the convolutions before a normalisation have a bias; the last one has it with them"""

    def __post_init__(self) -> None:
        check_widths("filters", self.widths, norm=self.norm)

    @property
    def widths(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.filters * 2**level for level in range(self.halvings + 1)]


class Anatomix(Backbone):
    """A stem, then levels of two convolutions, halved by pooling in between."""

    Config = AnatomixConfig
    config: AnatomixConfig

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        widths = config.widths
        self.stem = unit(config, spatial_dims, in_channels, widths[0])
        self.levels = nn.ModuleList(
            pair(config, spatial_dims, before, width)
            for before, width in zip([widths[0], *widths], widths, strict=False)
        )
        pools: dict[tuple[str, int], Any] = {("max", 2): nn.MaxPool2d, ("max", 3): nn.MaxPool3d}
        pools |= {("average", 2): nn.AvgPool2d, ("average", 3): nn.AvgPool3d}
        self.halve = pools[config.pooling, spatial_dims](2)

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Each level has half the sides of the one before."""
        return [Level(width, (2**level,) * spatial_dims) for level, width in enumerate(config.widths)]

    @property
    def min_input_side(self) -> tuple[int, ...]:
        """A border can be reflected where there are two voxels."""
        return tuple(2 * side for side in self.divisor)

    @classmethod
    def check(cls, config: Any, spec: Any) -> None:
        """Also refuses patches that leave one voxel along an axis of the last level, which cannot be reflected."""
        super().check(config, spec)
        least = 2 * 2**config.halvings
        if min(spec.patch_size) < least:
            raise SslMedError(
                f"data.patch_size {list(spec.patch_size)} leaves one voxel along an axis of the last level, whose border "
                f"cannot be reflected; take sides of {least} at least, or a smaller backbone.halvings"
            )

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Two convolutions a level, and the stem with the first."""
        return ((self.stem, self.levels[0]), *((level,) for level in self.levels[1:]))

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """Upsampling, the skip in front, two convolutions; a last convolution to `features`."""
        return AnatomixDecoder(self.config, spatial_dims=self.spatial_dims, skips=skips)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> (B, filters * 2^i, *S / 2^i), finest first."""
        x = self.stem(x)
        pyramid: list[Tensor] = []
        for level in self.levels:
            x = level(self.halve(x) if pyramid else x)
            pyramid.append(x)
        return pyramid


class AnatomixDecoder(Decoder):
    """The decoder of anatomix, whose output is its features for each voxel.

    Args:
        config: of the encoder.
        spatial_dims: 2 or 3.
        skips: whether the pyramid's finer levels are used.
    """

    def __init__(self, config: AnatomixConfig, *, spatial_dims: int, skips: bool) -> None:
        super().__init__(skips=skips)
        widths = config.widths
        mode = config.upsampling if config.upsampling == "nearest" else "bilinear" if spatial_dims == 2 else "trilinear"
        self.mode = mode
        self.channels = (*widths[-2:0:-1], config.features)
        self.levels = nn.ModuleList(
            pair(config, spatial_dims, deep + (skip if skips else 0), skip)
            for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = convolution(config, spatial_dims, widths[0], config.features)

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid, finest first -> (B, channels[i], *) from the second coarsest level to full resolution."""
        x = pyramid[-1]
        for number, (level, skip) in enumerate(zip(self.levels, pyramid[-2::-1], strict=True), 1):
            x = F.interpolate(x, scale_factor=2.0, mode=self.mode)
            x = level(torch.cat([skip, x], 1) if self.skips else x)
            yield self.head(x) if number == len(self.levels) else x


def convolution(config: AnatomixConfig, spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """3^d convolution that reflects the border."""
    kind = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    return kind(in_channels, out_channels, 3, padding=1, padding_mode="reflect", bias=config.bias)


def unit(config: AnatomixConfig, spatial_dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(
        convolution(config, spatial_dims, in_channels, out_channels),
        _norm(config, spatial_dims, out_channels),
        nn.ReLU(inplace=True),
    )


def pair(config: AnatomixConfig, spatial_dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Two units."""
    return nn.Sequential(
        unit(config, spatial_dims, in_channels, out_channels), unit(config, spatial_dims, out_channels, out_channels)
    )


def _norm(config: AnatomixConfig, spatial_dims: int, channels: int) -> nn.Module:
    options: dict[str, object] = {"affine": config.affine} if config.norm == "instance" else {}
    return norm_layer(config.norm, spatial_dims, channels, eps=config.norm_eps, **options)
