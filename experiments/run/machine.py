"""What a run asks of this machine that it may not have: an accelerator, so many devices, a strategy."""

from __future__ import annotations

import torch
from pytorch_lightning.strategies import StrategyRegistry

from experiments.config.sections import LoadingConfig, TrainerConfig
from experiments.run.threads import cores
from ssl_med.spec import SslMedError


def check_machine(trainer: LoadingConfig) -> None:
    """Refuses a trainer that this machine cannot carry out, before anything is read.

    Raises:
        SslMedError: an accelerator that is not there, an unknown strategy, or more processes than GPUs or cores.
    """
    asked = trainer.accelerator
    if asked in ("gpu", "cuda") and not torch.cuda.is_available() and not (asked == "gpu" and _has_mps()):
        raise SslMedError(f"trainer.accelerator={asked}: there is no GPU; set trainer.accelerator=cpu")
    if asked == "mps" and not _has_mps():
        raise SslMedError("trainer.accelerator=mps: there is no Apple GPU; set trainer.accelerator=cpu")
    if not isinstance(trainer, TrainerConfig):
        return
    known = ["auto", *StrategyRegistry.available_strategies()]
    if trainer.strategy not in known:
        raise SslMedError(f"trainer.strategy is '{trainer.strategy}'; Lightning knows {', '.join(sorted(known))}")
    if trainer.devices == "auto":
        return
    gpus = torch.cuda.device_count() if asked != "cpu" else 0
    most, what = (gpus, "GPU") if gpus else (cores(), "processor core")
    if int(trainer.devices) > most:
        raise SslMedError(
            f"trainer.devices is {trainer.devices}; this machine has {most} {what}{'' if most == 1 else 's'}: give at most "
            "as many"
        )


def device_of(accelerator: str) -> torch.device:
    """The one device that `trainer.accelerator` means; `check_machine` has seen that it is there."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if accelerator in ("auto", "gpu", "mps") and _has_mps() else "cpu")


def frozen_device(accelerator: str) -> torch.device:
    """Where a frozen encoder's features are taken and worked on, in float64 too, which Apple's GPUs do not have.

    Raises:
        SslMedError: an Apple GPU is asked for.
    """
    if accelerator == "mps":
        raise SslMedError("trainer.accelerator is 'mps'; frozen features need one of auto, cpu, gpu, cuda")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
