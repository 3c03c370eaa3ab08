"""The decoder of UNETR and SwinUNETR (Hatamizadeh et al. 2022), built from MONAI's blocks for any transformer's pyramid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ssl_med.networks.pyramid import Decoder, Norm, norm_of

Stride = tuple[int, ...]


class UnetrDecoder(Decoder):
    """Residual blocks beside the pyramid, transposed convolutions, concatenation, a residual block: step by step.

    Args:
        laterals: what each level but the last goes through before it is a skip, finest first; its width and stride beyond.
        bottom: what the last level goes through.
        in_channels: width of the last level.
        strides: of each skip, finest first, and of the last level.
        widths: of each skip, finest first.
        spatial_dims: 2 or 3.
        norm: normalisation layers.
        skips: whether the pyramid's finer levels are used.
    """

    def __init__(
        self,
        laterals: Sequence[nn.Module],
        bottom: nn.Module,
        *,
        in_channels: int,
        strides: Sequence[Stride],
        widths: Sequence[int],
        spatial_dims: int,
        norm: Norm,
        skips: bool,
    ) -> None:
        from monai.networks.blocks.dynunet_block import UnetResBlock, get_conv_layer

        super().__init__(skips=skips)
        self.channels = tuple(widths[::-1])
        self.bottom = bottom
        self.laterals = nn.ModuleList(laterals if skips else [])
        self.up, self.blocks = nn.ModuleList(), nn.ModuleList()
        for before, width, (coarse, fine) in zip(
            (in_channels, *self.channels), self.channels, pairwise(strides[::-1]), strict=False
        ):
            factor = tuple(a // b for a, b in zip(coarse, fine, strict=True))
            self.up.append(
                get_conv_layer(
                    spatial_dims, before, width, kernel_size=factor, stride=factor, conv_only=True, is_transposed=True
                )
            )
            joined = 2 * width if skips else width
            self.blocks.append(
                UnetResBlock(spatial_dims, joined, width, kernel_size=3, stride=1, norm_name=monai_norm(norm))
            )

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid, finest first -> (B, channels[i], *), coarsest first, the last at full resolution."""
        x = self.bottom(pyramid[-1])
        for number, (up, block) in enumerate(zip(self.up, self.blocks, strict=True)):
            x = up(x)
            if self.skips:
                level = len(self.laterals) - 1 - number
                x = torch.cat([x, self.laterals[level](pyramid[level])], 1)
            x = block(x)
            yield x


def residual_block(spatial_dims: int, in_channels: int, out_channels: int, norm: Norm) -> nn.Module:
    """Two convolutions with normalisation and leaky ReLU around a shortcut."""
    from monai.networks.blocks.unetr_block import UnetrBasicBlock

    block: nn.Module = UnetrBasicBlock(
        spatial_dims, in_channels, out_channels, kernel_size=3, stride=1, norm_name=monai_norm(norm), res_block=True
    )
    return block


def lifted(spatial_dims: int, in_channels: int, out_channels: int, factors: Sequence[Stride], norm: Norm) -> nn.Module:
    """Transposed convolutions that bring tokens to a finer stride, one per factor, a residual block behind all but the first.

    As MONAI's `UnetrPrUpBlock`, with a factor of its own for each axis.
    """
    from monai.networks.blocks.dynunet_block import UnetResBlock, get_conv_layer

    def up(before: int, factor: Stride) -> nn.Module:
        layer: nn.Module = get_conv_layer(
            spatial_dims, before, out_channels, kernel_size=factor, stride=factor, conv_only=True, is_transposed=True
        )
        return layer

    parts = [up(in_channels, factors[0])]
    for factor in factors[1:]:
        parts.append(up(out_channels, factor))
        parts.append(
            UnetResBlock(spatial_dims, out_channels, out_channels, kernel_size=3, stride=1, norm_name=monai_norm(norm))
        )
    return nn.Sequential(*parts)


def monai_norm(norm: Norm) -> Any:
    """MONAI's name of a normalisation layer; instance normalisation has no weights here, as in its UNETR."""
    return "instance" if norm == "instance" else norm_of(norm)
