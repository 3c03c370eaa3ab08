"""A teacher: the exponential moving average of a network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """A copy of a network that follows it: theta <- decay theta + (1 - decay) theta_online.

    It runs in evaluation mode and normalises with statistics averaged in the same way (EMAN: Cai et al., "Exponential
    moving average normalization", CVPR 2021), so that no statistic of the current batch leaks into it.
    Statistics start far from the truth (0 and 1), so they follow with min(decay, (1 + t) / (10 + t)), t = updates done.

    Args:
        online: the network.
        batch_statistics: in training, batch normalisation takes the statistics of the teacher's own batch and keeps
            running averages of them for evaluation. For methods without negatives, where there is nothing to leak:
            averages lag behind weights that change quickly, and then all images look alike to the teacher.
    """

    updates: Tensor

    def __init__(self, online: nn.Module, *, batch_statistics: bool = False) -> None:
        super().__init__()
        self.batch_statistics = batch_statistics
        self.module = copy.deepcopy(online).requires_grad_(False).eval()
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.train(online.training)  # Lightning keeps the modes it finds, and calls no `train` before training

    def train(self, mode: bool = True) -> EMA:
        """Stays in evaluation mode, but for batch normalisation where it takes the statistics of the batch."""
        super().train(False)
        if self.batch_statistics:
            for part in self._norms():
                part.train(mode)
        return self

    def _norms(self) -> list[nn.Module]:
        return [part for part in self.module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]

    def forward(self, *args: Any) -> Any:
        """The copy's forward, without gradient."""
        with torch.no_grad():
            return self.module(*args)

    @torch.no_grad()
    def update(self, online: nn.Module, decay: float) -> None:
        """One step towards `online`, which has the structure of the network that was copied."""
        mine: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(mine, list[Tensor](online.parameters()), 1.0 - decay)
        pairs = list(zip(self.module.buffers(), online.buffers(), strict=True))
        if self.batch_statistics:
            own = {id(buffer) for part in self._norms() for buffer in part.buffers()}
            pairs = [(a, b) for a, b in pairs if id(a) not in own]
        floating = [(a, b) for a, b in pairs if a.is_floating_point()]
        if floating:
            mine, theirs = [a for a, _ in floating], [b for _, b in floating]
            t = self.updates.to(mine[0].dtype)  # a tensor: reading its value would wait for the device
            away = torch.clamp((1 + t) / (10 + t), max=decay).neg() + 1
            steps = torch._foreach_mul(torch._foreach_sub(theirs, mine), away)
            torch._foreach_add_(mine, steps)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)
        self.updates += 1
