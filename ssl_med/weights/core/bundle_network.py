"""The network of a MONAI bundle: a class of MONAI's own where it is the same function, else ours."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from torch import Tensor, nn

from ssl_med.networks.pyramid import norm_of
from ssl_med.weights.core.exporter import Source
from ssl_med.weights.core.whole import WholeNetwork


class BundleNetwork(NamedTuple):
    """`definition` stands in the configuration as `network_def`; `state` fills what it builds; ours: it needs ssl_med."""

    definition: dict[str, Any]
    state: dict[str, Tensor]
    ours: bool


def network_of(source: Source) -> BundleNetwork:
    """MONAI's SwinUNETR or SegResNetDS for a segmentation by one of them, else our network as one module."""
    config: Any = source.backbone.config
    regions = source.regions
    alone = regions is not None and source.decoder is not None and source.decoder.skips
    if alone and regions is not None and not regions.softmax and not config.input_mean:
        if config.name == "swin_unetr" and config.norm == "instance" and config.merging != "v1_legacy":
            return _swin_unetr(source, config, len(regions.names))
        if config.name == "segresnet":
            return _segresnet(source, config, len(regions.names))
    whole = WholeNetwork(
        source.backbone,
        source.decoder if regions is not None else None,
        regions.head if regions is not None else None,
        softmax=regions is not None and regions.softmax,
    )
    definition = {
        "_target_": "ssl_med.weights.core.whole.whole_network",
        "backbone": source.card.backbone,
        "spatial_dims": source.backbone.spatial_dims,
        "in_channels": source.backbone.in_channels,
        "regions": len(regions.names) if regions is not None else 0,
        "skips": source.decoder is None or source.decoder.skips,
        "softmax": regions is not None and regions.softmax,
    }
    return BundleNetwork(definition, _plain(whole.state_dict()), ours=True)


def _swin_unetr(source: Source, config: Any, regions: int) -> BundleNetwork:
    names = {
        "swin": r"swin\.(.+)",
        "lateral": r"laterals\.(\d)\.(.+)",
        "up": r"up\.(\d)\.(.+)",
        "block": r"blocks\.(\d)\.(.+)",
    }
    state = {re.sub(names["swin"], r"swinViT.\1", key): value for key, value in source.backbone.state_dict().items()}
    decoder, head = _filled(source)
    for key, value in decoder.state_dict().items():
        if match := re.fullmatch(names["lateral"], key):
            state[f"encoder{int(match[1]) + 1}.{match[2]}"] = value
        elif match := re.fullmatch(names["up"], key):
            state[f"decoder{5 - int(match[1])}.transp_conv.{match[2]}"] = value
        elif match := re.fullmatch(names["block"], key):
            state[f"decoder{5 - int(match[1])}.conv_block.{match[2]}"] = value
        else:
            state[f"encoder10.{key.removeprefix('bottom.')}"] = value
    for key, value in head.state_dict().items():
        state[f"out.conv.{key}"] = value
    definition = {
        "_target_": "SwinUNETR",
        "in_channels": source.backbone.in_channels,
        "out_channels": regions,
        "feature_size": config.feature_size,
        "depths": list(config.depths),
        "num_heads": list(config.heads),
        "window_size": config.window,
        "use_v2": config.v2,
        "downsample": {"v1": "merging", "v2": "mergingv2"}[config.merging],
        "spatial_dims": source.backbone.spatial_dims,
    }
    return BundleNetwork(definition, _plain(state), ours=False)


def _segresnet(source: Source, config: Any, regions: int) -> BundleNetwork:
    decoder, head = _filled(source)
    state = {**source.backbone.state_dict(), **decoder.state_dict()}
    last = len(config.blocks) - 2
    for key, value in head.state_dict().items():
        state[f"up_layers.{last}.head.{key.removeprefix('conv.')}"] = value
    norm = norm_of(config.norm)
    definition = {
        "_target_": "monai.networks.nets.SegResNetDS",
        "spatial_dims": source.backbone.spatial_dims,
        "init_filters": config.filters,
        "in_channels": source.backbone.in_channels,
        "out_channels": regions,
        "norm": norm if isinstance(norm, str) else [norm[0], norm[1]],
        "blocks_down": list(config.blocks),
        "blocks_up": list(config.blocks_up) or None,
        "resolution": list(config.resolution) or None,
    }
    return BundleNetwork(
        {key: value for key, value in definition.items() if value is not None}, _plain(state), ours=False
    )


def _filled(source: Source) -> tuple[nn.Module, nn.Module]:
    """Decoder and head of a segmentation."""
    assert source.decoder is not None
    assert source.regions is not None
    return source.decoder, source.regions.head


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}
