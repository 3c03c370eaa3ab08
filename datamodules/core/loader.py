"""Loaders that any number of workers, any number of processes and any resume leave unchanged."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules.core.sending import handing_over, tell_failed_sends
from datamodules.formats.grids import Array
from ssl_med.spec import SslMedError

Key = tuple[int, int]  # epoch and index: all that a sample's randomness may depend on, besides the seed


class ForegroundKey(tuple[int, int]):
    """A key whose crop is to hold foreground for sure: a batch has its share of them, wherever its samples come from."""

    __slots__ = ()


_FAR = 1 << 32  # an epoch that no training reaches
_PREFETCH = 2  # batches that a worker makes ahead
_LARGE = 1 << 20  # bytes of a tensor for which memory is worth reusing


class EpochBatches(Sampler[list[Key]]):
    """Batches of (epoch, index). A process takes its contiguous part of each global batch.

    Args:
        length: samples of an epoch.
        batch_size: samples of a batch over all processes.
        seed: of the order.
        shuffle: a new order each epoch; then incomplete batches are left out, and an epoch shorter than a batch is
            filled by repetition, with new crops. Without it every sample comes once, and a last batch is filled up so
            that processes keep step.
        rank: this process.
        world: number of processes.
        owners: epoch -> (length,) number of the scan that each sample comes from; then only samples of `mixed` scans at
            a time are shuffled together, so that a scan is decoded once an epoch. None: all together.
        mixed: see `owners`.
        fixed: samples are those of epoch 0 in every epoch; only their order changes.
        foreground: share of each global batch, rounded up, with a `ForegroundKey`; its first samples, whose order is random.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
        owners: Callable[[int], Array] | None = None,
        mixed: int = 1,
        fixed: bool = False,
        foreground: float = 0.0,
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise SslMedError(
                f"trainer.batch_size={batch_size} must be positive and divisible by the number of devices, {world}"
            )
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.rank, self.world, self.owners, self.mixed, self.fixed = rank, world, owners, mixed, fixed
        self.sure = math.ceil(foreground * batch_size)
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        if self.shuffle:
            return max(1, self.length // self.batch_size)
        return -(-self.length // self.batch_size)

    def order(self, epoch: int) -> Array:
        """Indices of an epoch in the order of their use."""
        if not self.shuffle:
            return np.arange(self.length)
        rng = np.random.default_rng([self.seed, epoch, 0x0BDE])
        shuffled = rng.permutation(self.length)
        if self.owners is None:
            return shuffled
        owner = self.owners(epoch)[shuffled]
        scans = np.unique(owner)
        group = np.zeros(int(scans.max()) + 1, int)
        group[rng.permutation(scans)] = np.arange(len(scans)) // self.mixed
        return shuffled[np.argsort(group[owner], kind="stable")]

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.order(self.epoch)
        part = self.batch_size // self.world
        for step in range(self.start, len(self)):
            first = step * self.batch_size + self.rank * part
            last = first + part
            if not self.shuffle and self.world == 1:
                last = min(last, self.length)
            # a repetition within a training epoch is the sample of a far epoch: the same case, another crop
            epoch, far = (0, 0) if self.fixed else (self.epoch, _FAR if self.shuffle else 0)
            keys = [(epoch + far * (i // self.length), int(order[i % self.length])) for i in range(first, last)]
            sure = max(0, self.sure - self.rank * part)
            yield [*map(ForegroundKey, keys[:sure]), *keys[sure:]]


class Traced(Dataset[Any]):
    """Samples of a part with the number of their scan (`case`) and of its subject (`subject`) within the part.

    Args:
        samples: as `MedicalData.dataset` makes them; without `owners` there is one for each case.
        subjects: the subject of each case.
    """

    def __init__(self, samples: Any, subjects: Sequence[str]) -> None:
        self.samples = samples
        self.case = samples.owners(0) if hasattr(samples, "owners") else np.arange(len(samples))
        number = {subject: k for k, subject in enumerate(dict.fromkeys(subjects))}
        self.subject = [number[subject] for subject in subjects]

    def __len__(self) -> int:
        return len(self.samples)

    def owners(self, epoch: int) -> Array:
        """Scan of each sample."""
        owner: Array = self.case
        return owner

    def __getitem__(self, key: Key) -> dict[str, Any]:
        case = int(self.case[key[1]])
        return {**self.samples[key], "case": case, "subject": self.subject[case]}


def begin_worker(worker: int) -> None:
    """What a loader's process does first."""
    leave_signals_to_parent()
    tell_failed_sends()


def leave_signals_to_parent(worker: int = 0) -> None:
    """A signal to the whole group, as schedulers and terminals send it, does not end a worker: its parent needs it still."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    """Ends the process on the parent's SIGTERM, and on nobody else's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class Ring:
    """Collates large tensors of training batches into shared memory that a worker uses again and again.

    New shared memory costs more than the crops that go into it: the kernel clears every page and faults on it, in the
    worker and in the receiver. A worker has at most `_PREFETCH` batches that were not received and one whose copy is being
    taken, so one turn more than these is never overwritten too early. The receiver keeps the memory mapped and takes copies.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._shared: dict[tuple[int, str], torch.Tensor] = {}  # of a worker: by turn and key
        self._mapped: dict[int, torch.Tensor] = {}  # of the receiver: by address

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collates samples."""
        if get_worker_info() is None or not isinstance(samples[0], dict):
            return default_collate(list(samples))
        self._turn = (self._turn + 1) % (_PREFETCH + 2)
        return {key: self._collate(key, [sample[key] for sample in samples]) for key in samples[0]}

    def _collate(self, key: str, values: list[Any]) -> Any:
        first = values[0]
        if not isinstance(first, torch.Tensor) or first.nbytes * len(values) < _LARGE:
            return default_collate(values)
        shape = (len(values), *first.shape)
        place = self._shared.get((self._turn, key))
        if place is None or place.shape != shape or place.dtype != first.dtype:
            place = cast(Any, torch.empty(shape, dtype=first.dtype)).share_memory_()
            self._shared[self._turn, key] = place
        return torch.stack(values, out=place)

    def receive(self, batch: Any) -> Any:
        """A batch that is the caller's own."""
        return {key: self._copy(value) for key, value in batch.items()} if isinstance(batch, dict) else batch

    def _copy(self, value: Any) -> Any:
        # what went through the pinning thread is a copy already
        if not isinstance(value, torch.Tensor) or value.nbytes < _LARGE or not cast(Any, value).is_shared():
            return value
        self._mapped[value.data_ptr()] = value
        return value.clone()


class EvaluationLoader(DataLoader[Any]):
    """DataLoader over `EpochBatches`; what is wrong with a file is one line, also from a worker."""

    def __init__(
        self,
        dataset: Dataset[Any],
        batches: EpochBatches,
        *,
        num_workers: int,
        collate: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=cast(Any, batches),
            collate_fn=collate,
            # else each pass would draw from the generator of the training, and a pass that is continued once more
            generator=torch.Generator(),
            worker_init_fn=begin_worker,
            num_workers=num_workers,
            prefetch_factor=_PREFETCH if num_workers else None,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,  # they hold decoded scans
        )
        self.batches = batches

    def __len__(self) -> int:
        """Batches of a whole epoch, also when an epoch is continued."""
        return len(cast(Sized, self.batches))

    def __iter__(self) -> Any:
        # what a worker draws from the libraries' own generators, if it does, differs between epochs
        self.generator.manual_seed((self.batches.seed << 32) + self.batches.epoch)
        try:
            with handing_over() if self.num_workers else contextlib.nullcontext():
                yield from super().__iter__()
        except SslMedError as error:  # torch wraps a worker's error in its traceback
            raise SslMedError(str(error).strip().splitlines()[-1].partition("SslMedError: ")[2] or str(error)) from None

    def _get_iterator(self) -> Any:
        return _Workers(self) if self.num_workers else super()._get_iterator()


class _Workers(_MultiProcessingDataLoaderIter):
    """torch's iterator, of which one that could not be made complete goes without a traceback."""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            super().__del__()


class ResumableLoader(EvaluationLoader):
    """A loader whose position is state; it counts batches handed out, not batches prefetched."""

    epoch = position = 0

    def __init__(self, dataset: Dataset[Any], batches: EpochBatches, *, num_workers: int) -> None:
        self.ring = Ring()
        super().__init__(dataset, batches, num_workers=num_workers, collate=self.ring)

    def __iter__(self) -> Any:
        self.batches.epoch, self.batches.start = self.epoch, self.position
        for received in super().__iter__():
            batch = self.ring.receive(received)
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
