"""The U-Net of Models Genesis in 2D and 3D, of any depth (methods: Zhou et al. 2021; Ronneberger et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.networks.batch_statistics import use_batch_statistics
from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, Level, Norm, check_widths, conv_norm_relu
from ssl_med.ranges import Width
from ssl_med.setting import setting


@dataclass
class UNetConfig(BackboneConfig):
    """Settings of the U-Net."""

    channels: tuple[Width, ...] = (32, 64, 128, 256, 512)
    """n + 1 widths give n levels; level i widens channels[i] to channels[i + 1] (default: Models Genesis)"""
    fast_up: bool = True
    """on a CPU: joins each level's transposed and first convolution where that is less work (equal up to rounding)"""
    batch_statistics: bool = setting(default=False, before=False, needs={"norm": ("batch",)})
    """in evaluation, too, normalises by the statistics of the batch, as Models Genesis does: features depend on the batch"""

    def __post_init__(self) -> None:
        check_widths("channels", self.channels, norm=self.norm)


class UNet(Backbone):
    """Levels of two convolutions, halved by max pooling in between.

    Level i runs from channels[i] (the first from the image) to channels[i + 1], as in Models Genesis: 1 -> 32 -> 64,
    64 -> 64 -> 128, 128 -> 128 -> 256, 256 -> 256 -> 512.
    """

    Config = UNetConfig
    config: UNetConfig

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        self.levels = nn.ModuleList()
        before, norm = in_channels, config.norm
        for first, second in pairwise(config.channels):
            self.levels.append(
                nn.Sequential(
                    conv_norm_relu(spatial_dims, before, first, norm), conv_norm_relu(spatial_dims, first, second, norm)
                )
            )
            before = second
        self.halve = nn.MaxPool2d(2) if spatial_dims == 2 else nn.MaxPool3d(2)
        if config.batch_statistics:
            use_batch_statistics(self)

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Each level has half the sides of the one before."""
        return [Level(width, (2**level,) * spatial_dims) for level, width in enumerate(config.channels[1:])]

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """The decoder of Models Genesis."""
        decoder = UNetDecoder(
            self.channels,
            spatial_dims=self.spatial_dims,
            norm=self.config.norm,
            skips=skips,
            fast_up=self.config.fast_up,
        )
        if self.config.batch_statistics:
            use_batch_statistics(decoder)
        return decoder

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Two convolutions a level."""
        return tuple((level,) for level in self.levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> (B, channels[i], *S / 2^i), finest first."""
        pyramid: list[Tensor] = []
        for level in self.levels:
            if pyramid:
                with torch.autocast(x.device.type, enabled=False):  # on a CPU it would widen bfloat16 to pick a value
                    x = self.halve(x)
            x = level(x)
            pyramid.append(x)
        return pyramid


class UNetDecoder(Decoder):
    """Transposed convolutions that keep the width, concatenation of the skip, two convolutions.

    Args:
        channels: widths of the pyramid, finest first.
        spatial_dims: 2 or 3.
        norm: normalisation layers.
        skips: whether the pyramid's finer levels are used.
        fast_up: on the CPU, compute a level's transposed and first convolution as `joined_up` where that is less work.
    """

    def __init__(
        self, channels: tuple[int, ...], *, spatial_dims: int, norm: Norm, skips: bool, fast_up: bool = True
    ) -> None:
        super().__init__(skips=skips)
        transposed = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        self.channels, self.fast_up = tuple(channels[-2::-1]), fast_up
        self.up, self.levels = nn.ModuleList(), nn.ModuleList()
        for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True):
            self.up.append(transposed(deep, deep, kernel_size=2, stride=2))
            joined = deep + skip if skips else deep
            self.levels.append(
                nn.Sequential(
                    conv_norm_relu(spatial_dims, joined, skip, norm), conv_norm_relu(spatial_dims, skip, skip, norm)
                )
            )

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid, finest first -> (B, channels[i], *) from the second coarsest level to full resolution."""
        x = pyramid[-1]
        up: Any
        level: Any
        for up, level, skip in zip(self.up, self.levels, pyramid[-2::-1], strict=True):
            first, second = level
            # with a side of 1 the joined kernel has wrong gradients in bfloat16 (convolution.py), and gains nothing
            join = self.fast_up and x.device.type == "cpu" and min(x.shape[2:]) > 1
            if join and joining_pays(x, out_channels=skip.shape[1]):
                x = second(first.adn(joined_up(x, skip if self.skips else None, up, first.conv)))
            else:
                x = up(x)
                x = second(first(torch.cat([x, skip], 1) if self.skips else x))
            yield x


def joined_up(x: Tensor, skip: Tensor | None, up: Any, conv: Any) -> Tensor:
    """conv(cat(up(x), skip)) with fewer operations; the same function of the same parameters.

    A transposed convolution of kernel 2, stride 2 followed by a 3^d convolution is one transposed convolution of kernel
    4, stride 2: 2^d instead of 3^d products per voxel and pair of channels, and no full-resolution copy of x.

    Args:
        x: (B, C, *S).
        skip: (B, K, *2S), or None.
        up: the module of the transposed convolution, C -> C.
        conv: the module of the 3^d convolution with bias, C + K -> Q, padding 1.

    Returns:
        (B, Q, *2S).
    """
    dims = x.ndim - 2
    convolve, transpose = (F.conv2d, F.conv_transpose2d) if dims == 2 else (F.conv3d, F.conv_transpose3d)
    below, beside = conv.weight[:, : x.shape[1]], conv.weight[:, x.shape[1] :]
    # the kernels' product: the 3^d one, mirrored as a correlation demands, spread by the 2^d one
    kernel = transpose(below.flip(list(range(2, 2 + dims))), up.weight.transpose(0, 1)).transpose(0, 1).contiguous()
    # up's bias passes the 3^d kernel, of which less lies inside at the border: first, inner and last voxel per axis
    constant = up.bias.view(1, -1, *[1] * dims).expand(1, -1, *[3] * dims)
    offset = convolve(constant, below, conv.bias, padding=1)[0]
    inner = offset.flatten(1)[:, 3**dims // 2]
    y: Tensor = transpose(x, kernel, inner, stride=2, padding=1)
    y = _AddToBorder.apply(y, offset - inner.view(-1, *[1] * dims))  # type: ignore[no-untyped-call]
    if skip is not None:
        y += convolve(skip, beside, padding=1)
    return y


class _AddToBorder(torch.autograd.Function):
    """Adds to the voxels of a border, in place, what belongs to their side, edge or corner; the interior is not read.

    y: (B, Q, *S). offset: (Q, 3, ..., 3) for first, inner and last voxels of each axis; its center is taken as 0.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, offset: Tensor) -> Tensor:
        for place, region in _border(y):
            region += offset.flatten(1)[:, place].view(-1, *[1] * (y.ndim - 2))
        ctx.mark_dirty(y)
        ctx.type = offset.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        grad = grads[0]
        dims = grad.ndim - 2
        offset = grad.new_zeros(grad.shape[1], 3**dims, dtype=ctx.type)
        for place, region in _border(grad):
            offset[:, place] = region.sum([0, *range(2, 2 + dims)], dtype=ctx.type)
        return grad, offset.view(-1, *[3] * dims)


def _border(y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Views of sides, edges and corners of (B, Q, *S), and where each stands in a row-major table of 3^d regions."""
    ranges = slice(0, 1), slice(1, -1), slice(-1, None)
    index: Any
    for place, index in enumerate(product(ranges, repeat=y.ndim - 2)):
        if any(part != ranges[1] for part in index):
            yield place, y[(..., *index)]


def joining_pays(x: Tensor, *, out_channels: int) -> bool:
    """Whether the products that `joined_up` saves are at least twice those of multiplying the two kernels.

    x: (B, C, *S) before upsampling. Measured on CPUs: below that the small kernel product is the slower part.
    """
    dims, channels = x.ndim - 2, x.shape[1]
    voxels = x.numel() // channels * 2**dims
    saved: int = voxels * ((3**dims - 2**dims) * out_channels + channels)
    cost: int = 6**dims * out_channels * channels
    return saved >= 2 * cost
