"""Finds a backbone by the name of its file in `ssl_med/networks/backbones`, and builds it.

A new backbone is a new file there and no edit anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ssl_med.catalogue import get_class
from ssl_med.networks.pyramid import Backbone, BackboneConfig
from ssl_med.reading import mismatch, shown
from ssl_med.spec import DataSpec, SslMedError

PACKAGE = "ssl_med.networks.backbones"
# what `backbone.name=auto` is in so many dimensions
_AUTO = {2: "resnet18", 3: "unet"}
# Version 0.1 had one list of settings for its three backbones, and wrote all of them into hashes, cards and summaries.
_NAMES_0_1 = ("unet", "resnet18", "resnet50")
_KEYS_0_1: dict[str, Any] = {
    "channels": [32, 64, 128, 256, 512],
    "decoder_channels": [256, 128, 64, 32, 16],
    "fast_up": True,
}


def backbone_class(name: str, *, spatial_dims: int | None = None) -> type[Backbone]:
    """The class in backbones/NAME.py; `auto` is resolved by the dimensions.

    Raises:
        SslMedError: no such file; the text offers the nearest name.
    """
    if name == "auto" and spatial_dims is not None:
        name = _AUTO[spatial_dims]
    found: type[Backbone] = get_class(PACKAGE, name, kind="backbone.name", base=Backbone)
    return found


def name_of(kind: type[Backbone]) -> str:
    """What `backbone.name` is for a class: the name of its file."""
    return kind.__module__.rpartition(".")[2]


def backbone_config(name: str, **settings: Any) -> BackboneConfig:
    """The settings of a backbone, its own defaults where nothing is given; lists, as a file holds them, become tuples."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    return backbone_class(name).Config(name=name, **values)


def default_backbone(spatial_dims: int) -> BackboneConfig:
    """The settings of `backbone.name=auto` where nothing else is said."""
    return backbone_config(_AUTO[spatial_dims])


def stored_config(settings: Mapping[str, Any]) -> BackboneConfig:
    """Settings as a card or a summary holds them; version 0.1 also wrote down those of other backbones.

    Raises:
        SslMedError: a backbone or a setting that this version does not know.
    """
    if not isinstance(settings, Mapping):
        raise SslMedError(f"'backbone' is {shown(settings)}; it must be an object")
    kind = backbone_class(str(settings.get("name")))
    own = {field.name for field in fields(kind.Config)}
    strange = sorted(settings.keys() - own - _KEYS_0_1.keys())
    if strange:
        raise SslMedError(
            f"backbone.{strange[0]} is no setting of {settings['name']} in this version; the file is of a newer one"
        )
    known = {str(key): value for key, value in settings.items() if key in own}
    if wrong := mismatch(kind.Config, known, "backbone"):
        raise SslMedError(wrong)
    return backbone_config(**known)


def hashed_tree(own: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as version 0.1 hashed them, so that its runs keep their names.

    Args:
        own: settings of the backbone, plain.
        others: what yamls said of other backbones beside it, such as the U-Net's channels in trainer=cpu.
    """
    if own["name"] not in _NAMES_0_1:
        return dict(own)
    return {key: others.get(key, value) for key, value in _KEYS_0_1.items()} | dict(own)


def build_backbone(config: BackboneConfig, *, spatial_dims: int, in_channels: int) -> Backbone:
    """The encoder of settings whose name is not `auto`; its decoder is `Backbone.build_decoder`.

    Args:
        config: settings.
        spatial_dims: 2 or 3.
        in_channels: of the images. Where the settings have a mean for each of several channels and images have one, the
            network has as many as there are means, and a grey image is repeated.

    Raises:
        SslMedError: means and standard deviations that do not fit each other or the images.
    """
    means, stds = len(config.input_mean), len(config.input_std)
    if means != stds or any(value <= 0 for value in config.input_std):
        raise SslMedError(
            f"backbone.input_mean has {means} numbers and backbone.input_std {stds}; give as many of each, deviations above 0"
        )
    if means > 1 and in_channels not in (1, means):
        raise SslMedError(
            f"backbone.input_mean has {means} numbers, images have {in_channels} channels; give one for all, or one each"
        )
    stem = means if means > 1 else in_channels
    return backbone_class(config.name)(config, spatial_dims=spatial_dims, in_channels=stem)


def check_backbone(config: BackboneConfig, spec: DataSpec) -> None:
    """Refuses data that the network cannot take.

    Raises:
        SslMedError: see `Backbone.check`.
    """
    backbone_class(config.name).check(config, spec)


def check_statistics(backbone: Backbone, patch_size: Sequence[int], *, norm: str, batch_size: int) -> None:
    """Refuses a training batch that leaves batch normalisation one value to take the variance of.

    Raises:
        SslMedError: one image whose last level is a single voxel.
    """
    last = math.prod(max(1, side // by) for side, by in zip(patch_size, backbone.divisor, strict=True))
    if norm == "batch" and batch_size * last == 1:
        raise SslMedError(
            f"trainer.batch_size is 1 and the last level of data.patch_size {list(patch_size)} a single voxel, which has no "
            "batch statistics: give at least 2, a larger data.patch_size, or backbone.norm=group"
        )


def repeated(batch_size: int, samples: int) -> list[str]:
    """A note where a training batch is larger than the data."""
    if samples >= batch_size:
        return []
    return [
        f"trainer.batch_size={batch_size} is above the {samples} training samples: each batch holds some of them twice"
    ]
