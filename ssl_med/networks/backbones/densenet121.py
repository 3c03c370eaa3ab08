"""DenseNet-121 (Huang et al., "Densely connected convolutional networks", CVPR 2017) in 2D and 3D: MONAI's, as an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Level, norm_of

_BLOCKS, _GROWTH, _STEM = (6, 12, 24, 16), 32, 64


@dataclass
class DenseNetConfig(BackboneConfig):
    """Settings of DenseNet-121: those that all networks have."""


class DenseNet121(Backbone):
    """7^d stem of stride 2, max pooling, four dense blocks; keys of the 2D form are torchvision's `features`.

    The pyramid holds the stem (stride 2) and the dense blocks (4, 8, 16, 32), the last one normalised and rectified.
    """

    Config = DenseNetConfig
    config: DenseNetConfig

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        from monai.networks.nets.densenet import DenseNet  # seconds to import, and settings are checked without it

        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        net = DenseNet(
            spatial_dims,
            in_channels,
            out_channels=1,
            init_features=_STEM,
            growth_rate=_GROWTH,
            block_config=_BLOCKS,
            norm=norm_of(config.norm),
        )
        self.features = net.features

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Stem and four dense blocks; a transition halves the channels before the next block."""
        levels, width = [Level(_STEM, (2,) * spatial_dims)], _STEM
        for number, layers in enumerate(_BLOCKS):
            width += layers * _GROWTH
            levels.append(Level(width, (2 ** (number + 2),) * spatial_dims))
            width //= 2
        return levels

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Stem, then each transition with the block behind it."""
        f: Any = self.features
        return (
            (f.conv0, f.norm0),
            (f.denseblock1,),
            (f.transition1, f.denseblock2),
            (f.transition2, f.denseblock3),
            (f.transition3, f.denseblock4, f.norm5),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> stem and four dense blocks, finest first."""
        f: Any = self.features
        pyramid = [f.relu0(f.norm0(f.conv0(x)))]
        x = f.denseblock1(f.pool0(pyramid[0]))
        for transition, block in (
            (f.transition1, f.denseblock2),
            (f.transition2, f.denseblock3),
            (f.transition3, f.denseblock4),
        ):
            pyramid.append(x)
            x = block(transition(x))
        return [*pyramid, F.relu(f.norm5(x))]
