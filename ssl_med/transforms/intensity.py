"""Intensity transforms of whole batches; inputs (B, C, *S) in [0, 1], never changed in place."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.transforms.spatial import per_sample, uniform


def apply_brightness_contrast(x: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """(x scaled by brightness - mean) * contrast + mean, clamped to [0, 1]; factors (B,), 1 changes nothing."""
    y = x * per_sample(brightness, x)
    mean = y.flatten(1).mean(1)
    y = (y - per_sample(mean, x)) * per_sample(contrast, x) + per_sample(mean, x)
    same = per_sample((brightness == 1) & (contrast == 1), x)
    return torch.where(same, x, y.clamp(0, 1))


def brightness_contrast(
    x: Tensor, generator: torch.Generator, *, brightness: float = 0.4, contrast: float = 0.4, p: float = 0.8
) -> Tensor:
    """Factors U(1 - b, 1 + b) and U(1 - c, 1 + c) per sample, with probability p: colour jitter of a grey image."""
    chosen = uniform(generator, len(x)) < p
    factors = []
    for strength in (brightness, contrast):
        factor = uniform(generator, len(x), low=max(0.0, 1 - strength), high=1 + strength)
        factors.append(torch.where(chosen, factor, torch.ones_like(factor)))
    return apply_brightness_contrast(x, *factors)


def apply_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Separable Gaussian with its own sigma (voxels) per sample, (B,); 0 leaves a sample as it is; borders repeat."""
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    width = sigma.clamp_min(1e-3)[:, None].to(x.dtype)
    kernel = torch.softmax(-0.5 * (offsets / width) ** 2, 1)
    batch, channels, dims = len(x), x.shape[1], x.ndim - 2
    y = x.reshape(1, batch * channels, *x.shape[2:])
    convolution = F.conv2d if dims == 2 else F.conv3d
    for axis in range(dims):
        shape = [1] * dims
        shape[axis] = -1
        weight = kernel.repeat_interleave(channels, 0).view(batch * channels, 1, *shape)
        pad = [0] * (2 * dims)
        pad[2 * (dims - 1 - axis)] = pad[2 * (dims - 1 - axis) + 1] = radius
        y = convolution(F.pad(y, pad, mode="replicate"), weight, groups=batch * channels)
    return torch.where(per_sample(sigma > 0, x), y.view_as(x), x)


def gaussian_blur(
    x: Tensor, generator: torch.Generator, *, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5
) -> Tensor:
    """Blur with sigma ~ U(sigma) voxels, with probability p; the kernel is cut at three sigma."""
    chosen = uniform(generator, len(x)) < p
    drawn = uniform(generator, len(x), low=sigma[0], high=sigma[1])
    radius = min(math.ceil(3 * sigma[1]), min(x.shape[2:]) - 1)
    return apply_blur(x, drawn * chosen, radius)


def box_mask(start: Tensor, size: Tensor, active: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Union of boxes: start and size (B, W, D) in voxels, active (B, W) -> (B, 1, *shape) bool."""
    union = torch.zeros(len(start), 1, *shape, dtype=torch.bool, device=start.device)
    for w in range(start.shape[1]):
        inside = active[:, w].view(-1, 1, *[1] * len(shape))
        for axis, length in enumerate(shape):
            position = torch.arange(length, device=start.device)
            first = start[:, w, axis, None]
            along = (position >= first) & (position < first + size[:, w, axis, None])
            view = [1] * (len(shape) + 2)
            view[0], view[2 + axis] = len(start), length
            inside = inside & along.view(view)
        union |= inside
    return union


def cutout(
    x: Tensor, generator: torch.Generator, *, holes: int = 3, fraction: float = 32 / 224, p: float = 1.0
) -> Tensor:
    """Sets `holes` boxes per sample, each `fraction` of every side, to 0 (DeVries and Taylor 2017); holes may overlap."""
    shape = tuple(x.shape[2:])
    chosen = uniform(generator, len(x)) < p
    side = torch.tensor([max(1, round(fraction * s)) for s in shape], device=x.device)
    room = torch.tensor(shape, device=x.device) - side + 1
    start = (uniform(generator, len(x), holes, len(shape)) * room).long()
    active = chosen[:, None].expand(-1, holes)
    if fraction <= 0 or holes == 0:
        return x.clone()
    return x.masked_fill(box_mask(start, side.expand_as(start), active, shape), 0.0)
