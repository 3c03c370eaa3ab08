"""`build_backbone(config, ...)`: an encoder whose output is a pyramid of features, and the decoder that belongs to it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from ssl_med.spec import DataSpec, SslMedError

Norm = Literal["batch", "group", "instance"]
NAMES = ("unet", "resnet18", "resnet50")


@dataclass
class BackboneConfig:
    """Architecture and initialisation."""

    name: str = "auto"
    """unet, resnet18 or resnet50; auto: unet for volumes, resnet18 for images"""
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    """unet: n + 1 widths give n levels; level i widens channels[i] to channels[i + 1] (default: Models Genesis)"""
    norm: Norm = "batch"
    """normalisation layers; group means 8 groups"""
    init: Literal["torch", "uniform", "xavier", "msra"] = "torch"
    """scheme of the initial weights, see networks.init"""
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    """resnets: widths of the decoder, coarsest first"""
    fast_up: bool = True
    """unet on a CPU: joins each level's transposed and first convolution where that is less work (equal up to rounding)"""


class Backbone(nn.Module, ABC):
    """Encoder. `channels` and `strides` describe the pyramid, finest level first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels = spatial_dims, in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the last level."""
        return self.channels[-1]

    @property
    def divisor(self) -> int:
        """Every side of the input must be divisible by it."""
        return self.strides[-1]

    @property
    def min_input_side(self) -> int:
        """Smallest side of an input that reaches the last level; without a decoder it need not divide evenly."""
        return self.divisor

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> pyramid of (B, channels[i], *S / strides[i])."""

    @abstractmethod
    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The modules that make each level, finest first; together all that have parameters."""

    def pool(self, pyramid: list[Tensor]) -> Tensor:
        """Global average of the last level: (B, out_channels)."""
        return pyramid[-1].flatten(2).mean(2)


class Decoder(nn.Module, ABC):
    """From a pyramid to features at full resolution; `skips=False` uses the last level only.

    channels: widths of its scales, coarsest first.
    """

    channels: tuple[int, ...]

    def __init__(self, *, skips: bool) -> None:
        super().__init__()
        self.skips = skips

    @property
    def out_channels(self) -> int:
        """Channels at full resolution."""
        return self.channels[-1]

    @abstractmethod
    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid -> (B, channels[i], *S / 2^(n - 1 - i)) scale by scale; the last has full resolution."""

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Pyramid -> (B, out_channels, *S)."""
        x = pyramid[-1]
        for scale in self.scales(pyramid):
            x = scale
        return x


def resolve(config: BackboneConfig, spec: DataSpec) -> BackboneConfig:
    """Replaces `auto`, and refuses what cannot be built.

    Raises:
        SslMedError: unknown name, unusable widths, or a patch size that the network cannot halve often enough.
    """
    name = config.name if config.name != "auto" else ("unet" if spec.spatial_dims == 3 else "resnet18")
    if name not in NAMES:
        raise SslMedError(f"backbone.name is '{name}'; choose one of auto, {', '.join(NAMES)}")
    widths = config.channels if name == "unet" else config.decoder_channels
    key = "channels" if name == "unet" else "decoder_channels"
    if len(widths) < 2 or min(widths) < 1:
        raise SslMedError(f"backbone.{key} is {list(widths)}; give at least two positive widths")
    if name != "unet" and len(widths) != 5:
        raise SslMedError(
            f"backbone.decoder_channels is {list(widths)}; a resnet has five levels and needs five widths"
        )
    if config.norm == "group" and any(width % 8 for width in widths):
        raise SslMedError(f"backbone.norm=group needs widths divisible by 8; backbone.{key} is {list(widths)}")
    divisor = 2 ** (len(config.channels) - 2) if name == "unet" else 32
    if any(side % divisor for side in spec.patch_size):
        nearest = [max(divisor, round(side / divisor) * divisor) for side in spec.patch_size]
        raise SslMedError(
            f"data.patch_size {list(spec.patch_size)} does not fit backbone {name}: each side must be divisible by "
            f"{divisor}; try data.patch_size={str(nearest).replace(' ', '')}"
        )
    if math.prod(side // divisor for side in spec.patch_size) < 2 and config.norm == "instance":
        raise SslMedError(
            f"data.patch_size {list(spec.patch_size)} leaves one voxel at the last level of {name}, which instance "
            "normalisation cannot use; take a larger patch or fewer backbone.channels"
        )
    return replace(config, name=name)


def build_backbone(config: BackboneConfig, *, spatial_dims: int, in_channels: int) -> Backbone:
    """The encoder of a resolved config."""
    if config.name == "unet":
        from ssl_med.networks.backbones.unet import UNetEncoder

        return UNetEncoder(config.channels, spatial_dims=spatial_dims, in_channels=in_channels, norm=config.norm)
    from ssl_med.networks.backbones.resnet import ResNetEncoder

    return ResNetEncoder(config.name, spatial_dims=spatial_dims, in_channels=in_channels, norm=config.norm)


def build_decoder(config: BackboneConfig, backbone: Backbone, *, skips: bool = True) -> Decoder:
    """The decoder that belongs to the encoder of the same config."""
    if config.name == "unet":
        from ssl_med.networks.backbones.unet import UNetDecoder

        return UNetDecoder(
            backbone.channels, spatial_dims=backbone.spatial_dims, norm=config.norm, skips=skips, fast_up=config.fast_up
        )
    from ssl_med.networks.backbones.resnet import ResNetDecoder

    return ResNetDecoder(backbone, config.decoder_channels, norm=config.norm, skips=skips)


def norm_of(norm: Norm) -> tuple[str, dict[str, object]] | str:
    """MONAI's name of a normalisation layer."""
    if norm == "group":
        return ("group", {"num_groups": 8})
    if norm == "instance":
        return ("instance", {"affine": True})
    return "batch"
