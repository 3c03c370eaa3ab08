"""ResNet-18 and ResNet-50 (He et al. 2016) from MONAI's blocks as an encoder, with a U-Net decoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from monai.networks.layers.utils import get_norm_layer
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.networks.backbone import Backbone, Decoder, Norm, norm_of
from ssl_med.networks.backbones.unet import conv_norm_relu

_LAYERS = {"resnet18": ("basic", [2, 2, 2, 2], 1), "resnet50": ("bottleneck", [3, 4, 6, 3], 4)}


class ResNetEncoder(Backbone):
    """7^d stem of stride 2, max pooling, four stages; parameters and keys of the 2D form are torchvision's.

    The pyramid holds the stem (stride 2) and the stages (4, 8, 16, 32).
    """

    def __init__(self, name: str, *, spatial_dims: int, in_channels: int, norm: Norm) -> None:
        super().__init__(spatial_dims=spatial_dims, in_channels=in_channels)
        block, layers, expansion = _LAYERS[name]
        net = ResNet(
            block,
            layers,
            [64, 128, 256, 512],
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        if norm != "batch":
            _replace_norms(net, spatial_dims, norm)
        self.conv1, self.bn1, self.act, self.maxpool = net.conv1, net.bn1, net.act, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.channels = (64, *(width * expansion for width in (64, 128, 256, 512)))
        self.strides = (2, 4, 8, 16, 32)

    @property
    def min_input_side(self) -> int:
        """Padded strided convolutions leave one voxel of any image."""
        return 1

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Stem and four stages."""
        return (self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> stem and four stages, finest first."""
        pyramid = [self.act(self.bn1(self.conv1(x)))]
        x = self.maxpool(pyramid[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            pyramid.append(x)
        return pyramid


def _replace_norms(module: nn.Module, spatial_dims: int, norm: Norm) -> None:
    """Replaces every BatchNorm: MONAI 1.6 passes its `norm` argument to the stem only."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, get_norm_layer(norm_of(norm), spatial_dims, child.num_features))
        else:
            _replace_norms(child, spatial_dims, norm)


class ResNetDecoder(Decoder):
    """Nearest-neighbour upsampling, concatenation of the skip, two convolutions; one level more than there are skips."""

    def __init__(self, backbone: Backbone, widths: tuple[int, ...], *, norm: Norm, skips: bool) -> None:
        super().__init__(skips=skips)
        self.channels = tuple(widths)
        self.levels = nn.ModuleList()
        before = backbone.out_channels
        for width, skip in zip(widths, (*backbone.channels[-2::-1], 0), strict=True):
            joined = before + skip if skips else before
            dims = backbone.spatial_dims
            self.levels.append(
                nn.Sequential(conv_norm_relu(dims, joined, width, norm), conv_norm_relu(dims, width, width, norm))
            )
            before = width

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid, finest first -> (B, widths[i], *), from stride 16 to full resolution."""
        x = pyramid[-1]
        for level, skip in zip(self.levels, (*pyramid[-2::-1], None), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = level(torch.cat([x, skip], 1) if self.skips and skip is not None else x)
            yield x
