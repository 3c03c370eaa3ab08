"""Linear maps along single axes: what blurs and resizes a batch, each sample in its own way.

As products with small matrices they are several times faster than grouped 3D convolutions and 3D grid sampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_med.transforms._sampling import in_pieces


def along_axes(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Applies matrices[a] (B, M_a, S_a) to spatial axis a of x (B, C, *S) -> (B, C, *M)."""
    return in_pieces(_along, x, *(matrix.to(x.dtype) for matrix in matrices))


def _along(x: Tensor, *matrices: Tensor) -> Tensor:
    batch, channels = x.shape[:2]
    for axis, matrix in enumerate(matrices, start=2):
        shape = [*x.shape[:axis], matrix.shape[1], *x.shape[axis + 1 :]]
        before, after = channels * math.prod(x.shape[2:axis]), math.prod(x.shape[axis + 1 :])
        if after == 1:
            x = torch.bmm(x.reshape(batch, before, -1), matrix.transpose(1, 2)).view(shape)
        else:
            x = torch.matmul(matrix[:, None], x.reshape(batch, before, -1, after)).view(shape)
    return x


def resize_matrix(first: Tensor, step: Tensor, sides: tuple[int, int]) -> Tensor:
    """Linear interpolation at positions first + step * j, j = 0..M - 1, in voxels: (B,), (B,) -> (B, M, S).

    Where the step is longer than a voxel the triangle is widened by it, so that nothing aliases (as PIL's bilinear
    resize does); positions outside the image see its border.
    """
    length, count = sides
    position = first[:, None] + step[:, None] * torch.arange(count, device=first.device)
    distance = (position.clamp(0, length - 1)[..., None] - torch.arange(length, device=first.device)).abs()
    weight = (1 - distance / step.clamp_min(1)[:, None, None]).clamp_min(0)
    return weight / weight.sum(2, keepdim=True)


def blur_matrix(sigma: Tensor, radius: int, length: int) -> Tensor:
    """Gaussian weights of standard deviation sigma (B,) voxels, cut at `radius`, border repeated: (B, S, S)."""
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weight = torch.softmax(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2, 1)
    source = (torch.arange(length, device=sigma.device)[:, None] + offsets).clamp(0, length - 1)
    shape = (len(sigma), length, len(offsets))
    matrix = weight.new_zeros(len(sigma), length, length)
    return matrix.scatter_add_(2, source.expand(shape), weight[:, None].expand(shape))
