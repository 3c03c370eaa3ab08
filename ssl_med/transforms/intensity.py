"""Intensity transforms of whole batches; inputs (B, C, *S) in [0, 1], never changed in place, results in [0, 1].

All channels of a sample share their parameters. `p` is the probability of a sample to be transformed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.transforms import _batched, _cpu
from ssl_med.transforms._axes import along_axes, blur_matrix
from ssl_med.transforms._sampling import integers, on_cpu, per_sample, uniform

_NODES = 1000  # points on a Bezier curve: within 2.3e-5 of the official 100,000
_TABLE = 4001  # entries of the intensity table: integer HU of a window of 2000 or 4000 HU fall on entries

# --- brightness, contrast, gamma, noise ------------------------------------------------------------------------------


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
    """Factors U(1 - b, 1 + b) and U(1 - c, 1 + c): color jitter of a grey image."""
    chosen = uniform(generator, len(x)) < p
    factors = []
    for strength in (brightness, contrast):
        factor = uniform(generator, len(x), low=max(0.0, 1 - strength), high=1 + strength)
        factors.append(torch.where(chosen, factor, torch.ones_like(factor)))
    return apply_brightness_contrast(x, *factors)


def apply_gamma(x: Tensor, exponent: Tensor) -> Tensor:
    """Raises x to the power of `exponent` (B,); 1 changes nothing."""
    return torch.where(per_sample(exponent == 1, x), x, x.clamp(0, 1) ** per_sample(exponent, x).to(x.dtype))


def gamma(
    x: Tensor, generator: torch.Generator, *, exponent: tuple[float, float] = (0.7, 1.5), p: float = 0.3
) -> Tensor:
    """Gamma curve, exponent log-uniform within `exponent`; the defaults are nnU-Net's (Isensee et al. 2021)."""
    chosen = uniform(generator, len(x)) < p
    drawn = uniform(generator, len(x), low=math.log(exponent[0]), high=math.log(exponent[1])).exp()
    return apply_gamma(x, torch.where(chosen, drawn, torch.ones_like(drawn)))


def apply_solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Inverts what is bright: x >= threshold becomes 1 - x; threshold (B,), above 1 changes nothing."""
    return torch.where(x >= per_sample(threshold, x), 1 - x, x)


def solarize(x: Tensor, generator: torch.Generator, *, threshold: float = 0.5, p: float = 0.2) -> Tensor:
    """Inverts values from `threshold` upwards, with BYOL's default threshold and probability (Grill et al. 2020)."""
    chosen = uniform(generator, len(x)) < p
    return apply_solarize(x, torch.where(chosen, threshold, 2.0))


def apply_noise(x: Tensor, sigma: Tensor, normal: Tensor) -> Tensor:
    """Adds sigma * normal, then clamps to [0, 1]; sigma (B,), normal like x; sigma 0 changes nothing."""
    return torch.where(per_sample(sigma > 0, x), (x + per_sample(sigma, x).to(x.dtype) * normal).clamp(0, 1), x)


def gaussian_noise(
    x: Tensor, generator: torch.Generator, *, sigma: tuple[float, float] = (0.0, 0.1), p: float = 0.5
) -> Tensor:
    """Adds N(0, s^2) per voxel and channel, s ~ U(sigma); sigma=(0.1, 0.1), p=1 is the de-noising task's corruption."""
    chosen = uniform(generator, len(x)) < p
    drawn = uniform(generator, len(x), low=sigma[0], high=sigma[1])
    return apply_noise(x, drawn * chosen, torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype))


# --- blur ------------------------------------------------------------------------------------------------------------


def apply_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Separable Gaussian with its own sigma (voxels) per sample, (B,); 0 leaves a sample as it is; borders repeat."""
    if x.ndim == 4:
        y = _blur_2d(x, sigma, radius)
    else:  # grouped 3D convolutions take three to five times as long as products with a matrix per axis
        y = along_axes(x, [blur_matrix(sigma, radius, length) for length in x.shape[2:]])
    return torch.where(per_sample(sigma > 0, x), y, x)


def _blur_2d(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2, 1)
    kernel = kernel.repeat_interleave(x.shape[1], 0).to(x.dtype)
    y = F.pad(x, [radius] * 4, mode="replicate").flatten(0, 1)[None]
    y = F.conv2d(y, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(y, kernel[:, None, None, :], groups=len(kernel)).view_as(x)


def gaussian_blur(
    x: Tensor, generator: torch.Generator, *, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5
) -> Tensor:
    """Blur with sigma ~ U(sigma) voxels; the kernel is cut at three times the largest sigma."""
    chosen = uniform(generator, len(x)) < p
    drawn = uniform(generator, len(x), low=sigma[0], high=sigma[1])
    return apply_blur(x, drawn * chosen, math.ceil(3 * sigma[1]))


# --- cutout ----------------------------------------------------------------------------------------------------------


def cutout(
    x: Tensor, generator: torch.Generator, *, holes: int = 3, fraction: float = 32 / 224, p: float = 1.0
) -> Tensor:
    """Sets `holes` boxes per sample, each `fraction` of every side, to 0 (DeVries and Taylor 2017); holes may overlap."""
    if fraction <= 0 or holes == 0:
        return x.clone()
    chosen = uniform(generator, len(x)) < p
    side = torch.tensor([min(s, max(1, round(fraction * s))) for s in x.shape[2:]], device=x.device)
    start = integers(generator, (len(x), holes, len(side)), torch.tensor(x.shape[2:], device=x.device) - side + 1)
    size = side * chosen[:, None, None].expand_as(start)
    return _cpu.fill_boxes(x, start, size, 0.0) if on_cpu(x) else _batched.fill_boxes(x, start, size, 0.0)


# --- non-linear intensity map ----------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """Bezier control points (B, 2, 2) as (x1, y1), (x2, y2); whether it falls (B,); whether it is used (B,)."""

    points: Tensor
    falling: Tensor
    active: Tensor


def sample_curve(batch: int, generator: torch.Generator, *, p: float) -> Curve:
    """Control points U[0, 1]^2; half of the curves fall, which inverts the contrast."""
    points = uniform(generator, batch, 2, 2)
    coins = uniform(generator, batch, 2)
    return Curve(points, coins[:, 0] < 0.5, coins[:, 1] < p)


def apply_curve(x: Tensor, curve: Curve) -> Tensor:
    """Maps intensities by the cubic Bezier curve from (0, 0) to (1, 1), or from (0, 1) to (1, 0) when falling.

    The curve is tabulated at _TABLE intensities and interpolated linearly between them, so that the cost per voxel is one
    look-up. Between entries the error is below 1e-5 but where the curve is vertical (up to 2e-3 within 1 / _TABLE of it).
    """
    table = _table(curve).to(torch.complex128 if x.dtype == torch.float64 else torch.complex64)
    if on_cpu(x):
        y = torch.empty(x.shape, dtype=x.dtype)
        for mine, sample, row, chosen in zip(y, x, table, curve.active.tolist(), strict=True):
            mine.copy_(_look_up(sample.flatten(), row).view(sample.shape) if chosen else sample)
        return y
    first = torch.arange(len(x), device=x.device, dtype=torch.int32).repeat_interleave(x[0].numel()) * _TABLE
    mapped = _look_up(x.flatten(), table.flatten(), first).view(x.shape).to(x.dtype)
    return torch.where(per_sample(curve.active, x), mapped, x)


def _table(curve: Curve) -> Tensor:
    """(B, _TABLE) complex: value at each intensity, and the step to the next one as imaginary part."""
    t = torch.linspace(0, 1, _NODES, device=curve.points.device, dtype=torch.float64)
    p = curve.points.double()
    nodes = p[:, 0, :, None] * (3 * t * (1 - t) ** 2) + p[:, 1, :, None] * (3 * t**2 * (1 - t)) + t**3  # (B, 2, T)
    # control points in the unit square make x(t) and y(t) monotone: sorting them, as the official code does, changes
    # nothing, and sorting x alone, as it does for falling curves, pairs x(t) with y(1 - t)
    x, y = nodes[:, 0].contiguous(), torch.where(curve.falling[:, None], nodes[:, 1].flip(1), nodes[:, 1])
    at = torch.linspace(0, 1, _TABLE, device=t.device, dtype=torch.float64).expand(len(x), -1).contiguous()
    right = torch.searchsorted(x, at).clamp_(1, _NODES - 1)
    x0, y0 = x.gather(1, right - 1), y.gather(1, right - 1)
    share = ((at - x0) / (x.gather(1, right) - x0).clamp_min(1e-12)).clamp_(0, 1)
    value = torch.lerp(y0, y.gather(1, right), share)
    return torch.complex(value, torch.diff(value, append=value[:, -1:]))


def _look_up(x: Tensor, table: Tensor, first: Tensor | None = None) -> Tensor:
    """(N,) intensities -> (N,) values in the table's precision; `first` is where each one's table begins."""
    place = x.clamp(0, 1).mul_(_TABLE - 1).to(table.real.dtype)
    index = place.int()
    # one gather of pairs instead of two gathers
    pair = torch.view_as_real(table.index_select(0, index if first is None else index + first))
    return torch.addcmul(pair[:, 0], pair[:, 1], place.sub_(index))


def nonlinear(x: Tensor, generator: torch.Generator, *, p: float = 0.9) -> Tensor:
    """Non-linear intensity transform of Models Genesis (Zhou et al. 2021)."""
    return apply_curve(x, sample_curve(len(x), generator, p=p))
