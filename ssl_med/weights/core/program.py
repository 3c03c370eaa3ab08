"""What exporters of traced programs share: the encoder as a function from images to levels, and images to trace it with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import SslMedError
from ssl_med.weights.core.exporter import Source
from ssl_med.weights.core.verify import seeded_image


class Levels(nn.Module):
    """(B, C, *S), scaled as the contract says -> levels of the encoder, finest first, without the image itself."""

    def __init__(self, encoder: Backbone) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalises the channels where the network does."""
        found = self.encoder(x)
        return tuple(found[1:] if self.encoder.image_level else found)


def example(source: Source) -> Tensor:
    """Two images (2, C, *S) of the contract's size.

    Raises:
        SslMedError: that size does not fit the network.
    """
    sides, by = source.contract.patch_size, source.backbone.divisor
    if any(side % step for side, step in zip(sides, by, strict=True)):
        raise SslMedError(
            f"{source.path}: its images of {list(sides)} are no multiples of {list(by)}, so no program is made"
        )
    return torch.cat([seeded_image(source.backbone, sides), 1 - seeded_image(source.backbone, sides)])


def levels_line(source: Source, image: Tensor) -> str:
    """What the program takes and gives, for people."""
    size = " x ".join(map(str, image.shape[1:]))
    channels = source.backbone.channels[1 if source.backbone.image_level else 0 :]
    return (
        f"images (batch, {size}), scaled as below -> {len(channels)} levels of {', '.join(map(str, channels))} channels"
    )
