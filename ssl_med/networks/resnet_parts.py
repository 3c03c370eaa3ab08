"""What the residual networks (He et al. 2016) share: MONAI's blocks as an encoder, with a decoder of given widths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.networks.pyramid import (
    Backbone,
    BackboneConfig,
    Decoder,
    Level,
    Norm,
    PyramidDecoder,
    check_widths,
    norm_layer,
)
from ssl_med.ranges import Width
from ssl_med.setting import setting
from ssl_med.spec import SslMedError

_WIDTHS = (64, 128, 256, 512)


@dataclass
class ResNetConfig(BackboneConfig):
    """Settings of a residual network."""

    decoder_channels: tuple[Width, ...] = (256, 128, 64, 32, 16)
    """widths of the decoder, coarsest first"""
    dilated: bool = setting(default=False, before=False)
    """stages 3 and 4 keep stride 8 and dilate their convolutions by 2 and 4, as MedicalNet (Chen et al. 2019) does"""
    shortcut: Literal["B", "A"] = setting(default="B", before="B")
    """where a block changes the width: B projects by a convolution; A, without parameters, pads channels with zeros"""

    def __post_init__(self) -> None:
        check_widths("decoder_channels", self.decoder_channels, norm=self.norm)
        if len(self.decoder_channels) != 1 + len(_WIDTHS):
            raise SslMedError(
                f"backbone.decoder_channels is {list(self.decoder_channels)}; a resnet has five levels and needs five widths"
            )


class ResNetBackbone(Backbone):
    """7^d stem of stride 2, max pooling, four stages; parameters and keys of the 2D form are torchvision's.

    The pyramid holds the stem (stride 2) and the stages (4, 8, 16, 32; `dilated`: 4, 8, 8, 8). A leaf says which blocks
    and how many.
    """

    Config = ResNetConfig
    config: ResNetConfig
    block: ClassVar[str]
    """basic or bottleneck"""
    blocks: ClassVar[tuple[int, int, int, int]]
    """blocks of each stage"""
    expansion: ClassVar[int]
    """channels that leave a block, as a multiple of its width"""

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        from monai.networks.nets.resnet import ResNet  # seconds to import, and settings are checked without it

        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        net = ResNet(
            self.block,
            list(self.blocks),
            list(_WIDTHS),
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
            shortcut_type=config.shortcut,
        )
        if config.shortcut == "A":
            for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
                _pad_shortcut(stage)
        if config.dilated:
            for stage, dilation in ((net.layer3, 2), (net.layer4, 4)):
                _dilate(stage, dilation)
        if config.norm != "batch":
            _replace_norms(net, spatial_dims, config.norm)
        self.conv1, self.bn1, self.act, self.maxpool = net.conv1, net.bn1, net.act, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Stem and four stages."""
        channels = (64, *(width * cls.expansion for width in _WIDTHS))
        strides = (2, 4, 8, 8, 8) if config.dilated else (2, 4, 8, 16, 32)
        return [Level(width, (stride,) * spatial_dims) for width, stride in zip(channels, strides, strict=True)]

    @property
    def min_input_side(self) -> tuple[int, ...]:
        """Padded strided convolutions leave one voxel of any image."""
        return (1,) * self.spatial_dims

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """The decoder that any encoder gets, of the widths in `decoder_channels`."""
        return PyramidDecoder(
            self.channels,
            self.strides,
            spatial_dims=self.spatial_dims,
            norm=self.config.norm,
            skips=skips,
            widths=self.config.decoder_channels,
        )

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


def _dilate(stage: nn.Module, dilation: int) -> None:
    """Gives every convolution of a stage stride 1, and those wider than one voxel a dilation."""
    for part in stage.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            part.stride = (1,) * len(part.stride)
            if max(part.kernel_size) > 1:
                part.dilation = part.padding = (dilation,) * len(part.stride)
        elif isinstance(part, PaddedShortcut):
            part.stride = 1


class PaddedShortcut(nn.Module):
    """Shortcut A (He et al. 2016): every `stride`-th voxel, and zeros in the channels that are new.

    MONAI's and MedicalNet's own cut the gradient of the shortcut off; here it flows.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, channels, *S / stride, rounded up)."""
        dims = x.ndim - 2
        every: Any = (..., *[slice(None, None, self.stride)] * dims)
        x = x[every]
        return F.pad(x, (*[0, 0] * dims, 0, self.channels - x.shape[1]))


def _pad_shortcut(stage: Any) -> None:
    """Replaces the shortcut of a stage's first block, which MONAI has as a function, where the block changes anything."""
    block = stage[0]
    if isinstance(block.downsample, partial):
        block.downsample = PaddedShortcut(block.downsample.keywords["planes"], block.downsample.keywords["stride"])


def _replace_norms(module: nn.Module, spatial_dims: int, norm: Norm) -> None:
    """Replaces every BatchNorm: MONAI 1.6 passes its `norm` argument to the stem only."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, norm_layer(norm, spatial_dims, child.num_features))
        else:
            _replace_norms(child, spatial_dims, norm)
