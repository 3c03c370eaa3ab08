"""Fine-tuning: what of the pretrained weights is loaded, and what is trained from which step at which rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import nn

from ssl_med.evaluation.protocols.core.contract import Protocol
from ssl_med.networks.pyramid import Backbone
from ssl_med.optim import Part
from ssl_med.ranges import BelowOne, Natural, PositiveShare
from ssl_med.setting import Other, setting
from ssl_med.spec import SslMedError


@dataclass
class InitConfig:
    """How a backbone file is read."""

    adapt_channels: bool = setting(default=False, needs={".init": Other("scratch")})
    """spread a first convolution over another number of input channels, keeping the mean"""


@dataclass
class PretrainInitConfig(InitConfig):
    """How the weights that a pretraining starts from are read."""

    adapt_channels: bool = setting(default=False, before=False, needs={".init": Other("scratch")})
    """spread a first convolution over another number of input channels, keeping the mean"""


@dataclass
class TransferConfig(InitConfig):
    """What is loaded and what is trained; `init=scratch` takes the same words."""

    protocol: Literal["finetune", "frozen"] = "finetune"
    """finetune: all weights; frozen: the encoder keeps its weights and its normalisation statistics"""
    unfreeze: tuple[Natural, ...] = ()
    """steps from which the levels of the encoder are trained, last level first; the last number holds for all finer levels;
    empty: from the start. Until then a level keeps its weights and statistics; head and decoder are always trained"""
    layer_decay: PositiveShare = 1.0
    """learning rate of a level as a multiple of that of the next one; head and decoder have optim.lr, the last level
    layer_decay times that, and so on to the finest"""
    decoder: str = setting(default="auto", needs={"labels": ("masks",)})
    """true: the file's decoder is demanded; false: it starts from its initialisation; auto: the file's if it has one"""
    ema: BelowOne = setting(default=0.0, before=0.0)
    """validation, test and export take a moving average of the trained weights: theta <- ema theta + (1 - ema) new, at step t
    with (1 + t) / (10 + t) where that is smaller; 0: off"""
    norm: Literal["keep", "group"] = "keep"
    """group: 8-group in place of the pretrained normalisation, as PCRL fine-tunes; scale and shift are kept"""

    def __post_init__(self) -> None:
        self.decoder = self.decoder.lower()  # yaml's true and false arrive as True and False
        if self.decoder not in ("auto", "true", "false"):
            raise SslMedError(f"transfer.decoder is '{self.decoder}'; it must be auto, true or false")
        if any(a > b for a, b in pairwise(self.unfreeze)):
            raise SslMedError(f"transfer.unfreeze {list(self.unfreeze)} must be steps that do not fall")
        if self.protocol == "frozen" and (self.unfreeze or self.layer_decay != 1):
            key = "unfreeze" if self.unfreeze else "layer_decay"
            raise SslMedError(f"transfer.{key} trains the encoder, transfer.protocol=frozen does not; choose one")


class Finetune(Protocol):
    """Training on the labels of a task, of all weights or of those behind a frozen encoder."""

    Config = TransferConfig
    command = "finetune"


def start_steps(config: TransferConfig, levels: int) -> tuple[float, ...]:
    """Step from which each level, finest first, is trained; infinite: never.

    Raises:
        SslMedError: more steps than levels.
    """
    if config.protocol == "frozen":
        return (math.inf,) * levels
    if len(config.unfreeze) > levels:
        raise SslMedError(
            f"transfer.unfreeze has {len(config.unfreeze)} steps, the backbone has {levels} levels; give one a level or fewer"
        )
    steps = [*config.unfreeze, *[config.unfreeze[-1] if config.unfreeze else 0] * (levels - len(config.unfreeze))]
    return tuple(float(step) for step in reversed(steps))


def rate_factors(config: TransferConfig, levels: int) -> tuple[float, ...]:
    """Learning rate of each level, finest first, as a multiple of optim.lr (Bao et al., BEiT, 2022, fine-tuning)."""
    return tuple(config.layer_decay ** (levels - level) for level in range(levels))


def parts(config: TransferConfig, backbone: Backbone, others: list[nn.Module | None]) -> list[Part]:
    """Parameters with their rates: head and decoder first, then the levels from the last to the finest.

    Without decay all that are trained are one part, so that the optimiser is that of a plain fine-tuning.
    """
    head = [p for module in others if module is not None for p in module.parameters()]
    levels = [[p for module in level for p in module.parameters()] for level in backbone.levels_of_modules()]
    if config.protocol == "frozen":
        return [(head, 1.0)]
    if config.layer_decay == 1:
        return [([*(p for level in levels for p in level), *head], 1.0)]
    factors = rate_factors(config, len(levels))
    return [(head, 1.0), *zip(reversed(levels), reversed(factors), strict=True)]


def describe(config: TransferConfig, backbone: Backbone, *, norm: str) -> dict[str, Any]:
    """What the protocol does, in words, for the summary."""
    starts = start_steps(config, len(backbone.channels))
    if norm != "batch":
        statistics = "none"
    elif config.protocol == "frozen":
        statistics = "encoder: kept as loaded"
    elif max(starts) > 0:
        statistics = "encoder: kept as loaded until a level is trained, then of the batch and updated"
    else:
        statistics = "of the batch and updated"
    return {
        "protocol": config.protocol,
        "level_starts": [None if math.isinf(step) else int(step) for step in starts],
        "level_rates": [0.0 if math.isinf(step) else rate for step, rate in zip(
            starts, rate_factors(config, len(starts)), strict=True)],
        "norm": norm,
        "statistics": statistics,
        **({"ema": config.ema} if config.ema else {}),
    }  # fmt: skip
