"""A loader that any number of workers, any number of processes and any resume leave unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ssl_med.spec import SslMedError

Key = tuple[int, int]  # epoch and index: all that a sample's randomness may depend on, besides the seed


class EpochBatches(Sampler[list[Key]]):
    """Batches of (epoch, index). A process takes its contiguous part of each global batch.

    Args:
        length: samples of an epoch.
        batch_size: samples of a batch over all processes.
        seed: of the order.
        shuffle: a new order each epoch; then incomplete batches are left out, and an epoch shorter than a batch is filled
            by repetition. Without it every sample comes once, and a last batch is filled up so that processes keep step.
        rank: this process.
        world: number of processes.
    """

    def __init__(
        self, length: int, *, batch_size: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1
    ) -> None:
        if batch_size % world:
            raise SslMedError(f"trainer.batch_size={batch_size} must be divisible by the number of devices, {world}")
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        if self.shuffle:
            return max(1, self.length // self.batch_size)
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch, 0x0BDE]).permutation(self.length)
        part = self.batch_size // self.world
        for step in range(self.start, len(self)):
            first = step * self.batch_size + self.rank * part
            last = first + part
            if not self.shuffle and self.world == 1:
                last = min(last, self.length)
            yield [(self.epoch, int(order[i % self.length])) for i in range(first, last)]


class ResumableLoader(DataLoader[Any]):
    """DataLoader over `EpochBatches` whose position is state; it counts batches handed out, not batches prefetched."""

    def __init__(self, dataset: Dataset[Any], batches: EpochBatches, *, num_workers: int) -> None:
        super().__init__(
            dataset,
            batch_sampler=cast(Any, batches),
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
        )
        self.batches = batches
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, also when an epoch is continued."""
        return len(cast(Sized, self.batches))

    def __iter__(self) -> Any:
        self.batches.epoch, self.batches.start = self.epoch, self.position
        for batch in super().__iter__():
            self.position += 1
            if self.position == len(self):  # before handing it out: the consumer may not ask for a further one
                self.epoch, self.position = self.epoch + 1, 0
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the next batch is."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from there."""
        self.epoch, self.position = state["epoch"], state["position"]
