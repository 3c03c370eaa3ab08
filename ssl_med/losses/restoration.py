"""Distances between a restored image and its original, (B, C, *S) in [0, 1]; all are means over the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mse(restored: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(restored, target)


def mae(restored: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(restored, target)


def ssim_loss(restored: Tensor, target: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """1 - mean structural similarity (Wang et al. 2004), data range 1, Gaussian window cut to the smallest side.

    Args:
        restored: (B, C, *S).
        target: (B, C, *S).
        window: side of the window in voxels, odd.
        sigma: standard deviation of its weights in voxels.
    """
    dims = restored.ndim - 2
    smallest = min(restored.shape[2:])
    window = min(window, smallest if smallest % 2 else smallest - 1)
    offsets = torch.arange(window, device=restored.device, dtype=restored.dtype) - window // 2
    kernel = torch.softmax(-(offsets**2) / (2 * sigma**2), 0)
    convolution = F.conv2d if dims == 2 else F.conv3d

    def average(x: Tensor) -> Tensor:
        x = x.flatten(0, 1)[:, None]
        for axis in range(dims):
            shape = [1] * dims
            shape[axis] = -1
            x = convolution(x, kernel.view(1, 1, *shape))
        return x

    mean_x, mean_y = average(restored), average(target)
    var_x = average(restored**2) - mean_x**2
    var_y = average(target**2) - mean_y**2
    cov = average(restored * target) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return 1 - similarity.mean()
