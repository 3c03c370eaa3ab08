"""How near a restored image is to its original: mean squared error, peak signal-to-noise ratio, structural similarity.

    MSE = mean (x - y)^2,   PSNR = 10 log10(range^2 / MSE) in dB,   SSIM as Wang et al., IEEE TIP 13, 2004.

The range is 1 where images lie in [0, 1], else that of the original image; SSIM is taken of images divided by it.
"""

from __future__ import annotations

import math

from torch import Tensor

from ssl_med.losses.restoration import ssim_loss

NAMES = ("mse", "psnr", "ssim")


def scores(image: Tensor, original: Tensor, *, unit: bool) -> dict[str, float]:
    """MSE, PSNR in dB and SSIM of one image (C, *S); PSNR is infinite where nothing differs.

    Args:
        image: restored or corrupted.
        original: of the same shape.
        unit: whether images lie in [0, 1].
    """
    x, y = image.double(), original.double()
    low = 0.0 if unit else float(y.min())
    size = 1.0 if unit else max(float(y.max()) - low, 1e-12)
    error = float((x - y).square().mean())
    psnr = 10 * math.log10(size**2 / error) if error > 0 else math.inf
    return {
        "mse": error,
        "psnr": psnr,
        "ssim": 1 - float(ssim_loss(((x - low) / size)[None], ((y - low) / size)[None])),
    }
