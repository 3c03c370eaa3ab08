"""nnU-Net's residual encoder, ResEnc (Isensee et al., "nnU-Net revisited", MICCAI 2024; the network of nnssl and OpenMind)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ssl_med.networks.nnunet_parts import PlannedBackbone, PlannedConfig, Sides, conv_norm, convolutions
from ssl_med.networks.pyramid import Norm
from ssl_med.ranges import Count

_USUAL = (1, 3, 4, 6)  # blocks of the first stages; all deeper ones have 6


@dataclass
class ResEncConfig(PlannedConfig):
    """Settings of the residual encoder; the defaults are ResEnc-L, with one convolution a stage in the decoder."""

    blocks_up: Count = 1
    """convolutions of each stage of the decoder"""

    def usual_blocks(self, count: int) -> tuple[int, ...]:
        """1, 3, 4, 6, 6, ... blocks."""
        return (*_USUAL, *[6] * count)[:count]


class ResEnc(PlannedBackbone):
    """A convolution as stem, then stages of residual blocks."""

    Config = ResEncConfig
    config: ResEncConfig

    def build_stem(self, in_channels: int) -> int:
        """One convolution of the first stage's width and kernel."""
        width, kernel, _, _ = self.config.stages(self.spatial_dims)[0]
        self.first = convolutions(in_channels, width, kernel, (1,) * len(kernel), 1, norm=self.config.norm)
        return width

    def stem(self, x: Tensor) -> Tensor:
        """The stem's convolution."""
        found: Tensor = self.first(x)
        return found

    def stem_modules(self) -> tuple[nn.Module, ...]:
        """The stem's convolution."""
        return (self.first,)

    def stage(self, before: int, width: int, kernel: Sides, stride: Sides, blocks: int) -> nn.Module:
        """Residual blocks; the first one has the stride and changes the width."""
        parts = [ResidualBlock(before, width, kernel, stride, norm=self.config.norm)]
        parts += [
            ResidualBlock(width, width, kernel, (1,) * len(stride), norm=self.config.norm) for _ in range(blocks - 1)
        ]
        return nn.Sequential(*parts)


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut, which averages where there is a stride and projects where the width changes.

    Args:
        before: channels that enter.
        width: channels that leave.
        kernel: of both convolutions, along each axis.
        stride: of the first convolution, along each axis.
        norm: normalisation layers.
    """

    def __init__(self, before: int, width: int, kernel: Sides, stride: Sides, *, norm: Norm) -> None:
        super().__init__()
        one = (1,) * len(stride)
        self.conv1 = conv_norm(before, width, kernel, stride, norm=norm)
        self.conv2 = conv_norm(width, width, kernel, one, norm=norm)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            average = nn.AvgPool2d if len(stride) == 2 else nn.AvgPool3d
            # rounded up, as the convolution does it, so that patches of any side pass; even sides are nnU-Net's case
            shortcut.append(average(stride, stride, ceil_mode=True))  # type: ignore[arg-type]
        if before != width:
            shortcut.append(conv_norm(before, width, one, one, norm=norm, bias=False))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, *S) -> (B, width, *S / stride)."""
        found: Tensor = self.act(self.conv2(self.act(self.conv1(x))) + self.shortcut(x))
        return found
