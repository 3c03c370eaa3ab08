"""The moving average of the weights that a fine-tuning trains: what is validated, tested and exported in their place.

A checkpoint holds the average where others hold the weights, so that whoever reads it takes the average; the weights that
training goes on from lie beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_med.networks.ema import EMA

_INSIDE = "module."


class WeightAverage(nn.Module):
    """theta <- decay theta + (1 - decay) new after each step, with min(decay, (1 + t) / (10 + t)) at step t.

    The warm-up lets short trainings forget where they began. Normalisation statistics are averaged in the same way.

    Args:
        trained: the network, of which a copy is taken.
        decay: in (0, 1).
    """

    def __init__(self, trained: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay, self.steps = decay, 0
        self.ema = EMA(trained)

    @property
    def network(self) -> nn.Module:
        """The average, with the structure of what is trained."""
        return self.ema.module

    def update(self, trained: nn.Module) -> None:
        """After a step."""
        self.ema.update(trained, min(self.decay, (1 + self.steps) / (10 + self.steps)))
        self.steps += 1

    def swap_in(self, checkpoint: dict[str, Any], prefix: str) -> None:
        """Puts the average in the place of the trained weights of a checkpoint; of a resumable one these are kept.

        Args:
            checkpoint: as Lightning makes it.
            prefix: of the average's keys in its state.
        """
        state: dict[str, Tensor] = checkpoint["state_dict"]
        inside = f"{prefix}ema.{_INSIDE}"
        trained = {key: value for key, value in state.items() if not key.startswith(prefix)}
        checkpoint["state_dict"] = {key: state[inside + key] for key in trained}
        if "optimizer_states" in checkpoint:
            checkpoint["ssl_med"]["trained"] = trained
            checkpoint["ssl_med"]["averaged_steps"] = self.steps

    def swap_out(self, checkpoint: dict[str, Any], prefix: str) -> None:
        """The inverse, for training to go on."""
        average: dict[str, Tensor] = checkpoint["state_dict"]
        self.steps = checkpoint["ssl_med"]["averaged_steps"]
        inside = {f"{prefix}ema.{_INSIDE}{key}": value for key, value in average.items()}
        updates = {f"{prefix}ema.updates": torch.tensor(self.steps)}
        checkpoint["state_dict"] = {**checkpoint["ssl_med"]["trained"], **inside, **updates}
