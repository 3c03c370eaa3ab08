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

from ssl_med.transforms import _batched, _cpu
from ssl_med.transforms._axes import along_axes, blur_matrix, resize_matrix
from ssl_med.transforms._sampling import on_cpu, per_sample, uniform

# --- flips and quarter turns -----------------------------------------------------------------------------------------


class FlipRot(NamedTuple):
    """Per sample: which spatial axes are mirrored, then how many quarter turns follow in the plane of the first two."""

    flips: Tensor  # (B, D) bool
    turns: Tensor  # (B,) int64, 0..3


def apply_flip_rot(x: Tensor, params: FlipRot) -> Tensor:
    """Mirrors, then turns as `numpy.rot90(·, k, (0, 1))` does; exact, without interpolation."""
    return _cpu.flip_rot(x, *params) if on_cpu(x) else _batched.flip_rot(x, *params)


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
    """PCRL's vector v: one entry per mirrored axis, then the one-hot number of quarter turns; (B, D + 4) float32.

    Its length does not depend on the plane: where that is no square, the entries of the odd turns stay 0.
    """
    return torch.cat([params.flips.float(), F.one_hot(params.turns, 4).float()], 1)


def sample_flip(
    batch: int, dims: int, generator: torch.Generator, *, p: float, axes: Sequence[int] | None = None
) -> FlipRot:
    """Each axis of `axes` (None: all) is mirrored with probability `p`; nothing is turned."""
    mirrored = uniform(generator, batch, dims) < p
    if axes is not None:
        mirrored[:, [axis for axis in range(dims) if axis not in axes]] = False
    return FlipRot(mirrored, torch.zeros(batch, dtype=torch.long, device=generator.device))


def flip(x: Tensor, generator: torch.Generator, *, p: float = 0.5, axes: Sequence[int] | None = None) -> Tensor:
    """Mirrors each spatial axis of `axes` (all by default; 0 is the first after the channel) with probability `p`."""
    return apply_flip_rot(x, sample_flip(len(x), x.ndim - 2, generator, p=p, axes=axes))


def sample_rot90(batch: int, size: Sequence[int], generator: torch.Generator, *, p: float) -> FlipRot:
    """With probability `p` turns as `sample_flip_rot` draws them; nothing is mirrored."""
    params = sample_flip_rot(batch, size, generator, flips=False)
    return params._replace(turns=params.turns * (uniform(generator, batch) < p))


def rot90(x: Tensor, generator: torch.Generator, *, p: float = 1.0) -> Tensor:
    """With probability `p` 0..3 quarter turns in the plane of the first two axes; 0 or 2 when it is no square."""
    return apply_flip_rot(x, sample_rot90(len(x), x.shape[2:], generator, p=p))


# --- crops -----------------------------------------------------------------------------------------------------------


class Crop(NamedTuple):
    """A box per sample and axis, as shares of the image: (B, D) corners and (B, D) sides, within [0, 1]."""

    corner: Tensor
    side: Tensor


def sample_crop(
    batch: int, dims: int, generator: torch.Generator, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> Crop:
    """Volume share U(scale), side ratios log-uniform within `ratio`, anywhere inside the image.

    In 2D the ratio is columns to rows; in 3D any two sides differ by at most the larger of ratio[1] and 1 / ratio[0]. A
    side that would be longer than the image's is cut, as the volume cannot be kept then.
    """
    share = uniform(generator, batch, 1, low=scale[0], high=scale[1])
    low, high = math.log(ratio[0]) / 2, math.log(ratio[1]) / 2
    if dims == 2:
        half = uniform(generator, batch, 1, low=low, high=high)
        shape = torch.cat([-half, half], 1)
    else:
        widest = max(abs(low), abs(high))
        shape = uniform(generator, batch, dims, low=-widest, high=widest)
        shape = shape - shape.mean(1, keepdim=True)  # the product over axes is 1: the ratio moves no volume
    side = (share ** (1 / dims) * shape.exp()).clamp(max=1.0)
    return Crop(uniform(generator, batch, dims) * (1 - side), side)


def apply_crop(x: Tensor, crop: Crop, *, size: Sequence[int] | None = None) -> Tensor:
    """The boxes resized to `size` (default: the image's) by linear interpolation, antialiased where they shrink."""
    matrices = []
    for axis, length in enumerate(x.shape[2:]):
        count = length if size is None else size[axis]
        step = crop.side[:, axis] * length / count
        first = crop.corner[:, axis] * length + step / 2 - 0.5  # voxel centres, as align_corners=False
        matrices.append(resize_matrix(first, step, (length, count)))
    return along_axes(x, matrices)


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
        ratio: range of the ratio between any two sides of the box, each as a share of the image's.
        size: output size.
    """
    return apply_crop(x, sample_crop(len(x), x.ndim - 2, generator, scale=scale, ratio=ratio), size=size)


# --- small rotations -------------------------------------------------------------------------------------------------


def apply_rotation(x: Tensor, angle: Tensor) -> Tensor:
    """Rotates about the centre by `angle` (B,) radians in the plane of the first two axes.

    Positive angles turn the first axis towards the second, in voxel geometry (a voxel keeps its distance from the centre
    whatever the sides). Bilinear; outside, the border is repeated. The third axis needs no interpolation: its planes are
    channels.
    """
    rows, columns = x.shape[2:4]
    cos, sin = angle.cos(), angle.sin()
    zero = torch.zeros_like(cos)
    # affine_grid names the last axis first and measures each axis by half its length
    theta = (
        torch.stack([cos, -sin * rows / columns, zero, sin * columns / rows, cos, zero], 1).view(-1, 2, 3).to(x.dtype)
    )
    planes = (x if x.ndim == 4 else x.movedim(-1, 2)).reshape(len(x), -1, rows, columns)
    grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
    y = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    y = y if x.ndim == 4 else y.view(*x.shape[:2], x.shape[4], rows, columns).movedim(2, -1).contiguous()
    return torch.where(per_sample(angle == 0, x), x, y)


def sample_rotation(batch: int, generator: torch.Generator, *, degrees: float, p: float) -> Tensor:
    """Angles (B,) in radians: U(-degrees, degrees) with probability p, else 0."""
    angle = uniform(generator, batch, low=-math.radians(degrees), high=math.radians(degrees))
    return angle * (uniform(generator, batch) < p)


def small_rotation(x: Tensor, generator: torch.Generator, *, degrees: float = 10.0, p: float = 1.0) -> Tensor:
    """Rotates by U(-degrees, degrees) in the plane of the first two axes (row and column; x and y) with probability p."""
    return apply_rotation(x, sample_rotation(len(x), generator, degrees=degrees, p=p))


# --- elastic deformation ---------------------------------------------------------------------------------------------


def apply_displacement(x: Tensor, shift: Tensor) -> Tensor:
    """Voxel p of the result shows x at p + shift(p); shift (B, 2, *S) voxels along the first two axes.

    Linear interpolation; outside, the border is repeated.
    """
    shape = x.shape[2:]
    axes = [torch.arange(n, device=x.device, dtype=shift.dtype) for n in shape]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(x), -1, *[-1] * len(shape)).clone()
    position[:, :2] += shift
    size = torch.tensor(tuple(shape), device=x.device, dtype=shift.dtype).view(1, -1, *[1] * len(shape))
    grid = ((2 * position + 1) / size - 1).flip(1).movedim(1, -1)  # grid_sample names the last axis first
    return F.grid_sample(x, grid.to(x.dtype), padding_mode="border", align_corners=False)


def elastic(x: Tensor, generator: torch.Generator, *, magnitude: float, sigma: float = 8.0) -> Tensor:
    """Random smooth deformation along the first two axes (Simard et al. 2003).

    Args:
        x: (B, C, *S).
        generator: on the device of `x`.
        magnitude: standard deviation of the displacement in voxels, away from the border.
        sigma: standard deviation of the Gaussian that smooths white noise into the displacement, in voxels.
    """
    if magnitude == 0:
        return x.clone()
    noise = uniform(generator, len(x), 2, *x.shape[2:], low=-1.0, high=1.0)
    radius = math.ceil(3 * sigma)
    width = torch.full((len(x),), sigma, device=x.device)
    smooth = along_axes(noise, [blur_matrix(width, radius, n) for n in x.shape[2:]])
    weight = torch.softmax(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2, 0)
    spread = float(weight.square().sum()) ** (len(x.shape[2:]) / 2) / math.sqrt(3)
    return apply_displacement(x, smooth * (magnitude / spread))
