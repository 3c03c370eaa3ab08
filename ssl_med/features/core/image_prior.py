"""The deep image prior: an untrained skip network that turns fixed noise into one image, in 2D and 3D.

Paper: Ulyanov, Vedaldi and Lempitsky, "Deep image prior", CVPR 2018; in the form of Zhao et al., "What makes instance
discrimination good for transfer learning?", ICLR 2021, which Anton et al. 2022 use. Level by level: a 1^d convolution to the
skip, two convolutions and an average pooling down; back, nearest-neighbour upsampling, the skip beside it, and two
convolutions (k^d, 1^d). Each is followed by normalisation over the image and LeakyReLU(0.2); the last 1^d convolution is bare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.2


class SkipNetwork(nn.Module):
    """Noise (1, code, *S) -> image (1, C, *S), with sides that 2^levels divides.

    Args:
        spatial_dims: 2 or 3.
        code: channels of the noise.
        out_channels: of the image.
        widths: of the levels, finest first.
        kernels: sides of their convolutions, odd.
        skip: channels of each skip.
    """

    def __init__(
        self,
        spatial_dims: int,
        *,
        code: int,
        out_channels: int,
        widths: Sequence[int],
        kernels: Sequence[int],
        skip: int = 4,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if spatial_dims == 2 else nn.BatchNorm3d
        self.pool = nn.AvgPool2d(2) if spatial_dims == 2 else nn.AvgPool3d(2)

        def block(before: int, after: int, kernel: int) -> list[nn.Module]:
            layer = conv(before, after, kernel, padding=kernel // 2)
            return [layer, norm(after), nn.LeakyReLU(_SLOPE, inplace=True)]

        self.skips, self.down, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before = code
        for level, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
            self.skips.append(nn.Sequential(*block(before, skip, 1)))
            first, *rest = block(before, width, kernel)
            self.down.append(nn.Sequential(first, self.pool, *rest, *block(width, width, kernel)))
            deeper = widths[level + 1] if level + 1 < len(widths) else width
            self.up.append(
                nn.Sequential(norm(deeper + skip), *block(deeper + skip, width, kernel), *block(width, width, 1))
            )
            before = width
        self.last = conv(widths[0], out_channels, 1)

    def forward(self, noise: Tensor) -> Tensor:
        """(1, code, *S) -> (1, C, *S)."""
        x, beside = noise, []
        for skip, down in zip(self.skips, self.down, strict=True):
            beside.append(skip(x))
            x = down(x)
        for skip_values, up in zip(reversed(beside), reversed(self.up), strict=True):
            x = F.interpolate(x, size=skip_values.shape[2:], mode="nearest")
            x = up(torch.cat([x, skip_values], 1))
        image: Tensor = self.last(x)
        return image


def levels_for(shape: Sequence[int], most: int) -> int:
    """How many levels leave two voxels or more along each axis, at least one and at most `most`."""
    levels = 1
    while levels < most and min(shape) >= 2 ** (levels + 2):
        levels += 1
    return levels
