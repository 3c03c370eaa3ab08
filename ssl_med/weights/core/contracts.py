"""Input contracts that several families share."""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images in [0, 1]


def photograph(
    channels: int,
    side: int = 224,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    notes: Sequence[str] = (),
) -> InputContract:
    """Colour images with grey levels from 0 to 255, normalised channel by channel.

    Args:
        channels: of the network's first layer; for another number than that of `mean` nobody knows the normalisation.
        side: of the images, in pixels.
        mean: of the channels in [0, 1]; ImageNet's unless another is said.
        std: the same of deviations.
        notes: what else must be known.
    """
    colour = channels == len(mean)
    unknown = f"the first layer has {channels} channel(s), for which no normalisation is known"
    return InputContract(
        modality="photograph",
        patch_size=(side, side),
        mean=tuple(mean) if colour else (),
        std=tuple(std) if colour else (),
        channels=("red", "green", "blue") if colour and channels == 3 else (),
        notes=tuple(notes) if colour else (unknown,),
    )


def abdominal_ct(*notes: str) -> InputContract:
    """CT from -175 to 250 HU, voxels of 1.5 mm."""
    return InputContract(
        modality="CT",
        patch_size=(96, 96, 96),
        low=-175.0,
        high=250.0,
        unit="HU",
        spacing_mm=(1.5, 1.5, 1.5),
        orientation="RAS",
        notes=notes,
    )
