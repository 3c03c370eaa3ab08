"""A reconstruction path of a few transposed convolutions, for encoders that are used without a decoder afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ssl_med.networks.pyramid import Norm, norm_layer


class Deconvolutions(nn.Module):
    """From the last level of a pyramid to full resolution: one transposed convolution, normalisation and ReLU a step, no skips.

    Kernels are as large as their strides. A step has the width of the level that it reaches.

    Args:
        channels: widths of the pyramid, finest first.
        strides: strides of the pyramid, axis by axis.
        norm: normalisation layers.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[tuple[int, ...]], *, norm: Norm) -> None:
        super().__init__()
        dims = len(strides[0])
        transposed: Any = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        coarse_to_fine = list(zip(channels, strides, strict=True))[::-1]
        if strides[0] != (1,) * dims:
            coarse_to_fine.append((max(8, channels[0] // 2), (1,) * dims))
        steps: list[nn.Module] = []
        before, coarse = coarse_to_fine[0]
        for width, fine in coarse_to_fine[1:]:
            factors = tuple(a // b for a, b in zip(coarse, fine, strict=True))
            if max(factors) > 1:  # levels of equal stride need no step
                steps += [
                    transposed(before, width, factors, factors),
                    norm_layer(norm, dims, width),
                    nn.ReLU(inplace=True),
                ]
                before = width
            coarse = fine
        self.steps, self.out_channels = nn.Sequential(*steps), before

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Pyramid, of which the last level is used -> (B, out_channels, *S)."""
        y: Tensor = self.steps(pyramid[-1])
        return y
