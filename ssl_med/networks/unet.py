"""The U-Net of Models Genesis in 2D and 3D, of any depth (methods: Zhou et al. 2021; Ronneberger et al. 2015)."""

from __future__ import annotations

from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from ssl_med.networks.backbone import Backbone, Decoder, Norm, norm_of


def conv_norm_relu(spatial_dims: int, in_channels: int, out_channels: int, norm: Norm) -> nn.Module:
    """3^d convolution with bias, normalisation, ReLU."""
    block: nn.Module = Convolution(
        spatial_dims,
        in_channels,
        out_channels,
        kernel_size=3,
        adn_ordering="NA",
        norm=norm_of(norm),
        act=("relu", {"inplace": True}),
    )
    return block


class UNetEncoder(Backbone):
    """Levels of two convolutions, halved by max pooling in between.

    Args:
        channels: n + 1 widths for n levels; level i runs from channels[i] (the first from the image) to channels[i + 1],
            as in Models Genesis: 1 -> 32 -> 64, 64 -> 64 -> 128, 128 -> 128 -> 256, 256 -> 256 -> 512.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        norm: normalisation layers.
    """

    def __init__(self, channels: tuple[int, ...], *, spatial_dims: int, in_channels: int, norm: Norm) -> None:
        super().__init__(spatial_dims=spatial_dims, in_channels=in_channels)
        self.channels = tuple(channels[1:])
        self.strides = tuple(2**level for level in range(len(self.channels)))
        self.levels = nn.ModuleList()
        before = in_channels
        for first, second in pairwise(channels):
            self.levels.append(
                nn.Sequential(
                    conv_norm_relu(spatial_dims, before, first, norm), conv_norm_relu(spatial_dims, first, second, norm)
                )
            )
            before = second
        self.halve = nn.MaxPool2d(2) if spatial_dims == 2 else nn.MaxPool3d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> (B, channels[i], *S / 2^i), finest first."""
        pyramid: list[Tensor] = []
        for level in self.levels:
            x = level(self.halve(pyramid[-1]) if pyramid else x)
            pyramid.append(x)
        return pyramid


class UNetDecoder(Decoder):
    """Transposed convolutions that keep the width, concatenation of the skip, two convolutions."""

    def __init__(self, channels: tuple[int, ...], *, spatial_dims: int, norm: Norm, skips: bool) -> None:
        super().__init__(skips=skips)
        transposed = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        self.out_channels = channels[0]
        self.up, self.levels = nn.ModuleList(), nn.ModuleList()
        for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True):
            self.up.append(transposed(deep, deep, kernel_size=2, stride=2))
            joined = deep + skip if skips else deep
            self.levels.append(
                nn.Sequential(
                    conv_norm_relu(spatial_dims, joined, skip, norm), conv_norm_relu(spatial_dims, skip, skip, norm)
                )
            )

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Pyramid, finest first -> (B, channels[0], *S)."""
        x = pyramid[-1]
        for up, level, skip in zip(self.up, self.levels, pyramid[-2::-1], strict=True):
            x = up(x)
            x = level(torch.cat([x, skip], 1) if self.skips else x)
        return x
