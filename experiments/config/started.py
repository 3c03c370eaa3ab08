"""The network of a pretraining that starts from weights: that of their card, or of the layout of a foreign file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.config.sections import SCRATCH, StartConfig
from ssl_med.config import COMMAND_LINE, Settings, to_plain
from ssl_med.spec import DataSpec, SslMedError

if TYPE_CHECKING:
    from ssl_med.networks.pyramid import BackboneConfig


class Described(NamedTuple):
    """Network of a file of weights, and the images that it was trained on."""

    config: BackboneConfig
    spatial_dims: int
    in_channels: int


def network_of(start: StartConfig, asked: BackboneConfig, spec: DataSpec, given: Settings) -> BackboneConfig:
    """The network that a pretraining trains: the weights', with the initialisation that is asked for its other parts.

    Args:
        start: says where the weights are.
        asked: what all settings of `backbone` say.
        spec: of the data.
        given: who set what.

    Raises:
        SslMedError: no such weights, weights of other dimensions, or settings that ask for another network.
    """
    from ssl_med.networks.channels import for_channels

    path = Path(start.init)
    changed = path.stat().st_mtime_ns if path.exists() else 0
    config, dims, channels = _described(start.init, start.family, changed)
    if dims != spec.spatial_dims:
        raise SslMedError(f"{path}: is a {dims}D network, data '{spec.name}' has {spec.spatial_dims}D images")
    check_words(start.init, asked, config, given.sources())
    config = config if channels == spec.in_channels else for_channels(config, spec.in_channels)
    return replace(config, init=asked.init)


def is_absent(start: StartConfig) -> bool:
    """Whether the weights to start from are not there."""
    return start.init != SCRATCH and not Path(start.init).exists()


@lru_cache(maxsize=32)
def _described(init: str, family: str, changed: int) -> Described:
    """By the card of ours, without reading tensors, or by a foreign file's layout; `changed` tells versions of it apart."""
    from ssl_med.checkpoint import find_backbone, read_card
    from ssl_med.weights.core.convert import described
    from ssl_med.weights.core.find import choose, opened
    from ssl_med.weights.core.load import is_ours

    path = Path(init)
    if is_ours(path, family):
        card = read_card(find_backbone(init))
        spec = card.data_spec()
        return Described(card.backbone_config(), spec.spatial_dims, spec.in_channels)
    architecture, _, _ = described(choose(opened(path), family))
    return Described(architecture.config, architecture.spatial_dims, architecture.in_channels)


def check_words(
    init: str, asked: BackboneConfig, loaded: BackboneConfig, sources: Mapping[str, str], *, norm: str = "leave it out"
) -> None:
    """Refuses overrides, or a named size chosen by backbone=NAME, that ask for another network than the file holds.

    Args:
        init: where the network comes from.
        asked: what all settings of `backbone` say.
        loaded: the network.
        sources: key -> who set it.
        norm: remedy for another normalisation.

    Raises:
        SslMedError: names the setting and what the file has.
    """
    held, wanted = to_plain(loaded), to_plain(asked)
    for key, source in sources.items():
        section, _, name = key.partition(".")
        asked_for = source == COMMAND_LINE or source.startswith("conf/backbone/")
        if section != "backbone" or not asked_for or name == "init":  # of the head's initial weights
            continue
        if name not in held or held[name] != wanted.get(name):
            remedy = norm if name == "norm" else "leave it out"
            has = f"has {name}={held[name]}" if name in held else f"is a {held['name']}, which has no {name}"
            raise SslMedError(
                f"{source}: backbone.{name}={wanted.get(name)}: the network of init={init} {has}; {remedy}"
            )
