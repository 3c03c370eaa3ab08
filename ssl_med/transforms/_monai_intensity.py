"""Intensity transforms as MONAI transforms, declared as in `_monai_corruptions`; `ssl_med.transforms.monai` offers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ssl_med.ranges import Natural, NonNegative, Positive, PositiveShare, Share
from ssl_med.transforms import intensity
from ssl_med.transforms._monai import Keyed, Rand


@dataclass(eq=False, kw_only=True)
class RandBezierIntensity(Rand):
    """Non-linear intensity map of Models Genesis (Zhou et al. 2021): a monotone cubic Bezier curve, every second one falls."""

    offers = staticmethod(intensity.nonlinear)

    prob: Share = 0.9
    """probability that the transform acts"""


@dataclass(eq=False)
class RandBezierIntensityd(Keyed, RandBezierIntensity):
    """Dictionary form of `RandBezierIntensity`: all keys follow the same curve."""


@dataclass(eq=False, kw_only=True)
class RandBrightnessContrast(Rand):
    """Colour jitter of a grey image: brightness U(1 - b, 1 + b), contrast about the mean U(1 - c, 1 + c), cut at 0 and 1."""

    offers = staticmethod(intensity.brightness_contrast)

    prob: Share = 0.8
    """probability that the transform acts"""
    brightness: NonNegative = 0.4
    """half width b of the range of brightness factors"""
    contrast: NonNegative = 0.4
    """half width c of the range of contrast factors"""


@dataclass(eq=False)
class RandBrightnessContrastd(Keyed, RandBrightnessContrast):
    """Dictionary form of `RandBrightnessContrast`: all keys have the same factors."""


@dataclass(eq=False, kw_only=True)
class RandGamma(Rand):
    """Gamma curve; the exponent is log-uniform. The defaults are nnU-Net's (Isensee et al. 2021)."""

    offers = staticmethod(intensity.gamma)

    prob: Share = 0.3
    """probability that the transform acts"""
    exponent: tuple[Positive, Positive] = (0.7, 1.5)
    """range of the exponent"""


@dataclass(eq=False)
class RandGammad(Keyed, RandGamma):
    """Dictionary form of `RandGamma`: all keys have the same exponent."""


@dataclass(eq=False, kw_only=True)
class RandSolarize(Rand):
    """Inverts what is bright: x >= threshold becomes 1 - x (BYOL, Grill et al. 2020)."""

    offers = staticmethod(intensity.solarize)

    prob: Share = 0.2
    """probability that the transform acts"""
    threshold: Share = 0.5
    """intensity from which values are inverted"""


@dataclass(eq=False)
class RandSolarized(Keyed, RandSolarize):
    """Dictionary form of `RandSolarize`."""


@dataclass(eq=False, kw_only=True)
class RandClippedNoise(Rand):
    """Gaussian noise of a random standard deviation, cut at 0 and 1; sigma=(0.1, 0.1) is the de-noising task's corruption."""

    offers = staticmethod(intensity.gaussian_noise)

    prob: Share = 0.5
    """probability that the transform acts"""
    sigma: tuple[NonNegative, NonNegative] = (0.0, 0.1)
    """range of the standard deviation"""


@dataclass(eq=False)
class RandClippedNoised(Keyed, RandClippedNoise):
    """Dictionary form of `RandClippedNoise`: keys of equally many channels have the same noise."""


@dataclass(eq=False, kw_only=True)
class RandBlur(Rand):
    """Gaussian blur of a random width, the same along all axes; borders repeat."""

    offers = staticmethod(intensity.gaussian_blur)
    in_unit_range: ClassVar[bool] = False

    prob: Share = 0.5
    """probability that the transform acts"""
    sigma: tuple[NonNegative, NonNegative] = (0.1, 2.0)
    """range of the standard deviation in voxels; the kernel is cut at three times its upper end"""


@dataclass(eq=False)
class RandBlurd(Keyed, RandBlur):
    """Dictionary form of `RandBlur`: all keys are blurred alike."""


@dataclass(eq=False, kw_only=True)
class RandCutout(Rand):
    """Boxes at random places become 0 (DeVries and Taylor 2017); they may overlap."""

    offers = staticmethod(intensity.cutout)
    in_unit_range: ClassVar[bool] = False

    holes: Natural = 3
    """boxes per image"""
    fraction: PositiveShare = 32 / 224
    """side of a box as a share of the image's"""


@dataclass(eq=False)
class RandCutoutd(Keyed, RandCutout):
    """Dictionary form of `RandCutout`: all keys lose the same boxes."""
