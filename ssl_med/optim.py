"""Optimisers and learning-rate schedules of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import Optimizer

from ssl_med.ranges import BelowOne, Natural, NonNegative, Positive, Range, check_ranges
from ssl_med.setting import SET, setting
from ssl_med.spec import SslMedError

Part = tuple[Iterable[nn.Parameter], float]  # parameters and their learning rate as a multiple of optim.lr


@dataclass
class OptimConfig:
    """One optimiser and one schedule; epochs may be fractions."""

    name: Literal["sgd", "adam", "adamw", "lars"] = "sgd"
    """lars: SGD with layer-wise adaptation (You et al. 2017, in SimCLR's form)"""
    lr: Annotated[float, Range(above=0, high=1000)] = 1e-3
    """peak learning rate"""
    lr_per_256: bool = False
    """lr is per 256 samples of a step: multiplied by batch / 256"""
    momentum: BelowOne = setting(default=0.9, needs={"name": ("sgd", "lars")})
    """sgd and lars"""
    nesterov: bool = False
    """sgd"""
    betas: tuple[BelowOne, BelowOne] = setting(default=(0.9, 0.999), needs={"name": ("adam", "adamw")})
    """adam and adamw"""
    weight_decay: Annotated[float, Range(0, 1000)] = 0.0
    """L2 penalty; decoupled in adamw"""
    decay_norm_bias: bool = setting(default=True, needs=({"weight_decay": SET}, {"name": ("lars",)}))
    """false: biases and normalisation weights get no decay and no layer-wise adaptation"""
    schedule: Literal["constant", "cosine", "step", "poly"] = "cosine"
    """shape after the warm-up; poly: lr (1 - done)^power, as nnU-Net"""
    warmup_epochs: NonNegative = 0.0
    """linear from above 0 to lr"""
    warmup_steps: Natural = setting(default=0, before=0)
    """as warmup_epochs, in optimiser steps; one of the three"""
    warmup_share: BelowOne = setting(default=0.0, before=0.0)
    """as warmup_epochs, as a share of the whole training; one of the three"""
    power: Positive = setting(default=0.9, before=0.9, needs={"schedule": ("poly",)})
    """poly: exponent"""
    step_epochs: tuple[Positive, ...] = setting(default=(), needs={"schedule": ("step",)})
    """step: multiply by gamma at these epochs"""
    step_every_epochs: NonNegative = setting(default=0.0, needs={"schedule": ("step",)})
    """step: multiply by gamma every so many epochs"""
    gamma: Positive = setting(default=0.1, needs={"schedule": ("step",)})
    """factor of a step"""
    final_lr: Annotated[float, Range(0, 1000)] = setting(default=0.0, needs={"schedule": ("cosine", "poly")})
    """cosine and poly: where it ends, in the unit of lr"""

    def __post_init__(self) -> None:
        if self.nesterov and self.name != "sgd":
            raise SslMedError(f"optim.nesterov=true needs optim.name=sgd, not {self.name}")
        if self.nesterov and self.momentum <= 0:
            raise SslMedError("optim.nesterov=true needs optim.momentum above 0")
        if self.schedule == "step" and bool(self.step_epochs) == bool(self.step_every_epochs):
            raise SslMedError("optim.schedule=step needs either optim.step_epochs or optim.step_every_epochs")
        given = [key for key in ("warmup_epochs", "warmup_steps", "warmup_share") if getattr(self, key)]
        if len(given) > 1:
            raise SslMedError(f"optim.{given[0]} and optim.{given[1]} are both given; set one of them to 0")
        if self.final_lr > self.lr:
            raise SslMedError(f"optim.final_lr is {self.final_lr:g}; it must not be above optim.lr={self.lr:g}")


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling: SGD with momentum whose step is scaled by trust |w| / |g + wd w|.

    v <- momentum v + lr trust |w| / |g + wd w| (g + wd w); w <- w - v. The learning rate enters the momentum buffer, so
    that a schedule acts on new gradients only. Where |w| or |g + wd w| is 0 the factor is 1. Groups with `adapt=False`
    take the factor 1 throughout.

    Source: You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017, Algorithm 1, with the decay
    inside the norm as in SimCLR (Chen et al. 2020).
    """

    def __init__(
        self, params: Any, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            updates = list(torch._foreach_add([p.grad for p in weights], weights, alpha=group["weight_decay"]))
            if group["adapt"]:
                w = torch.stack(torch._foreach_norm(weights))
                g = torch.stack(torch._foreach_norm(updates))
                scale = torch.where((w > 0) & (g > 0), group["trust"] * w / g, torch.ones_like(w))
                torch._foreach_mul_(updates, list(scale.unbind()))
            for p in weights:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in weights]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates, alpha=group["lr"])
            torch._foreach_sub_(weights, buffers)
        return loss


def build_optimizer(
    config: OptimConfig, module: nn.Module, *, batch_size: int, parts: Sequence[Part] | None = None
) -> Optimizer:
    """The optimiser of all trainable parameters.

    Args:
        config: see there.
        module: the network.
        batch_size: samples per optimiser step over all devices, for `lr_per_256`.
        parts: parameters of the network by learning rate; None: all of them with optim.lr.
    """
    check_ranges(config, "optim")
    if config.lr_per_256 and not batch_size:
        raise SslMedError("optim.lr_per_256 needs the samples of a step; give the method its batch_size=N")
    lr = config.lr * batch_size / 256 if config.lr_per_256 else config.lr
    groups: list[dict[str, Any]] = []
    for parameters, factor in parts if parts is not None else [(module.parameters(), 1.0)]:
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in parameters:
            if parameter.requires_grad:
                spared = parameter.ndim <= 1 and not config.decay_norm_bias  # norms and biases are the vectors
                (plain if spared else decayed).append(parameter)
        if decayed:
            groups.append({"params": decayed, "lr": factor * lr})
        if plain:
            spared_group = {"params": plain, "lr": factor * lr, "weight_decay": 0.0}
            groups.append(spared_group | ({"adapt": False} if config.name == "lars" else {}))
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay
        )
    if config.name == "lars":
        return LARS(groups, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=config.betas, weight_decay=config.weight_decay)


def warmup_length(config: OptimConfig, *, total_steps: float, steps_per_epoch: float) -> float:
    """Optimiser steps of the warm-up, a fraction where epochs or shares make one."""
    if config.warmup_share:
        return config.warmup_share * total_steps
    return config.warmup_steps or config.warmup_epochs * steps_per_epoch


def lr_factor(config: OptimConfig, step: int, *, total_steps: float, steps_per_epoch: float) -> float:
    """Learning rate at `step` as a multiple of its peak.

    poly: Isensee et al., Nature Methods 2021 (nnU-Net), with the exponent of Chen et al., DeepLab, 2017; by steps, not epochs.
    """
    warmup = warmup_length(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        epoch = step / steps_per_epoch
        if config.step_every_epochs:
            return config.gamma ** math.floor(epoch / config.step_every_epochs)
        passed: float = config.gamma ** sum(epoch >= milestone for milestone in config.step_epochs)
        return passed
    done = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
    end = config.final_lr / config.lr
    left = (1 - done) ** config.power if config.schedule == "poly" else 0.5 * (1 + math.cos(math.pi * done))
    return end + (1 - end) * left


def build_schedule(
    config: OptimConfig, optimizer: Optimizer, *, total_steps: float, steps_per_epoch: float
) -> LambdaLR:
    """The schedule, advanced once per optimiser step.

    Raises:
        SslMedError: the warm-up does not end before training does, cosine or poly without a last step, or epochs without a
            length.
    """
    if math.isinf(steps_per_epoch) and (config.warmup_epochs or config.schedule == "step"):
        raise SslMedError(
            "optim.warmup_epochs and optim.schedule=step count epochs, and the loader has no length; choose another schedule"
        )
    if config.warmup_share and math.isinf(total_steps):
        raise SslMedError("optim.warmup_share needs an end: set trainer.max_steps or trainer.max_epochs")
    steps_per_epoch = steps_per_epoch if math.isfinite(steps_per_epoch) else 1
    if warmup_length(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch) >= total_steps:
        long = f"_steps={config.warmup_steps}"
        if config.warmup_epochs:
            long = f"_epochs={config.warmup_epochs:g} is {config.warmup_epochs * steps_per_epoch:g} steps"
        raise SslMedError(
            f"optim.warmup{long}, but training ends after {total_steps:g}; shorten the warm-up or train longer"
        )
    if config.schedule in ("cosine", "poly") and math.isinf(total_steps):
        raise SslMedError(f"optim.schedule={config.schedule} needs an end: set trainer.max_steps or trainer.max_epochs")
    return LambdaLR(
        optimizer, lambda step: lr_factor(config, step, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    )


def configure(
    module: pl.LightningModule,
    config: OptimConfig,
    *,
    batch_size: int,
    parts: Sequence[Part] | None = None,
    epoch_batches: int = 0,
) -> dict[str, Any]:
    """What `configure_optimizers` returns: optimiser, and schedule per optimiser step over the Trainer's length.

    `parts`: as in `build_optimizer`; `epoch_batches`: batches of what the schedule calls an epoch, 0: those of the loader.
    """
    trainer = module.trainer
    per_loader = steps_per_epoch(trainer)
    per_epoch = max(1, -(-epoch_batches // trainer.accumulate_grad_batches)) if epoch_batches else per_loader
    epochs = trainer.max_epochs
    total = math.inf if epochs is None or epochs < 0 else max(1, epochs) * per_loader
    if trainer.max_steps >= 0:
        total = min(total, trainer.max_steps)
    optimizer = build_optimizer(config, module, batch_size=batch_size, parts=parts)
    schedule = build_schedule(config, optimizer, total_steps=total, steps_per_epoch=per_epoch)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def steps_per_epoch(trainer: pl.Trainer) -> float:
    """Optimiser steps of one pass through the training loader; infinite for a loader without a length."""
    loader = train_loader(trainer)
    if hasattr(loader, "load_state_dict"):
        # Lightning restores a loader's position after this hook, and only of a loader that it has not set up before
        limit, length = trainer.limit_train_batches, len(loader)
        batches: float = int(length * limit) if isinstance(limit, float) else min(length, limit)
    else:
        trainer.fit_loop.setup_data()
        batches = trainer.num_training_batches
    return max(1, math.ceil(batches / trainer.accumulate_grad_batches)) if math.isfinite(batches) else batches


def train_loader(trainer: pl.Trainer) -> Any:
    """What `trainer.fit` was given as loader, or a new one of its data module, as it is before Lightning sets it up."""
    return trainer.fit_loop._data_source.dataloader()


def count_samples(trainer: pl.Trainer, who: str) -> int:
    """Number of training samples that `trainer.fit` was given.

    Args:
        trainer: that trains.
        who: needs to know, for the message.

    Raises:
        SslMedError: the loader's data set has no length.
    """
    try:
        return len(train_loader(trainer).dataset)
    except (AttributeError, TypeError):
        raise SslMedError(
            f"{who} keeps a memory of all training samples, and the loader does not say how many there are: give a "
            "DataLoader of a data set with a length, or call method.prepare(samples) before fit"
        ) from None
