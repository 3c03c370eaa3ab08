"""Fits an encoder to images with another number of channels, so that equal channels give the activations that it had.

That is exact but for one case: channels whose means differ, as ImageNet's do, and that become another number than one, have one
mean then, so that each output of the first convolution is shifted by a constant.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssl_med.networks.backbone import build_backbone
from ssl_med.networks.pyramid import BackboneConfig


def first_convolution(backbone: nn.Module) -> str:
    """Dotted name of the convolution that sees the image."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    name: str = next(name for name, module in backbone.named_modules() if isinstance(module, kinds))
    return name


def spread(weight: Tensor, channels: int) -> Tensor:
    """A first convolution (O, C, *K) for other images: its mean over C, repeated and divided so that the sum stays.

    PCRL's code repeats without dividing, which multiplies activations by the number of channels.
    """
    return weight.mean(1, keepdim=True).repeat_interleave(channels, 1) * (weight.shape[1] / channels)


def for_channels(config: BackboneConfig, now: int) -> BackboneConfig:
    """Settings of the network that `spread_input` makes for images of `now` channels, another number than it was trained on."""
    if len(config.input_std) <= 1 or (now == 1 and len(config.input_mean) > 1):
        return config
    mean, std = (sum(values) / len(values) for values in (config.input_mean, config.input_std))
    return replace(config, input_mean=(mean,), input_std=(std,))


def spread_input(
    config: BackboneConfig,
    stored: MutableMapping[str, Tensor],
    *,
    spatial_dims: int,
    was: int,
    now: int,
    prefix: str = "encoder.",
) -> tuple[BackboneConfig, str]:
    """Fits weights, in place, to images of `now` channels.

    Where every one of several channels has a mean of its own, one grey channel is repeated by the network itself, which is
    exact, and nothing is changed. For another number the channels' deviations move into the weights, and one mean and
    deviation, the averages of theirs, hold for all.

    Returns:
        The settings to build the network with, and a line that says what was done.
    """
    if now == 1 and len(config.input_mean) > 1:
        return config, f"a grey image is repeated for the {was} channels, each with its mean and deviation"
    fitted = for_channels(config, now)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # only names are wanted
        name = first_convolution(build_backbone(config, spatial_dims=spatial_dims, in_channels=was))
    key = f"{prefix}{name}.weight"
    if key not in stored:
        return config, f"no first convolution {key} to fit to {now} channels"
    weight, note = stored[key], f"first convolution spread from {was} to {now} channels, mean preserved"
    if len(config.input_std) > 1:
        own = torch.tensor(config.input_std, dtype=weight.dtype).view(1, -1, *[1] * spatial_dims)
        weight = weight * (fitted.input_std[0] / own)
        if len(set(config.input_mean)) > 1:
            note += (
                f"; the channels' means become one, {fitted.input_mean[0]:.4g}, which shifts its outputs by constants"
            )
    stored[key] = spread(weight, now)
    return fitted, note
