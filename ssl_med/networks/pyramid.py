"""The contract of a backbone: an encoder whose output is a pyramid of features, and a decoder built from that pyramid.

`Backbone` and `Decoder` are what methods, tasks and probes know of a network; the networks themselves are one file each in
`ssl_med/networks/backbones`. An encoder without a decoder of its own gets `PyramidDecoder`, which needs the encoder's widths
and strides and nothing else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.ranges import Positive, StoredValue
from ssl_med.setting import setting
from ssl_med.spec import DataSpec, SslMedError

Norm = Literal["batch", "group", "instance"]


@dataclass
class BackboneConfig:
    """Settings that every backbone has; the file of a backbone adds its own."""

    name: str = "auto"
    """file in ssl_med/networks/backbones, such as unet or resnet18; auto: unet for volumes, resnet18 for images"""
    norm: Norm = "batch"
    """normalisation layers; group means 8 groups"""
    init: Literal["torch", "uniform", "xavier", "msra"] = "torch"
    """scheme of the initial weights, see networks.init"""
    input_mean: tuple[StoredValue, ...] = setting(default=(), before=[])
    """subtracted from the channels of an image before the first layer, one for all or one each; foreign weights bring theirs"""
    input_std: tuple[Positive, ...] = setting(default=(), before=[])
    """by which they are divided then; empty: the image is taken as it is"""

    def for_volumes(self) -> BackboneConfig:
        """The settings of the network into which 2D weights are inflated."""
        return self


class Level(NamedTuple):
    """One level of a pyramid: its channels, and by how much each axis is smaller than the image's."""

    channels: int
    stride: tuple[int, ...]


class Backbone(nn.Module, ABC):
    """An encoder. It knows its pyramid, finest level first, from its settings alone, so that a run can be refused early.

    A leaf defines `Config`, `pyramid_of`, `forward` and `levels_of_modules`; it may define `dims`, `check`,
    `min_input_side` and `build_decoder`.
    """

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    """spatial dimensions in which the network exists"""
    image_level: ClassVar[bool] = False
    """whether the finest level is the image itself, which decoders of transformers read beside the features"""

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        self.config, self.spatial_dims, self.in_channels = config, spatial_dims, in_channels
        if config.input_mean:  # constants of the settings, so they stand in no file of weights
            for key in ("input_mean", "input_std"):
                values = torch.tensor(getattr(config, key)).view(1, -1, *[1] * spatial_dims)
                self.register_buffer(key, values, persistent=False)
            self.register_forward_pre_hook(_normalise)
        finest = [Level(in_channels, (1,) * spatial_dims)] if self.image_level else []
        self.channels, self.strides = zip(*finest, *self.pyramid_of(config, spatial_dims), strict=True)

    # --- what a leaf defines -------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> Sequence[Level]:
        """The levels of a network with these settings, finest first; without the image where `image_level` is set."""

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> pyramid of (B, channels[i], *S / strides[i])."""

    @abstractmethod
    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The modules that make each level, finest first; together all that have parameters. A level may have none."""

    @classmethod
    def check(cls, config: Any, spec: DataSpec) -> None:
        """Refuses data that a network with these settings cannot take; a leaf adds what is special to it.

        Raises:
            SslMedError: dimensions in which the network does not exist, a patch size that does not divide by the divisor of
                its axis, or one voxel at the last level with instance normalisation.
        """
        dims, patch, name = spec.spatial_dims, spec.patch_size, config.name
        if dims not in cls.dims:
            raise SslMedError(
                f"backbone {name} exists in {' and '.join(f'{d}D' for d in cls.dims)}, data '{spec.name}' is {dims}D; "
                "choose another backbone.name"
            )
        divisor = divisor_of(cls.pyramid_of(config, dims))
        if any(side % by for side, by in zip(patch, divisor, strict=True)):
            nearest = [max(by, round(side / by) * by) for side, by in zip(patch, divisor, strict=True)]
            by = str(divisor[0]) if len(set(divisor)) == 1 else f"its own of {list(divisor)}"
            raise SslMedError(
                f"data.patch_size {list(patch)} does not fit backbone {name}: each side must be divisible by "
                f"{by}; try data.patch_size={str(nearest).replace(' ', '')}"
            )
        if math.prod(side // by for side, by in zip(patch, divisor, strict=True)) < 2 and config.norm == "instance":
            raise SslMedError(
                f"data.patch_size {list(patch)} leaves one voxel at the last level of {name}, which instance "
                "normalisation cannot use; take a larger patch or a backbone with fewer levels"
            )

    @property
    def min_input_side(self) -> tuple[int, ...]:
        """Smallest side of an input, axis by axis, that reaches the last level; for the encoder alone it need not divide."""
        return self.divisor

    @property
    def compares_voxels(self) -> bool:
        """Whether the encoder can only be trained where its last level has two voxels: it has instance normalisation."""
        return any(isinstance(part, nn.modules.instancenorm._InstanceNorm) for part in self.modules())

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """A new decoder for this encoder; `skips=False`: it sees the last level only."""
        return PyramidDecoder(
            self.channels, self.strides, spatial_dims=self.spatial_dims, norm=self.config.norm, skips=skips
        )

    # --- shared --------------------------------------------------------------------------------------------------

    def normalised(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the same minus `input_mean`, divided by `input_std`, where the settings have them.

        Calling the network does it; who calls a part of it, such as `ViT.tokens`, does it first. A grey image is repeated
        where there is one mean for each of several channels.
        """
        mean: Any = getattr(self, "input_mean", None)
        if mean is None:
            return x
        std: Any = self.input_std
        result: Tensor = (x - mean.to(x.dtype)) / std.to(x.dtype)
        return result

    channels: tuple[int, ...]
    """channels of each level"""
    strides: tuple[tuple[int, ...], ...]
    """stride of each level along each axis: by how much its sides are smaller than the image's"""

    @property
    def out_channels(self) -> int:
        """Channels of the last level."""
        return self.channels[-1]

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each side of an image must be divisible by, axis by axis, where a decoder follows."""
        return divisor_of([Level(*level) for level in zip(self.channels, self.strides, strict=True)])

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
        if not self.channels:
            raise SslMedError(
                "this backbone has one level with these settings, which leaves a decoder nothing to do: give more entries to "
                "the setting that lists its widths or blocks (backbone.channels)"
            )
        return self.channels[-1]

    @abstractmethod
    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid -> (B, channels[i], *) scale by scale, coarsest first; the last has full resolution."""

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Pyramid -> (B, out_channels, *S)."""
        x = pyramid[-1]
        for scale in self.scales(pyramid):
            x = scale
        return x


class PyramidDecoder(Decoder):
    """Nearest-neighbour upsampling, concatenation of the skip, two convolutions, level by level.

    Where the finest level is coarser than the image there is one more step without a skip.

    Args:
        channels: widths of the pyramid, finest first.
        strides: strides of the pyramid, axis by axis.
        spatial_dims: 2 or 3.
        norm: normalisation layers.
        skips: whether the pyramid's finer levels are used.
        widths: of the steps, coarsest first; by default those of the skips, and half of the last for the step without one.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[tuple[int, ...]],
        *,
        spatial_dims: int,
        norm: Norm,
        skips: bool,
        widths: Sequence[int] = (),
    ) -> None:
        super().__init__(skips=skips)
        full = (1,) * spatial_dims
        fine = [*strides[-2::-1], *([full] if strides[0] != full else [])]
        beside = [*channels[-2::-1], *([0] if strides[0] != full else [])]
        self.channels = tuple(widths or [width or max(8, channels[0] // 2) for width in beside])
        # upsampling factor of each step, axis by axis
        self.factors = [
            tuple(float(a // b) for a, b in zip(coarse, finer, strict=True))
            for coarse, finer in zip([strides[-1], *fine], fine, strict=False)
        ]
        self.levels = nn.ModuleList()
        before = channels[-1]
        for width, skip in zip(self.channels, beside, strict=True):
            joined = before + skip if skips else before
            self.levels.append(
                nn.Sequential(
                    conv_norm_relu(spatial_dims, joined, width, norm), conv_norm_relu(spatial_dims, width, width, norm)
                )
            )
            before = width

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid, finest first -> (B, channels[i], *), from the second coarsest level to full resolution."""
        x = pyramid[-1]
        finer: list[Tensor | None] = [*pyramid[-2::-1], *[None] * (len(self.levels) - len(pyramid) + 1)]
        for level, factors, skip in zip(self.levels, self.factors, finer, strict=True):
            x = F.interpolate(x, scale_factor=factors, mode="nearest")
            x = level(torch.cat([x, skip], 1) if self.skips and skip is not None else x)
            yield x


def _normalise(backbone: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (backbone.normalised(inputs[0]), *inputs[1:])


def divisor_of(pyramid: Sequence[Level]) -> tuple[int, ...]:
    """What each side of an image must be divisible by so that every level has a whole number of voxels."""
    return tuple(math.lcm(*steps) for steps in zip(*(level.stride for level in pyramid), strict=True))


def check_widths(key: str, widths: Sequence[int], *, norm: Norm) -> None:
    """Refuses a list of channel numbers that cannot be one; `key` is the setting that gives them, without its section.

    Raises:
        SslMedError: fewer than two, none that is positive, or groups of 8 that do not divide them.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise SslMedError(f"backbone.{key} is {list(widths)}; give at least two positive widths")
    if norm == "group" and any(width % 8 for width in widths):
        raise SslMedError(f"backbone.norm=group needs widths divisible by 8; backbone.{key} is {list(widths)}")


def norm_of(norm: Norm) -> tuple[str, dict[str, object]] | str:
    """MONAI's name of a normalisation layer."""
    if norm == "group":
        return ("group", {"num_groups": 8})
    if norm == "instance":
        return ("instance", {"affine": True})
    return "batch"


def norm_layer(norm: Norm, spatial_dims: int, channels: int, **options: object) -> nn.Module:
    """A normalisation layer; `options` of the layer, such as eps, overrule those of `norm_of`."""
    from monai.networks.layers.utils import get_norm_layer  # seconds to import, and settings are checked without it

    named = norm_of(norm)
    name, known = (named, {}) if isinstance(named, str) else named
    layer: nn.Module = get_norm_layer((name, {**known, **options}), spatial_dims, channels)
    return layer


def conv_norm_relu(spatial_dims: int, in_channels: int, out_channels: int, norm: Norm) -> nn.Module:
    """3^d convolution with bias, normalisation, ReLU."""
    from monai.networks.blocks import Convolution  # seconds to import, and settings are checked without it

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
