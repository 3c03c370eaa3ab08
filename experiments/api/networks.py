"""Pretrained encoders in Python: load one, and take features of images with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.run.environment import git_revision, versions
from ssl_med import checkpoint
from ssl_med.evaluation.features import check_levels, kept_mode, pooled
from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.weights.core.convert import Wishes
from ssl_med.weights.core.load import Weights, load


def load_backbone(path: str | os.PathLike[str], *, in_channels: int | None = None) -> tuple[Backbone, DataSpec]:
    """The encoder of a backbone file, and the contract that images must keep for it.

    Args:
        path: folder of a pretraining, or a backbone file.
        in_channels: channels of the new images; another number than that of the pretraining spreads the first convolution over
            them. None: as pretrained.

    Returns:
        The encoder in evaluation mode: (B, C, *S) -> list of features, finest level first, with `channels`, `strides`,
        `divisor` and `pool`. And the `DataSpec` it was pretrained on: `spacing_mm`, `orientation`, `intensity` (window or
        percentiles that are scaled to [0, 1]), `patch_size`, `channel_names`.

    Raises:
        SslMedError: no such file, a damaged one, or weights that do not fill the network completely.
    """
    file = checkpoint.find_backbone(os.fspath(path))
    spec = checkpoint.read_card(file).data_spec()
    channels = spec.in_channels if in_channels is None else in_channels
    backbone, _, _, _ = checkpoint.load_backbone(file, in_channels=channels, adapt_channels=True, with_decoder=False)
    return backbone.eval(), spec


def load_weights(
    path: str | os.PathLike[str],
    family: str | None = None,
    *,
    allow: Iterable[str] = (),
    inflate: Literal["", "i3d", "centre"] = "",
    channels: int | None = None,
    backbone: Mapping[str, Any] | None = None,
) -> Weights:
    """A pretrained network from anywhere, with the contract of its images.

    Args:
        path: folder of a pretraining, backbone file, or foreign file (`ssl-med list families`).
        family: whose foreign weights they are; None: the family that recognises them.
        allow: keys, or patterns with *, that may be unexplained, missing or mismatched; the card lists them.
        inflate: 2D weights for volumes: "i3d" repeats and divides by depth, "centre" puts them into the middle of the kernel.
        channels: of the images; None: as trained.
        backbone: settings of a foreign network that are to be other than its family says, such as {"dilated": False}.

    Returns:
        `Weights` with `network`, `decoder`, `contract`, `transform`, `card`, `account` and `notes`.

    Raises:
        SslMedError: no such file, a damaged one, one of no or several families, or one that does not fill the network
            completely.
    """
    wishes = Wishes(tuple(allow), inflate, channels or 0, backbone)
    return load(Path(path), family or "", wishes=wishes, versions=versions(), git=git_revision())


@torch.inference_mode()
def embed(
    network: Backbone | str | os.PathLike[str],
    images: np.ndarray | Tensor | Iterable[Any],
    *,
    levels: Iterable[int] = (-1,),
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Features of images: each level's global average, joined.

    Args:
        network: an encoder of `load_backbone`, or what that takes.
        images: (N, C, *S) as the network's contract says, intensities in [0, 1]; or a loader of such batches, or of
            dictionaries that hold them as `image`, like those of the suite's data modules.
        levels: levels of the pyramid, 0 the finest, -1 the last.
        batch_size: images of an array that are computed at once.
        device: where to compute; the network stays there.

    Returns:
        (N, sum of the levels' channels) float32.

    Raises:
        SslMedError: images that the network cannot take, or none.
    """
    backbone = network if isinstance(network, Backbone) else load_backbone(network)[0]
    chosen = check_levels(backbone, [level % len(backbone.channels) for level in levels])
    if isinstance(images, np.ndarray | Tensor):
        images = torch.split(torch.as_tensor(images), batch_size)
    found = []
    with kept_mode(backbone):
        backbone.to(device).eval()
        for batch in images:
            image = batch["image"] if isinstance(batch, dict) else batch
            found.append(pooled(backbone, _checked(torch.as_tensor(image), backbone).to(device), chosen).float().cpu())
    if not sum(map(len, found)):
        raise SslMedError("embed: there is no image to take features of")
    return torch.cat(found).numpy()


def _checked(image: Tensor, backbone: Backbone) -> Tensor:
    sides = image.shape[2:]
    # a network with a mean for each of its channels repeats a grey image
    grey = image.shape[1:2] == (1,) and len(backbone.config.input_mean) == backbone.in_channels
    if (image.shape[1:2] != (backbone.in_channels,) and not grey) or len(sides) != backbone.spatial_dims:
        axes = ("N", backbone.in_channels, *"XYZ"[: backbone.spatial_dims])
        raise SslMedError(
            f"embed: images have shape {tuple(image.shape)}; the network takes ({', '.join(map(str, axes))})"
        )
    least = backbone.min_input_side
    if any(side < smallest for side, smallest in zip(sides, least, strict=True)):
        raise SslMedError(
            f"embed: images of {'x'.join(map(str, sides))} are too small; the network takes "
            f"{'x'.join(map(str, least))} and more"
        )
    return image.float()
