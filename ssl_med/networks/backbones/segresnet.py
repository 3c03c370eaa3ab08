"""SegResNet as in MONAI's SegResNetDS (Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, Level, Norm, check_widths, norm_of
from ssl_med.ranges import Count, Millimetres, Width
from ssl_med.spec import SslMedError


@dataclass
class SegResNetConfig(BackboneConfig):
    """Settings of SegResNet; the defaults are MONAI's, but for instance normalisation, which suits small batches."""

    norm: Norm = "instance"
    """normalisation layers; group means 8 groups"""
    filters: Width = 32
    """channels of the finest level; each coarser level has twice as many"""
    blocks: tuple[Count, ...] = (1, 2, 2, 4)
    """residual blocks of each level, finest first"""
    blocks_up: tuple[Count, ...] = ()
    """residual blocks of each level of the decoder, coarsest first; empty: one each"""
    resolution: tuple[Millimetres, ...] = ()
    """spacing of the images, mm per axis: levels halve the finer axes until voxels are about cubic; empty: all axes alike"""

    def __post_init__(self) -> None:
        check_widths("filters", self.widths, norm=self.norm)
        if self.blocks_up and len(self.blocks_up) != len(self.blocks) - 1:
            raise SslMedError(
                f"backbone.blocks_up is {list(self.blocks_up)}; a network of {len(self.blocks)} levels needs "
                f"{len(self.blocks) - 1} numbers"
            )

    @property
    def widths(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.filters * 2**level for level in range(len(self.blocks))]


class SegResNet(Backbone):
    """Residual blocks with normalisation and activation before each convolution; strided convolutions in between."""

    Config = SegResNetConfig
    config: SegResNetConfig

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        self.encoder = _network(config, spatial_dims, in_channels).encoder

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Full resolution first; halved level by level, along the axes that `resolution` leaves to be halved."""
        steps = [(2,) * spatial_dims] * len(config.blocks)
        if config.resolution:
            from monai.networks.nets.segresnet_ds import aniso_kernel, scales_for_resolution

            scales = scales_for_resolution(config.resolution, n_stages=len(config.blocks))
            steps = [tuple(aniso_kernel(scale)[2]) for scale in scales]
        levels, stride = [], (1,) * spatial_dims
        for width, step in zip(config.widths, steps, strict=True):
            levels.append(Level(width, stride))
            stride = tuple(a * b for a, b in zip(stride, step, strict=True))
        return levels

    @classmethod
    def check(cls, config: Any, spec: Any) -> None:
        """Also refuses a spacing for another number of axes."""
        if config.resolution and len(config.resolution) != spec.spatial_dims:
            raise SslMedError(
                f"backbone.resolution is {list(config.resolution)}, data '{spec.name}' has {spec.spatial_dims} axes"
            )
        super().check(config, spec)

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The blocks of each level with the strided convolution that leads to it."""
        layers: Any = self.encoder.layers
        first = (self.encoder.conv_init, layers[0]["blocks"])
        return (first, *((before["downsample"], level["blocks"]) for before, level in pairwise(layers)))

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """MONAI's: transposed convolution, sum with the skip, residual blocks."""
        return SegResNetDecoder(self.config, spatial_dims=self.spatial_dims, skips=skips)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> the levels, finest first."""
        pyramid: list[Tensor] = self.encoder(x)
        return pyramid


class SegResNetDecoder(Decoder):
    """The decoder of SegResNetDS without its heads.

    Args:
        config: of the encoder.
        spatial_dims: 2 or 3.
        skips: whether the pyramid's finer levels are added.
    """

    def __init__(self, config: SegResNetConfig, *, spatial_dims: int, skips: bool) -> None:
        super().__init__(skips=skips)
        self.up_layers = nn.ModuleList()
        for level in _network(config, spatial_dims, 1).up_layers:
            self.up_layers.append(nn.ModuleDict({key: level[key] for key in ("upsample", "blocks")}))
        self.channels = tuple(config.widths[-2::-1])

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid, finest first -> (B, channels[i], *), from the second coarsest level to full resolution."""
        x = pyramid[-1]
        level: Any
        for level, skip in zip(self.up_layers, pyramid[-2::-1], strict=True):
            x = level["upsample"](x)
            x = level["blocks"](x + skip if self.skips else x)
            yield x


def _network(config: SegResNetConfig, spatial_dims: int, in_channels: int) -> Any:
    """MONAI's network, of which encoder and decoder take their parts."""
    from monai.networks.nets.segresnet_ds import SegResNetDS  # seconds to import, and settings are checked without it

    return SegResNetDS(
        spatial_dims=spatial_dims,
        init_filters=config.filters,
        in_channels=in_channels,
        out_channels=1,
        norm=norm_of(config.norm),
        blocks_down=tuple(config.blocks),
        blocks_up=tuple(config.blocks_up) or None,
        resolution=tuple(config.resolution) or None,
    )
