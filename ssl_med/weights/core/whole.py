"""What other programs call: encoder, decoder and segmentation head as one module, and the scaling of a contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ssl_med.contract import InputContract
from ssl_med.losses.segmentation import against_others
from ssl_med.networks.backbone import build_backbone, stored_config
from ssl_med.networks.heads import SegmentationHead
from ssl_med.networks.pyramid import Backbone, Decoder


class WholeNetwork(nn.Module):
    """Image -> what is positive where a region is the answer; without a head: features of the encoder's last level.

    Args:
        backbone: encoder.
        decoder: None: there is no head either.
        head: 1^d convolution, one channel for each region.
        softmax: whether the head's channels exclude each other and the background.
    """

    def __init__(self, backbone: Backbone, decoder: Decoder | None, head: nn.Module | None, *, softmax: bool) -> None:
        super().__init__()
        self.backbone, self.decoder, self.head, self.softmax = backbone, decoder, head, softmax

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, regions, *S), or (B, C', *S') without a head."""
        pyramid: list[Tensor] = self.backbone(x)
        if self.decoder is None or self.head is None:
            return pyramid[-1]
        logits: Tensor = self.head(self.decoder(pyramid))
        return against_others(logits) if self.softmax else logits


def whole_network(
    backbone: Mapping[str, Any],
    spatial_dims: int,
    in_channels: int,
    regions: int = 0,
    skips: bool = True,
    softmax: bool = False,
) -> WholeNetwork:
    """An empty one from plain values, as a configuration file holds them.

    Args:
        backbone: settings of the encoder, its name among them.
        spatial_dims: 2 or 3.
        in_channels: of the image.
        regions: of the head; 0: no decoder and no head.
        skips: whether the decoder reads all levels.
        softmax: as of `WholeNetwork`.
    """
    encoder = build_backbone(stored_config(dict(backbone)), spatial_dims=spatial_dims, in_channels=in_channels)
    decoder = encoder.build_decoder(skips=skips) if regions else None
    head = SegmentationHead(decoder.out_channels, regions, spatial_dims) if decoder is not None else None
    return WholeNetwork(encoder, decoder, head, softmax=softmax)


def scaler(contract: str) -> Callable[[Tensor], Tensor]:
    """The scaling of a contract, which is JSON, for one image (C, *S) of MONAI, whose grid and history stay."""
    from monai.data import MetaTensor

    scale = InputContract.from_dict(json.loads(contract)).transform()

    def call(image: Tensor) -> Tensor:
        if not isinstance(image, MetaTensor):
            return scale(image[None])[0]
        values = scale(image.as_tensor()[None])[0]
        result: Tensor = MetaTensor(values, meta=image.meta, applied_operations=image.applied_operations)
        return result

    return call
