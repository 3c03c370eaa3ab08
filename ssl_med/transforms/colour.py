"""Colour transforms of whole batches: (B, 3, *S) red, green, blue in [0, 1], never changed in place, results in [0, 1].

The laws are torchvision's and, up to its rounding to 256 levels, those of PIL. All parameters are (B,), one for each sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.spec import SslMedError
from ssl_med.transforms._sampling import per_sample, uniform

WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue in the luminance, ITU-R BT.601
_LEVELS = 256


def check_colour(x: Tensor) -> None:
    """Refuses images of other than three channels.

    Raises:
        SslMedError: names the settings.
    """
    if x.shape[1] != len(WEIGHTS):
        raise SslMedError(
            f"hue, saturation, greyscale and equalize are for images of red, green and blue, these have {x.shape[1]} "
            "channels; set them to 0"
        )


def luminance(x: Tensor) -> Tensor:
    """(B, 3, *S) -> (B, 1, *S)."""
    weights = torch.tensor(WEIGHTS, device=x.device, dtype=x.dtype).view(1, 3, *[1] * (x.ndim - 2))
    return (x * weights).sum(1, keepdim=True)


def apply_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """0: grey, 1: unchanged, above: more colour."""
    grey, share = luminance(x), per_sample(factor, x).to(x.dtype)
    return torch.where(share == 1, x, (grey + share * (x - grey)).clamp(0, 1))


def apply_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """0: the mean luminance everywhere, 1: unchanged."""
    mean = per_sample(luminance(x).flatten(1).mean(1), x)
    share = per_sample(factor, x).to(x.dtype)
    return torch.where(share == 1, x, (mean + share * (x - mean)).clamp(0, 1))


def apply_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turns the circle of hues by `shift`, 1 for a whole turn; 0 changes nothing."""
    most, least = x.amax(1), x.amin(1)
    spread = most - least
    safe = torch.where(spread > 0, spread, 1)
    red, green, blue = ((most - channel) / safe for channel in x.unbind(1))
    hue = torch.where(x[:, 0] == most, blue - green, torch.where(x[:, 1] == most, 2 + red - blue, 4 + green - red))
    hue = torch.where(spread > 0, hue / 6 + per_sample(shift, hue).to(x.dtype), 0)
    sector = (hue - hue.floor()) * 6
    # of each channel, how far it is from its full value at this hue
    away = [(sector + offset).remainder(6) for offset in (0.0, 4.0, 2.0)]
    turned = torch.stack([most - spread * (2 - (a - 3).abs()).clamp(0, 1) for a in away], 1)
    return torch.where(per_sample(shift, x) == 0, x, turned.clamp(0, 1))


def apply_greyscale(x: Tensor, chosen: Tensor) -> Tensor:
    """The luminance in all three channels where `chosen`."""
    return torch.where(per_sample(chosen, x), luminance(x).expand_as(x), x)


def apply_sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """2D images: 0: smoothed by a kernel of 3 x 3, 1: unchanged, above: sharper; the outermost pixels stay."""
    kernel = torch.ones(3, 3, device=x.device, dtype=x.dtype)
    kernel[1, 1] = 5
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 3, 3)
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(x, kernel, groups=x.shape[1])
    share = per_sample(factor, x).to(x.dtype)
    return torch.where(share == 1, x, (smooth + share * (x - smooth)).clamp(0, 1))


def apply_equalize(x: Tensor, chosen: Tensor) -> Tensor:
    """Makes the histogram of 256 levels of each channel as flat as a monotone map can, where `chosen`; PIL's law.

    With n pixels, h(v) of them at level v, and the highest level that occurs holding h_last: step = (n - h_last) // 256, and
    level v becomes (step // 2 + sum of h below v) // step; step 0 changes nothing.
    """
    level = (x.clamp(0, 1) * (_LEVELS - 1)).round().long().flatten(2)  # (B, C, N)
    count = torch.zeros(*level.shape[:2], _LEVELS, dtype=torch.long, device=x.device)
    count.scatter_add_(2, level, torch.ones_like(level))
    last = level.amax(2, keepdim=True)
    step = (level.shape[2] - count.gather(2, last)).div(_LEVELS - 1, rounding_mode="floor")
    below = count.cumsum(2) - count
    table = (step // 2 + below).div(step.clamp_min(1), rounding_mode="floor").clamp(0, _LEVELS - 1)
    mapped = table.gather(2, level).to(x.dtype) / (_LEVELS - 1)
    flat = torch.where(step > 0, mapped, x.flatten(2)).view_as(x)
    return torch.where(per_sample(chosen, x), flat, x)


def colour_jitter(
    x: Tensor,
    generator: torch.Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    p: float = 0.8,
) -> Tensor:
    """Factors U(1 - s, 1 + s), not below 0, and a turn of the hue by U(-hue, hue), all of a sample or none.

    Where we differ from torchvision, and why: the four changes come in this order and not in a random one, so that a whole
    batch is changed at once.
    """
    chosen = uniform(generator, len(x)) < p
    factors = []
    for strength in (brightness, contrast, saturation):
        factor = uniform(generator, len(x), low=max(0.0, 1 - strength), high=1 + strength)
        factors.append(torch.where(chosen, factor, 1.0))
    shift = torch.where(chosen, uniform(generator, len(x), low=-hue, high=hue), 0.0)
    bright = (x * per_sample(factors[0], x)).clamp(0, 1)
    return apply_hue(apply_saturation(apply_contrast(bright, factors[1]), factors[2]), shift)
