"""Numbers of features, to compare two programs: of a seeded image, and beside those that another program computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssl_med.networks.pyramid import Backbone
from ssl_med.reading import UnreadableError
from ssl_med.spec import SslMedError
from ssl_med.weights.core.arrays import read_npz

_SMALLEST = 32  # pixels


def seeded_image(backbone: Backbone, sides: Sequence[int]) -> Tensor:
    """(1, C, *sides) in [0, 1]: a sum of waves whose lengths differ by axis and channel, alike everywhere but for rounding."""
    waves = torch.zeros(1, backbone.in_channels, *sides, dtype=torch.float64)
    for axis, side in enumerate(sides):
        place = torch.arange(side, dtype=torch.float64) + 0.5
        for channel in range(backbone.in_channels):
            wave = torch.sin(place * (0.7 + 0.31 * axis + 0.13 * channel))
            waves[0, channel] += wave.view(*[-1 if k == axis else 1 for k in range(len(sides))])
    return (0.5 + waves / (2 * len(sides))).float()


def seeded_sides(backbone: Backbone) -> list[int]:
    """Sides of a small image that the network takes: two of its coarsest voxels at least, and 32 pixels."""
    least = zip(backbone.divisor, backbone.min_input_side, strict=True)
    return [by * math.ceil(max(2 * by, smallest, _SMALLEST) / by) for by, smallest in least]


@torch.inference_mode()
def features_of_seed(backbone: Backbone, sides: Sequence[int]) -> list[str]:
    """Shape, mean and root mean square of each level, six digits; the last ones depend on the processor's order of sums."""
    lines = []
    for number, level in enumerate(backbone(seeded_image(backbone, sides))):
        shape = " x ".join(map(str, level.shape[1:]))
        values = level.double()
        lines.append(f"level {number} ({shape}): mean {values.mean():.6g}, rms {values.square().mean().sqrt():.6g}")
    return lines


@torch.inference_mode()
def compared(backbone: Backbone, path: Path) -> list[str]:
    """Largest differences from features that another program computed.

    Args:
        backbone: in evaluation mode.
        path: .npz with `input` (B, C, *S), what the original network took, after all normalisation; or `image`, before the
            mean and deviation of the channels. And `features`, of the last level (B, C', *S') or its global average (B, C');
            or `level0`, `level1`, ..., finest first.

    Raises:
        SslMedError: an array is missing or of another shape.
    """
    try:
        held = {
            name: torch.from_numpy(array).float() for name, array in read_npz(path).items() if array.dtype.kind in "fiu"
        }
    except UnreadableError as error:
        raise SslMedError(f"{path}: {error}") from None
    if "input" not in held and "image" not in held:
        raise SslMedError(
            f"{path}: holds no array `input` (as the original network took it) or `image` (scaled to [0, 1])"
        )
    image = held["input"] if "input" in held else held["image"]
    if image.ndim != backbone.spatial_dims + 2 or image.shape[1] != backbone.in_channels:
        wanted = f"(B, {backbone.in_channels}, *S) in {backbone.spatial_dims}D"
        raise SslMedError(f"{path}: the image has shape {tuple(image.shape)}; give {wanted}")
    # calling the network normalises, its forward alone does not
    pyramid = backbone.forward(image) if "input" in held else backbone(image)
    mine = {f"level{number}": level for number, level in enumerate(pyramid)} | {"features": pyramid[-1]}
    asked = [name for name in mine if name in held]
    if not asked:
        raise SslMedError(f"{path}: holds neither `features` nor `level0` to `level{len(pyramid) - 1}`")
    lines = []
    for name in asked:
        theirs, ours = held[name], mine[name]
        if theirs.ndim == 2:
            ours = ours.flatten(2).mean(2)
        if theirs.shape != ours.shape:
            raise SslMedError(f"{path}: `{name}` has shape {tuple(theirs.shape)}, ours has {tuple(ours.shape)}")
        apart = float((theirs - ours).abs().max())
        lines.append(f"{name}: largest difference {apart:.3g}, of values up to {float(theirs.abs().max()):.3g}")
    return lines
