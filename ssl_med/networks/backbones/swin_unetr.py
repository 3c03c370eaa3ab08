"""SwinUNETR (Hatamizadeh et al., "Swin UNETR", 2022; pretraining: Tang et al., CVPR 2022) in 2D and 3D: MONAI's parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, Level, Norm
from ssl_med.networks.unetr_parts import UnetrDecoder, residual_block
from ssl_med.ranges import BelowOne, Count, Range, Width
from ssl_med.spec import SslMedError

_STAGES = 4


@dataclass
class SwinUNETRConfig(BackboneConfig):
    """Settings of SwinUNETR; the defaults are the paper's for 3D (feature_size 48)."""

    norm: Norm = "instance"
    """normalisation of the decoder, and of the residual blocks of version 2; the transformer has layer normalisation"""
    feature_size: Width = 48
    """channels of the finest tokens, a multiple of 12; each stage doubles them"""
    depths: tuple[Count, ...] = (2, 2, 2, 2)
    """transformer blocks of each stage"""
    heads: tuple[Count, ...] = (3, 6, 12, 24)
    """attention heads of each stage, divisors of its channels"""
    window: Annotated[int, Range(2, 1024)] = 7
    """side of the attention windows, tokens"""
    merging: Literal["v1", "v1_legacy", "v2"] = "v1"
    """order in which neighbouring tokens are joined: v1_legacy is that of MONAI before 1.5, with which older weights were
    trained (it reads two of eight neighbours twice and two never); v1 MONAI's default since; v2 another order of the same"""
    v2: bool = False
    """SwinUNETR-V2 (He et al. 2023): a residual convolution block before each stage"""
    drop_path: BelowOne = 0.0
    """share of residual branches that are left out at random while training, growing to this value with depth"""
    checkpointing: bool = False
    """less memory for more time: activations inside a stage are computed again for the gradient"""

    def __post_init__(self) -> None:
        if self.feature_size % 12:
            raise SslMedError(f"backbone.feature_size is {self.feature_size}; it must be a multiple of 12")
        if self.norm == "group" and self.feature_size % 8:
            raise SslMedError(
                f"backbone.norm=group needs widths divisible by 8; backbone.feature_size is {self.feature_size}: take "
                "backbone.norm=instance, or a multiple of 24"
            )
        for key in ("depths", "heads"):
            if len(getattr(self, key)) != _STAGES:
                raise SslMedError(f"backbone.{key} is {list(getattr(self, key))}; give four numbers, one per stage")
        for stage, heads in enumerate(self.heads):
            if self.feature_size * 2**stage % heads:
                raise SslMedError(
                    f"backbone.heads is {list(self.heads)}; stage {stage + 1} has {self.feature_size * 2**stage} channels, "
                    f"which {heads} does not divide"
                )


class SwinUNETR(Backbone):
    """Tokens of 2^d voxels and four stages of windowed attention, each halving the grid.

    The pyramid holds the image, the tokens (stride 2) and the stages (4, 8, 16, 32). Tokens and stages leave through a layer
    normalisation without weights.
    """

    Config = SwinUNETRConfig
    config: SwinUNETRConfig
    image_level = True

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        from monai.networks.nets.swin_unetr import SwinTransformer  # seconds to import

        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        with _ReadableNumbers():
            self.swin = SwinTransformer(
                in_chans=in_channels,
                embed_dim=config.feature_size,
                window_size=(config.window,) * spatial_dims,
                patch_size=(2,) * spatial_dims,
                depths=config.depths,
                num_heads=config.heads,
                drop_path_rate=config.drop_path,
                spatial_dims=spatial_dims,
                use_checkpoint=config.checkpointing,
                downsample=_merging(config.merging),
                use_v2=config.v2,
            )

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Tokens and four stages."""
        return [
            Level(config.feature_size * 2**level, (2 ** (level + 1),) * spatial_dims) for level in range(_STAGES + 1)
        ]

    @property
    def min_input_side(self) -> tuple[int, ...]:
        """The grid of tokens is padded where it cannot be halved."""
        return (2,) * self.spatial_dims

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Nothing for the image, the token layer, then a stage each."""
        swin: Any = self.swin
        before = (swin.layers1c, swin.layers2c, swin.layers3c, swin.layers4c) if self.config.v2 else ((),) * _STAGES
        stages = (swin.layers1, swin.layers2, swin.layers3, swin.layers4)
        return (), (swin.patch_embed,), *((*first, *stage) for first, stage in zip(before, stages, strict=True))

    def build_decoder(self, *, skips: bool = True) -> Decoder:
        """That of SwinUNETR: its blocks beside the encoder are part of it, since pretraining may go without them."""
        dims, size, norm = self.spatial_dims, self.config.feature_size, self.config.norm
        laterals: list[nn.Module] = [residual_block(dims, self.in_channels, size, norm)]
        laterals += [residual_block(dims, size * 2**level, size * 2**level, norm) for level in range(3)]
        laterals.append(nn.Identity())
        return UnetrDecoder(
            laterals,
            residual_block(dims, size * 16, size * 16, norm),
            in_channels=size * 16,
            strides=self.strides,
            widths=(size, *(size * 2**level for level in range(4))),
            spatial_dims=dims,
            norm=norm,
            skips=skips,
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> the image, the tokens and four stages, finest first."""
        return [x, *self.swin(x)]


class _ReadableNumbers(TorchFunctionMode):
    """Keeps `torch.linspace` on the CPU: MONAI reads its rates of dropped paths from it, which no meta device can answer."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func`, with a device for linspace."""
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def _merging(name: str) -> Any:
    """How a stage ends: 2^d tokens become one of twice the width."""
    from monai.networks.nets.swin_unetr import PatchMerging, PatchMergingV2

    class LegacyMerging(PatchMergingV2):  # type: ignore[misc]
        """The eight neighbours as MONAI up to 1.4 read them in 3D: offsets (1,1,0) and (0,1,1) never, two others twice."""

        offsets = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            if x.ndim != 5:
                joined: Tensor = super().forward(x)
                return joined
            x = F.pad(x, (0, 0, *(side for size in x.shape[3:0:-1] for side in (0, size % 2))))
            parts = [x[:, i::2, j::2, k::2] for i, j, k in self.offsets]
            reduced: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
            return reduced

    return {"v1": PatchMerging, "v1_legacy": LegacyMerging, "v2": PatchMergingV2}[name]
