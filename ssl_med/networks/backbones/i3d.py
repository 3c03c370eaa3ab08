"""Inception-I3D (Carreira and Zisserman, "Quo vadis, action recognition?", CVPR 2017): GoogLeNet for videos, here for volumes.

The last axis is the one of time, so that slices stand for frames: it is halved later than the others. Like TensorFlow, layers
pad as much as a whole number of strides needs, the odd voxel behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Level, norm_layer

# output channels of the branches: 1^3; 1^3 then 3^3; 1^3 then 3^3; pooling then 1^3 (Szegedy et al. 2015, Table 1)
_MODULES: dict[str, tuple[int, ...]] = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
_EPS = 1e-3  # of TensorFlow's batch normalisation
# the stages: what is pooled before them (kernel, stride), and their modules
_STAGES: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]], ...] = (
    ((3, 3, 1), (2, 2, 1), ("conv_2b", "conv_2c")),
    ((3, 3, 1), (2, 2, 1), ("mixed_3b", "mixed_3c")),
    ((3, 3, 3), (2, 2, 2), ("mixed_4b", "mixed_4c", "mixed_4d", "mixed_4e", "mixed_4f")),
    ((2, 2, 2), (2, 2, 2), ("mixed_5b", "mixed_5c")),
)


@dataclass
class I3DConfig(BackboneConfig):
    """Settings of I3D: those that all networks have."""


class I3D(Backbone):
    """7^3 stem of stride 2, two convolutions, nine Inception modules; volumes only.

    The pyramid holds the stem (strides 2, 2, 2) and what stands before each pooling (4, 4, 2; 8, 8, 2; 16, 16, 4; 32, 32, 8).
    """

    Config = I3DConfig
    config: I3DConfig
    dims = (3,)

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        norm = config.norm
        self.conv_1a = Unit(in_channels, 64, kernel=7, stride=2, norm=norm)
        self.conv_2b = Unit(64, 64, kernel=1, norm=norm)
        self.conv_2c = Unit(64, 192, kernel=3, norm=norm)
        before = 192
        for name, widths in _MODULES.items():
            self.add_module(name, Inception(before, widths, norm=norm))
            before = _width(widths)

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Stem, second convolution, and the last module of each stage."""
        widths = [64, 192, *(_width(_MODULES[name]) for name in ("mixed_3c", "mixed_4f", "mixed_5c"))]
        strides = [(2, 2, 2), (4, 4, 2), (8, 8, 2), (16, 16, 4), (32, 32, 8)]
        return [Level(width, stride) for width, stride in zip(widths, strides, strict=True)]

    @property
    def min_input_side(self) -> tuple[int, ...]:
        """Padding leaves one voxel of any image."""
        return (1,) * self.spatial_dims

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Stem, and the modules of each stage."""
        return (self.conv_1a,), *(tuple(self.get_submodule(name) for name in names) for *_, names in _STAGES)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> five levels, finest first."""
        pyramid = [self.conv_1a(x)]
        for kernel, stride, names in _STAGES:
            x = pool(pyramid[-1], kernel, stride)
            for name in names:
                x = self.get_submodule(name)(x)
            pyramid.append(x)
        return pyramid


class Unit(nn.Module):
    """Convolution without bias, normalisation, ReLU.

    Args:
        in_channels: of its input.
        out_channels: of its output.
        kernel: its side.
        stride: along each axis.
        norm: normalisation layers.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, norm: Any) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.norm = norm_layer(norm, 3, out_channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, out_channels, *S / stride, rounded up)."""
        result: Tensor = F.relu(self.norm(self.conv(pad(x, self.conv.kernel_size, self.conv.stride))))
        return result


class Inception(nn.Module):
    """Four branches side by side.

    Args:
        in_channels: of its input.
        widths: 1^3; 1^3 and 3^3; 1^3 and 3^3; 1^3 after pooling.
        norm: normalisation layers.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], *, norm: Any) -> None:
        super().__init__()
        one, two_a, two_b, three_a, three_b, four = widths
        self.branch_0 = Unit(in_channels, one, kernel=1, norm=norm)
        self.branch_1 = nn.Sequential(
            Unit(in_channels, two_a, kernel=1, norm=norm), Unit(two_a, two_b, kernel=3, norm=norm)
        )
        self.branch_2 = nn.Sequential(
            Unit(in_channels, three_a, kernel=1, norm=norm), Unit(three_a, three_b, kernel=3, norm=norm)
        )
        self.branch_3 = Unit(in_channels, four, kernel=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, sum of the branches, *S)."""
        pooled = self.branch_3(F.max_pool3d(x, 3, 1, 1))
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), pooled], 1)


def pad(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Adds zeros until there are S / stride positions, rounded up, along each axis; an odd one behind."""
    sides: list[int] = []
    for side, size, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(size - (side % step or step), 0)
        sides = [total // 2, total - total // 2, *sides]
    return F.pad(x, sides) if any(sides) else x


def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Maximum over windows; zeros at the border change nothing, for x >= 0."""
    return F.max_pool3d(pad(x, kernel, stride), kernel, stride)


def _width(widths: tuple[int, ...]) -> int:
    """Channels that leave an Inception module."""
    one, _, two, _, three, four = widths
    return one + two + three + four
