"""Dense V-Net: NiftyNet's network for many organs, small because every layer sees the output of all before it.

Gibson et al., "Automatic multi-organ segmentation on abdominal CT with dense V-networks", IEEE TMI 2018;
sizes as in NiftyNet. Its dropout of channels, its spatial prior and its augmentation inside the
network are left out: here these belong to the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, Level, Norm, norm_layer
from ssl_med.ranges import Count, Width
from ssl_med.spec import SslMedError


@dataclass
class DenseVNetConfig(BackboneConfig):
    """Settings of Dense V-Net; the defaults are NiftyNet's."""

    growth: tuple[Width, ...] = (4, 8, 16)
    """channels that each layer of a stack adds, finest stack first"""
    layers: tuple[Count, ...] = (5, 10, 10)
    """layers of each stack"""
    skip_channels: tuple[Width, ...] = (12, 24, 24)
    """channels that each stack gives to the decoder"""
    entry: Width = 24
    """channels of the strided convolution that leads to a stack"""

    def __post_init__(self) -> None:
        if not len(self.growth) == len(self.layers) == len(self.skip_channels) > 0:
            raise SslMedError(
                f"backbone.growth {list(self.growth)}, layers {list(self.layers)} and skip_channels "
                f"{list(self.skip_channels)} must have a number for each stack"
            )


class DenseVNet(Backbone):
    """Stacks of 3^d convolutions at strides 2, 4, 8; the image, averaged to half its sides, goes into the first one.

    The pyramid holds the image and the stacks, each with all of its channels but the image's.
    """

    Config = DenseVNetConfig
    config: DenseVNetConfig
    image_level = True

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        self.image_norm = _norm(config.norm, spatial_dims, in_channels)
        self.entries, self.stacks = nn.ModuleList(), nn.ModuleList()
        before = in_channels
        for number, (growth, layers) in enumerate(zip(config.growth, config.layers, strict=True)):
            beside = in_channels if number == 0 else 0  # the first stack sees the image, too
            self.entries.append(
                unit(
                    config.norm,
                    spatial_dims,
                    before,
                    config.entry,
                    kernel=3 if number else 5,
                    stride=2,
                    relu=number > 0,
                )
            )
            seen = [beside + config.entry + layer * growth for layer in range(layers)]
            self.stacks.append(nn.ModuleList(unit(config.norm, spatial_dims, width, growth) for width in seen))
            before = seen[-1] + growth

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Entry and layers of each stack."""
        return [
            Level(config.entry + layers * growth, (2 ** (number + 1),) * spatial_dims)
            for number, (growth, layers) in enumerate(zip(config.growth, config.layers, strict=True))
        ]

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Nothing for the image, then each stack with its entry."""
        pairs = list(zip(self.entries, self.stacks, strict=True))
        return (), (self.image_norm, *pairs[0]), *pairs[1:]

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """Convolutions beside the stacks, enlarged and joined."""
        return DenseVNetDecoder(self.config, self.channels, spatial_dims=self.spatial_dims, skips=skips)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> the image and each stack, finest first."""
        pyramid, inner = [x], x
        for number, (entry, stack) in enumerate(zip(self.entries, self.stacks, strict=True)):
            image = [self.image_norm(halved(x))] if number == 0 else []
            seen = [*image, entry(inner)]
            for layer in stack:  # type: ignore[attr-defined]
                seen.append(layer(torch.cat(seen, 1)))
            inner = torch.cat(seen, 1)
            pyramid.append(torch.cat(seen[len(image) :], 1))
        return pyramid


class DenseVNetDecoder(Decoder):
    """From each stack a few channels, enlarged to the finest stack's sides, joined with the image, and convolved.

    The last convolution is linear, as is the head behind it: together they are NiftyNet's 3^d convolution to classes. The image
    joins here alone; NiftyNet also gives it to the convolution beside the first stack.

    Args:
        config: of the encoder.
        channels: of the pyramid, finest first.
        spatial_dims: 2 or 3.
        skips: whether the image and the finer stacks are used.
    """

    def __init__(self, config: DenseVNetConfig, channels: tuple[int, ...], *, spatial_dims: int, skips: bool) -> None:
        super().__init__(skips=skips)
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"
        used = list(zip(channels[1:], config.skip_channels, strict=True))[0 if skips else -1 :]
        self.beside = nn.ModuleList(unit(config.norm, spatial_dims, width, out) for width, out in used)
        joined = sum(out for _, out in used)
        self.channels = (joined,)
        beside = channels[0] if skips else 0
        self.join = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(joined + beside, joined, 3, padding=1)

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid, finest first -> (B, channels[0], *S), the only scale."""
        image, stacks = pyramid[0], pyramid[1:] if self.skips else pyramid[-1:]
        size = pyramid[1].shape[2:]
        parts = [
            F.interpolate(beside(stack), size=size, mode=self.mode)
            for beside, stack in zip(self.beside, stacks, strict=True)
        ]
        parts = [halved(image), *parts] if self.skips else parts
        yield F.interpolate(self.join(torch.cat(parts, 1)), size=image.shape[2:], mode=self.mode)


def unit(
    norm: Norm,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution without bias, normalisation and, mostly, ReLU."""
    convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    layers = [
        convolution(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        _norm(norm, spatial_dims, out_channels),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def halved(x: Tensor) -> Tensor:
    """Averages over 3^d voxels at every other one: (B, C, *S) -> (B, C, *S / 2, rounded up)."""
    average = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    result: Tensor = average(x, 3, 2, 1, count_include_pad=False)
    return result


def _norm(norm: Norm, spatial_dims: int, channels: int) -> nn.Module:
    # a layer adds few channels (4 in the first stack), and the image has fewer: as many groups, up to 8, as divide them
    return norm_layer(norm, spatial_dims, channels, **({"num_groups": gcd(8, channels)} if norm == "group" else {}))
