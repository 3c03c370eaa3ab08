"""Progress of the training, for the settings that a method changes over time: momentum, temperature, freezing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ssl_med.ranges import Natural


@dataclass
class ScheduleConfig:
    """Length of the method's own schedules."""

    schedule_steps: Natural = 0
    """optimiser steps over which the method's own schedules run; 0: the whole training"""


class Schedule(nn.Module):
    """Counts optimiser steps. The count belongs to the state dict, and is a Python number: reading it waits for no device.

    Args:
        config: length of the schedules.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__()
        self.length, self.done = config.schedule_steps, 0

    def get_extra_state(self) -> Tensor:
        """Steps done, as an int64 scalar."""
        return torch.tensor(self.done)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the number of steps done."""
        self.done = int(state)

    def advance(self) -> None:
        """Counts one more optimiser step."""
        self.done += 1

    def share(self, method: pl.LightningModule) -> float:
        """Share of the schedule that is done, in [0, 1]; 0 throughout when neither config nor trainer says where it ends."""
        trainer = method._trainer
        length = self.length or (trainer.estimated_stepping_batches if trainer is not None else math.inf)
        return min(1.0, self.done / length)


def cosine_to(start: float, end: float, share: float) -> float:
    """From `start` at share 0 to `end` at share 1 along half a cosine."""
    return end - (end - start) * (1 + math.cos(math.pi * share)) / 2
