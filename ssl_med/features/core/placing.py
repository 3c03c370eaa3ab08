"""Where the voxels of a level lie in the image, and maps of a level brought to the image's grid.

Voxel j of a level of stride s sees the image around position j s + o along each axis. The offset o is (s - 1) / 2 where the
level's voxels are patches (a ViT, pooling by 2), 0 where strided convolutions are centred on every s-th voxel (a ResNet), and
between them for mixtures: at a stride of 32 the two differ by 15.5 voxels. So it is measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.networks.pyramid import Backbone

_DRAWS = 4  # random images over which the measurement is averaged


def offsets_of(backbone: Backbone, level: int, shape: Sequence[int], *, device: torch.device) -> tuple[float, ...]:
    """Offset of a level along each axis, in voxels of an image of `shape`, to the nearest half.

    It is where the squared gradient of the level's middle voxels with respect to random images has its centre of gravity. Where
    the number of voxels is even the two in the middle are averaged: what sees the whole image pulls them to opposite sides.
    """
    generator = torch.Generator().manual_seed(0)
    stride = backbone.strides[level]
    found = torch.zeros(len(shape), dtype=torch.float64)
    for _ in range(_DRAWS):
        image = torch.rand(1, backbone.in_channels, *shape, generator=generator).to(device).requires_grad_()
        with torch.enable_grad():
            values: Tensor = backbone(image)[level][0]
        signs = torch.randn(len(values), generator=generator).to(device)
        sides = values.shape[1:]
        for place in ([(side - 1) // 2 for side in sides], [side // 2 for side in sides]):
            seen = values.permute(*range(1, values.ndim), 0)[tuple(place)] @ signs
            (slope,) = torch.autograd.grad(seen, image, retain_graph=True)
            weight = slope[0].double().square().sum(0).cpu()
            for axis, side in enumerate(shape):
                profile = weight.sum([other for other in range(len(shape)) if other != axis])
                center = (profile * torch.arange(side)).sum() / profile.sum().clamp(min=1e-300)
                found[axis] += (center - stride[axis] * place[axis]) / (2 * _DRAWS)
    halves = [round(2 * offset) / 2 for offset in found.tolist()]
    return tuple(min(max(offset, 0.0), by - 1.0) for offset, by in zip(halves, stride, strict=True))


def on_grid(level: Tensor, shape: Sequence[int], *, stride: Sequence[int], offset: Sequence[float]) -> Tensor:
    """A map (C, *s) of a level at each voxel of an image, (C, *shape): linear between the level's voxels, constant beyond."""
    axes = []
    for side, count, by, first in zip(shape, level.shape[1:], stride, offset, strict=True):
        place = (torch.arange(side, dtype=torch.float32) - first) / by
        axes.append(2 * place / max(count - 1, 1) - 1 if count > 1 else torch.zeros(side))
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)  # the last axis comes first
    options: Any = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
    found: Tensor = F.grid_sample(level[None].float(), grid[None], **options)[0]
    return found
