"""Spatial transforms of whole batches: flips, quarter turns, random resized crops, small rotations.

Every transform draws its parameters in one function and applies them in another, so that a batch gives the same result as
its samples one by one. Generators live on the device of `x`. Inputs are (B, C, *S), never changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """U(low, high) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1) for broadcasting against `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


# --- flips and quarter turns -----------------------------------------------------------------------------------------


class FlipRot(NamedTuple):
    """Per sample: which spatial axes are mirrored, then how many quarter turns follow in the plane of the first two."""

    flips: Tensor  # (B, D) bool
    turns: Tensor  # (B,) int64, 0..3


def apply_flip_rot(x: Tensor, params: FlipRot) -> Tensor:
    """Mirrors, then turns as `numpy.rot90(·, k, (0, 1))` does; exact, without interpolation."""
    for axis in range(params.flips.shape[1]):
        x = torch.where(per_sample(params.flips[:, axis], x), x.flip(2 + axis), x)
    square = x.shape[2] == x.shape[3]
    y = x
    for k in (1, 2, 3) if square else (2,):
        y = torch.where(per_sample(params.turns == k, x), torch.rot90(x, k, (2, 3)), y)
    return y


def sample_flip_rot(
    batch: int, size: Sequence[int], generator: torch.Generator, *, flips: bool = True, rotations: bool = True
) -> FlipRot:
    """Each axis is mirrored with probability 1/2; turns are uniform over 0..3, or over {0, 2} when the plane is no square."""
    mirrored = uniform(generator, batch, len(size)) < 0.5
    turns = torch.randint(0, 4, (batch,), generator=generator, device=generator.device)
    if size[0] != size[1]:
        turns = turns // 2 * 2
    return FlipRot(mirrored & flips, turns * int(rotations))


def flip_rot(
    x: Tensor, generator: torch.Generator, *, flips: bool = True, rotations: bool = True
) -> tuple[Tensor, FlipRot]:
    """The random transform T of PCRL (Sec. 3.2) and what it did."""
    params = sample_flip_rot(len(x), x.shape[2:], generator, flips=flips, rotations=rotations)
    return apply_flip_rot(x, params), params


def indicator(params: FlipRot) -> Tensor:
    """PCRL's vector v: one entry per mirrored axis, then the one-hot number of quarter turns; (B, D + 4) float32."""
    return torch.cat([params.flips.float(), F.one_hot(params.turns, 4).float()], 1)


def flip(x: Tensor, generator: torch.Generator, *, p: float = 0.5, axes: Sequence[int] | None = None) -> Tensor:
    """Mirrors each spatial axis of `axes` (all by default; 0 is the first after the channel) with probability `p`."""
    dims = x.ndim - 2
    mirrored = uniform(generator, len(x), dims) < p
    if axes is not None:
        mirrored[:, [axis for axis in range(dims) if axis not in axes]] = False
    return apply_flip_rot(x, FlipRot(mirrored, torch.zeros(len(x), dtype=torch.long, device=x.device)))


# --- affine transforms -----------------------------------------------------------------------------------------------


def apply_affine(x: Tensor, matrix: Tensor, *, size: Sequence[int] | None = None) -> Tensor:
    """Linear interpolation of `x` at `matrix` applied to the output's coordinates; outside, the border is repeated.

    Args:
        x: (B, C, *S).
        matrix: (B, D, D + 1), maps output to input in normalised coordinates (-1 and 1 are the outer edges), axes in
            array order.
        size: output size; default that of `x`.
    """
    dims = x.ndim - 2
    order = [*range(dims - 1, -1, -1), dims]  # torch's grids name the last axis first
    theta = matrix[:, order[:-1]][:, :, order].to(x.dtype)
    grid = F.affine_grid(theta, [len(x), x.shape[1], *(size or x.shape[2:])], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def sample_crop(
    batch: int, dims: int, generator: torch.Generator, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """(B, D, D + 1) matrices of random boxes inside the image."""
    share = uniform(generator, batch, 1, low=scale[0], high=scale[1])
    low, high = math.log(ratio[0]) / 2, math.log(ratio[1]) / 2
    shape = uniform(generator, batch, dims, low=low, high=high)
    shape = (shape - shape.mean(1, keepdim=True)) * 2  # the product over axes is 1: the ratio moves no volume
    extent = (share ** (1 / dims) * shape.exp()).clamp(max=1.0)
    centre = uniform(generator, batch, dims, low=-1.0, high=1.0) * (1 - extent)
    return torch.cat([torch.diag_embed(extent), centre[:, :, None]], 2)


def random_resized_crop(
    x: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    size: Sequence[int] | None = None,
) -> Tensor:
    """A random box of each image, resized to `size` (default: the image's own).

    Args:
        x: (B, C, *S).
        generator: on the device of `x`.
        scale: range of the box's share of the area or volume.
        ratio: range of the box's side ratio, relative to the image's.
        size: output size.
    """
    matrix = sample_crop(len(x), x.ndim - 2, generator, scale=scale, ratio=ratio)
    return apply_affine(x, matrix, size=size)


def rotation_matrix(angle: Tensor, size: Sequence[int]) -> Tensor:
    """(B,) radians -> (B, D, D + 1): rotation about the centre in the plane of the first two axes, in voxel geometry."""
    dims = len(size)
    matrix = torch.eye(dims, dims + 1, device=angle.device).repeat(len(angle), 1, 1)
    cos, sin = angle.cos(), angle.sin()
    matrix[:, 0, 0], matrix[:, 1, 1] = cos, cos
    matrix[:, 0, 1], matrix[:, 1, 0] = -sin * size[1] / size[0], sin * size[0] / size[1]
    return matrix


def small_rotation(x: Tensor, generator: torch.Generator, *, degrees: float = 10.0, p: float = 1.0) -> Tensor:
    """Rotates by U(-degrees, degrees) in the plane of the first two axes (row and column; x and y) with probability p."""
    angle = uniform(generator, len(x), low=-math.radians(degrees), high=math.radians(degrees))
    chosen = uniform(generator, len(x)) < p
    rotated = apply_affine(x, rotation_matrix(angle, x.shape[2:]))
    return torch.where(per_sample(chosen & (angle != 0), x), rotated, x)
