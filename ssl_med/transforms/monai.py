"""Every transform of this package in MONAI's form, and MONAI's transforms in ours.

    from ssl_med.transforms.monai import RandLocalPixelShuffled, RandPaintd
    Compose([..., RandLocalPixelShuffled("image", prob=0.5, windows=1000), RandPaintd("image")])

`RandX` takes and gives one image (C, *S), `RandXd` the images under `keys` of a dictionary. They are `Randomizable`
(`set_random_state`, `set_determinism` in a Compose, seeds of MONAI's DataLoader workers), keep MetaTensors and their affine,
leave their input alone, run on the device of the image, and are not lazy: what is pending is carried out before them.
`FromMonai` is the other direction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from monai.transforms import Randomizable
from torch import Tensor

from ssl_med.spec import SslMedError
from ssl_med.transforms._monai_corruptions import (
    RandCellMask,
    RandCellMaskd,
    RandContextSwap,
    RandContextSwapd,
    RandInPaint,
    RandInPaintd,
    RandLocalPixelShuffle,
    RandLocalPixelShuffled,
    RandModelsGenesis,
    RandModelsGenesisd,
    RandOutPaint,
    RandOutPaintd,
    RandPaint,
    RandPaintd,
    RandPatchShuffle,
    RandPatchShuffled,
    RandPooledPixelShuffle,
    RandPooledPixelShuffled,
)
from ssl_med.transforms._monai_geometry import (
    RandFlipAxes,
    RandFlipAxesd,
    RandFlipRot,
    RandFlipRotd,
    RandJigsaw,
    RandJigsawd,
    RandQuarterTurns,
    RandQuarterTurnsd,
    RandResizedCrop,
    RandResizedCropd,
    RandSmallRotation,
    RandSmallRotationd,
    RandSmoothDeformation,
    RandSmoothDeformationd,
    RandTurn,
    RandTurnd,
)
from ssl_med.transforms._monai_intensity import (
    RandBezierIntensity,
    RandBezierIntensityd,
    RandBlur,
    RandBlurd,
    RandBrightnessContrast,
    RandBrightnessContrastd,
    RandClippedNoise,
    RandClippedNoised,
    RandCutout,
    RandCutoutd,
    RandGamma,
    RandGammad,
    RandSolarize,
    RandSolarized,
)

__all__ = [
    "FromMonai",
    "RandBezierIntensity",
    "RandBezierIntensityd",
    "RandBlur",
    "RandBlurd",
    "RandBrightnessContrast",
    "RandBrightnessContrastd",
    "RandCellMask",
    "RandCellMaskd",
    "RandClippedNoise",
    "RandClippedNoised",
    "RandContextSwap",
    "RandContextSwapd",
    "RandCutout",
    "RandCutoutd",
    "RandFlipAxes",
    "RandFlipAxesd",
    "RandFlipRot",
    "RandFlipRotd",
    "RandGamma",
    "RandGammad",
    "RandInPaint",
    "RandInPaintd",
    "RandJigsaw",
    "RandJigsawd",
    "RandLocalPixelShuffle",
    "RandLocalPixelShuffled",
    "RandModelsGenesis",
    "RandModelsGenesisd",
    "RandOutPaint",
    "RandOutPaintd",
    "RandPaint",
    "RandPaintd",
    "RandPatchShuffle",
    "RandPatchShuffled",
    "RandPooledPixelShuffle",
    "RandPooledPixelShuffled",
    "RandQuarterTurns",
    "RandQuarterTurnsd",
    "RandResizedCrop",
    "RandResizedCropd",
    "RandSmallRotation",
    "RandSmallRotationd",
    "RandSmoothDeformation",
    "RandSmoothDeformationd",
    "RandSolarize",
    "RandSolarized",
    "RandTurn",
    "RandTurnd",
]


class FromMonai:
    """A MONAI transform of one image as a transform of ours: `(x, generator) -> Tensor`, for the views of a method.

    Each sample gets a seed of its own from `generator`, so that a batch replays, and equals its samples one by one. The
    transform is copied: its own random state is neither used nor moved.

    Args:
        transform: any callable on images (C, *S), random or not, a Compose too; meta data of its results end here.
        key: for a dictionary transform, the key under which it finds and leaves the image.
    """

    def __init__(self, transform: Callable[[Any], Any], *, key: str | None = None) -> None:
        self.transform, self.key = copy.deepcopy(transform), key

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, *S) -> the transformed batch, of the type and on the device of `x`.

        Raises:
            SslMedError: what comes back is no image, or images have different shapes.
        """
        drawn = torch.randint(2**31, (len(x),), generator=generator, device=generator.device)
        done = [self._one(image.clone(), seed) for image, seed in zip(x, drawn.tolist(), strict=True)]
        shapes = sorted({tuple(image.shape) for image in done})
        if len(shapes) > 1:
            raise SslMedError(
                f"{self._name} makes images of different shapes, {shapes[0]} and {shapes[1]}, which fit no batch: choose fixed "
                "sizes (roi_size, random_size=False)"
            )
        return torch.stack(done).to(x) if done else x.clone()

    def _one(self, image: Tensor, seed: int) -> Tensor:
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed)
        result = self.transform(image if self.key is None else {self.key: image})
        if self.key is not None and isinstance(result, dict):
            result = result.get(self.key)
        if not isinstance(result, torch.Tensor):
            what = "a dictionary transform needs key=NAME; " if self.key is None else ""
            raise SslMedError(
                f"{self._name} gave {type(result).__name__} instead of one image: {what}it must give one tensor"
            )
        plain: Tensor = result.as_tensor() if hasattr(result, "as_tensor") else result
        return plain

    @property
    def _name(self) -> str:
        return type(self.transform).__name__
