"""Methods that contrast queries with a teacher's keys and a queue of former ones, by InfoNCE or NCE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssl_med.distributed import all_reduce_mean
from ssl_med.losses.contrastive import info_nce, nce, nce_mean
from ssl_med.methods.core.base import Method
from ssl_med.networks.queue import Queue, own_keys


class QueueContrast(Method):
    """The loss that `config.loss` names, against the keys of `queue`; `build` makes `queue` and the buffer `mean`.

    mean: () the constant of NCE, 0 until the first batch of training, from which it is taken once and for all.
    """

    config: Any
    queue: Queue
    mean: Tensor

    def check_batch_size(self, batch_size: int, samples: int) -> list[str]:
        """Says when former keys of an image are among its negatives."""
        return [*super().check_batch_size(batch_size, samples), *own_keys(self.config.queue, samples)]

    def settle(self, q: Tensor, k: Tensor) -> None:
        """Takes the constant of NCE from (B, d) queries and keys of all processes, where training has none yet."""
        if self.training and self.config.loss == "nce":
            mean = nce_mean(q, k, self.queue.keys, temperature=self.config.temperature).to(self.mean.dtype)
            self.mean.copy_(torch.where(self.mean > 0, self.mean, all_reduce_mean(mean)))

    def contrast(self, q: Tensor, k: Tensor) -> Tensor:
        """InfoNCE or NCE of (B, d) queries and keys against the queue."""
        tau, keys = self.config.temperature, self.queue.keys
        if self.config.loss == "info_nce":
            return info_nce(q, k, keys, temperature=tau)
        known = torch.where(self.mean > 0, self.mean, nce_mean(q, k, keys, temperature=tau))
        return nce(q, k, keys, temperature=tau, mean=known)

    @property
    def validation_is_comparable(self) -> bool:
        """Only once the queue is full: negatives that it holds several times make the first losses differ."""
        return self.queue.full
