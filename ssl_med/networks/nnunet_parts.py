"""What nnU-Net's two encoders share (Isensee et al., Nature Methods 2021; "nnU-Net revisited", MICCAI 2024).

A plan gives each stage its width, kernel and stride along each axis, so that thin axes of a scan are halved later or never.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, Level, Norm, check_widths, norm_layer
from ssl_med.ranges import Count, Width
from ssl_med.spec import SslMedError

Sides = tuple[int, ...]


@dataclass
class PlannedConfig(BackboneConfig):
    """Settings of a network that a plan describes; the defaults are those of the 3D full-resolution plan of most data sets."""

    norm: Norm = "instance"
    """normalisation layers; group means 8 groups"""
    features: tuple[Width, ...] = (32, 64, 128, 256, 320, 320)
    """channels of each stage, finest first; their number is that of the stages"""
    kernels: tuple[tuple[Count, ...], ...] = ()
    """kernel of each stage along each axis, such as [[1,3,3],[3,3,3]]; odd numbers; empty: 3 everywhere"""
    strides: tuple[tuple[Count, ...], ...] = ()
    """stride of each stage along each axis, the first usually 1; empty: 1, then 2 everywhere"""
    blocks: tuple[Count, ...] = ()
    """convolutions (plainconv) or residual blocks (resenc) of each stage; empty: those of nnU-Net"""
    blocks_up: Count = 2
    """convolutions of each stage of the decoder"""

    def __post_init__(self) -> None:
        check_widths("features", self.features, norm=self.norm)
        stages = len(self.features)
        for key in ("kernels", "strides", "blocks"):
            found = getattr(self, key)
            if found and len(found) != stages:
                raise SslMedError(
                    f"backbone.{key} has {len(found)} entries, backbone.features has {stages}; give one for each stage"
                )
        if any(side % 2 == 0 for kernel in self.kernels for side in kernel):
            raise SslMedError(f"backbone.kernels is {_listed(self.kernels)}; sides of kernels are odd numbers")

    def stages(self, spatial_dims: int) -> list[tuple[int, Sides, Sides, int]]:
        """Width, kernel, stride and number of blocks of each stage, finest first."""
        count = len(self.features)
        kernels = self.kernels or ((3,) * spatial_dims,) * count
        strides = self.strides or ((1,) * spatial_dims, *((2,) * spatial_dims,) * (count - 1))
        return list(zip(self.features, kernels, strides, self.blocks or self.usual_blocks(count), strict=True))

    def usual_blocks(self, count: int) -> tuple[int, ...]:
        """Blocks of each stage where nothing is set."""
        return (2,) * count


class PlannedBackbone(Backbone):
    """An encoder of the stages of a plan; a leaf says what a stage is made of and what comes before the first."""

    Config = PlannedConfig
    config: PlannedConfig

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        before = self.build_stem(in_channels)
        self.stages = nn.ModuleList()
        for width, kernel, stride, blocks in config.stages(spatial_dims):
            self.stages.append(self.stage(before, width, kernel, stride, blocks))
            before = width

    def build_stem(self, in_channels: int) -> int:
        """Makes what comes before the first stage, if anything -> channels that enter the first stage."""
        return in_channels

    def stage(self, before: int, width: int, kernel: Sides, stride: Sides, blocks: int) -> nn.Module:
        """One stage; its first block has the stride."""
        return convolutions(before, width, kernel, stride, blocks, norm=self.config.norm)

    def stem(self, x: Tensor) -> Tensor:
        """What comes before the first stage."""
        return x

    def stem_modules(self) -> tuple[nn.Module, ...]:
        """Modules of the stem."""
        return ()

    @classmethod
    def check(cls, config: Any, spec: Any) -> None:
        """Also refuses kernels and strides for another number of axes."""
        for key in ("kernels", "strides"):
            if any(len(sides) != spec.spatial_dims for sides in getattr(config, key)):
                raise SslMedError(
                    f"backbone.{key} is {_listed(getattr(config, key))}, data '{spec.name}' has {spec.spatial_dims} axes"
                )
        super().check(config, spec)

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """A level for each stage, its stride the product of those before."""
        levels, total = [], (1,) * spatial_dims
        for width, _, stride, _ in config.stages(spatial_dims):
            total = tuple(a * b for a, b in zip(total, stride, strict=False))
            levels.append(Level(width, total))
        return levels

    @property
    def min_input_side(self) -> tuple[int, ...]:
        """Padded strided convolutions leave one voxel of any image."""
        return (1,) * self.spatial_dims

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The stem with the first stage, then a stage each."""
        first, *others = self.stages
        return (*self.stem_modules(), first), *((stage,) for stage in others)

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """nnU-Net's: transposed convolution with the stride as kernel, concatenation, convolutions."""
        return PlannedDecoder(self.config, spatial_dims=self.spatial_dims, skips=skips)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> a level for each stage, finest first."""
        pyramid, x = [], self.stem(x)
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        return pyramid


class PlannedDecoder(Decoder):
    """The decoder of nnU-Net without its segmentation layers; a first stage with a stride gets a last step without a skip.

    Args:
        config: of the encoder.
        spatial_dims: 2 or 3.
        skips: whether the pyramid's finer levels are used.
    """

    def __init__(self, config: PlannedConfig, *, spatial_dims: int, skips: bool) -> None:
        super().__init__(skips=skips)
        stages = config.stages(spatial_dims)
        self.up, self.blocks = nn.ModuleList(), nn.ModuleList()
        transposed = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        widths = []
        for (deep, _, stride, _), (width, kernel, _, _) in zip(stages[:0:-1], stages[-2::-1], strict=True):
            self.up.append(transposed(deep, width, stride, stride))  # type: ignore[arg-type]
            joined = 2 * width if skips else width
            self.blocks.append(
                convolutions(joined, width, kernel, (1,) * spatial_dims, config.blocks_up, norm=config.norm)
            )
            widths.append(width)
        width, kernel, stride, _ = stages[0]
        if max(stride) > 1:
            self.up.append(transposed(width, width, stride, stride))  # type: ignore[arg-type]
            self.blocks.append(
                convolutions(width, width, kernel, (1,) * spatial_dims, config.blocks_up, norm=config.norm)
            )
            widths.append(width)
        self.channels = tuple(widths)

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid, finest first -> (B, channels[i], *), from the second coarsest stage to full resolution."""
        x = pyramid[-1]
        finer: list[Tensor | None] = [*pyramid[-2::-1], *[None] * (len(self.up) - len(pyramid) + 1)]
        for up, blocks, skip in zip(self.up, self.blocks, finer, strict=True):
            x = up(x)
            x = blocks(torch.cat([x, skip], 1) if self.skips and skip is not None else x)
            yield x


def convolutions(before: int, width: int, kernel: Sides, stride: Sides, count: int, *, norm: Norm) -> nn.Sequential:
    """Convolution with bias, normalisation and leaky ReLU of slope 0.01, `count` times; the first has the stride."""
    parts: list[nn.Module] = []
    for number in range(count):
        step = stride if number == 0 else (1,) * len(stride)
        parts.append(conv_norm(before if number == 0 else width, width, kernel, step, norm=norm))
        parts.append(nn.LeakyReLU(0.01, inplace=True))
    return nn.Sequential(*parts)


def conv_norm(before: int, width: int, kernel: Sides, stride: Sides, *, norm: Norm, bias: bool = True) -> nn.Sequential:
    """Convolution that keeps the size up to its stride, and normalisation."""
    convolution = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
    padding = tuple(side // 2 for side in kernel)
    return nn.Sequential(
        convolution(before, width, kernel, stride, padding, bias=bias),  # type: ignore[arg-type]
        norm_layer(norm, len(kernel), width),
    )


def _listed(sides: Sequence[Sequence[int]]) -> str:
    return str([list(one) for one in sides]).replace(" ", "")
