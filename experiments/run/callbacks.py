"""What watches a run: finite losses, collapse, signals, speed, progress."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.run.interruption import received
from experiments.run.tracking import LABEL_FRACTION
from ssl_med.distributed import all_reduce_max, all_reduce_sum
from ssl_med.finite import first_bad


class RunError(RuntimeError):
    """The run cannot go on; one clear line, exit code 1."""


class FiniteLoss(pl.Callback):
    """Stops at a loss or weights that are NaN or infinite, before a checkpoint can be overwritten with spoiled weights.

    The check of the loss stays on the device, so it costs no synchronisation; it is read every `every` batches. Before each
    checkpoint (by whoever writes it), validation and probe `check` reads it and looks at the weights too: the last step may
    spoil them with a loss that was still finite. The first bad step is named exactly.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._first_bad: Tensor | None = None
        self._module: pl.LightningModule | None = None

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        step = torch.full((), float(trainer.global_step), device=loss.device)
        bad = torch.where(loss.isfinite(), torch.inf, step)
        self._first_bad = bad if self._first_bad is None else torch.minimum(self._first_bad, bad)
        if (batch_idx + 1) % self.every == 0 or trainer.is_last_batch:
            self._check_loss()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._module = pl_module

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.check()

    def check(self) -> None:
        """Reads the flag and looks at all weights and statistics; on several devices all of them stop together."""
        self._check_loss()
        module = self._module
        name = first_bad(module.state_dict()) if module is not None else ""
        if module is not None and float(all_reduce_sum(torch.full((), float(bool(name)), device=module.device))):
            raise RunError(
                f"the weights are not finite after step {module.global_step} ({name or 'in another process'}); the last good "
                "checkpoint is kept. Lower optim.lr, set trainer.clip=1, or use trainer.precision=32"
            )

    def _check_loss(self) -> None:
        if self._first_bad is None:
            return
        any_bad = all_reduce_sum(self._first_bad.isfinite().float())
        first, self._first_bad = float(self._first_bad), None
        if any_bad:
            where = f"step {int(first)}" if first != float("inf") else "another process's step"
            raise RunError(
                f"the loss is not finite at {where}; the last good checkpoint is kept. "
                "Lower optim.lr, set trainer.clip=1, or use trainer.precision=32"
            )


class Collapse(pl.Callback):
    """Stops a pretraining whose features have been the same for all images, or all on one line, for many monitors in a row.

    Bounds lie far below what training shows: Models Genesis on chest CT, whose skips do most of the work, went down to a
    feature_std of 0.0003 and an effective rank of 1.6 (other methods: 0.0004 and 1.2 and more), and features that differ by
    rounding alone have a feature_std of about 1e-7 in float32. The rank is not looked at when a batch is so small that it
    says nothing. All processes see the monitor of the global batch.

    Args:
        every: steps between monitors.
        patience: monitors in a row that must be below a bound.
        batch_size: samples of a monitor.
    """

    LOWEST_STD = 1e-5
    LOWEST_RANK = 1.02
    SMALLEST_BATCH = 8  # for the rank
    GRACE = 10  # first monitors that do not count: statistics and queues still settle

    def __init__(self, every: int, *, patience: int, batch_size: int) -> None:
        self.every, self.patience = every, patience
        self.bounds = {"collapse/feature_std": self.LOWEST_STD}
        if batch_size >= self.SMALLEST_BATCH:
            self.bounds["collapse/effective_rank"] = self.LOWEST_RANK
        self._steps, self._monitors, self._low = -1, 0, 0

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        fresh = trainer.global_step != self._steps and (trainer.global_step - 1) % self.every == 0
        if fresh and all(key in trainer.callback_metrics for key in self.bounds):
            self._steps = trainer.global_step
            self.look({key: float(trainer.callback_metrics[key]) for key in self.bounds})

    def state_dict(self) -> dict[str, int]:  # noqa: D102
        return {"steps": self._steps, "monitors": self._monitors, "low": self._low}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:  # noqa: D102
        self._steps, self._monitors, self._low = (state_dict[key] for key in ("steps", "monitors", "low"))

    def look(self, signs: dict[str, float]) -> None:
        """Counts one monitor."""
        self._monitors += 1
        low = [key for key, bound in self.bounds.items() if signs[key] < bound]
        self._low = self._low + 1 if low and self._monitors > self.GRACE else 0
        if self._low >= self.patience:
            shown = ", ".join(f"{key} {signs[key]:.2g} (bound {self.bounds[key]:g})" for key in low)
            raise RunError(
                f"the features have collapsed: {shown} at step {self._steps} and in {self.patience} monitors in a row; "
                "the last checkpoint is kept. Lower optim.lr, or let it go on with trainer.collapse_patience=0"
            )


class Preemption(pl.Callback):
    """Whether a signal asked to stop: SIGTERM, SIGUSR1 (SLURM) or SIGINT, of any process; all stop after the same step.

    Lightning's own SIGTERM handler broadcasts inside the signal handler, which hangs under DDP.
    """

    def asked(self, trainer: pl.Trainer) -> int | None:
        """The signal; of several the one of the highest number; None: go on."""
        mine = received()
        if trainer.world_size == 1:
            return mine
        return int(all_reduce_max(torch.full((), float(mine or 0), device=trainer.strategy.root_device))) or None


class Throughput(pl.Callback):
    """Logs `speed/samples_per_second`: samples of optimiser steps over their wall-clock time, evaluations left out.

    Reading of data is part of the time. The clock starts after the first step, which warms caches up. Steps that measure are
    the same in a run that was resumed, so that its lines hold the same keys.

    Args:
        every: steps between measurements.
        samples: of one optimiser step, over all devices.
        paused: seconds so far that other callbacks took and that are no training.
    """

    def __init__(self, every: int, *, samples: int, paused: Callable[[], float]) -> None:
        self.every, self.samples, self.paused = every, samples, paused
        self._start: tuple[int, float] | None = None  # step and second
        self._validation = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        step = trainer.global_step
        self._start = (step, time.perf_counter() - self.paused()) if step else None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._validation = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self._start is not None:
            step, second = self._start
            self._start = step, second + time.perf_counter() - self._validation

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now, step = time.perf_counter() - self.paused(), trainer.global_step
        if self._start is None:
            self._start = (step, now) if step else None
        elif step > self._start[0] and (step - 1) % self.every == 0:
            rate = (step - self._start[0]) * self.samples / (now - self._start[1])
            pl_module.log("speed/samples_per_second", rate, batch_size=1)
            self._start = step, now


class Budget(pl.Callback):
    """Logs the share of labels beside the test result, so that W&B can draw one over the other."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        pl_module.log(LABEL_FRACTION, self.fraction, batch_size=1)


class Progress(pl.Callback):
    """One bar over all optimiser steps, with rate and time left; one line a minute when the output is a file."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if not trainer.is_global_zero:
            return
        total = trainer.estimated_stepping_batches
        self.bar = tqdm(
            total=None if total == float("inf") else int(total),
            initial=trainer.global_step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 60,
            disable=os.environ.get("SSL_MED_QUIET") == "1",
        )

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        self.bar.update(trainer.global_step - self.bar.n)
        if trainer.global_step % self.every == 0:
            shown = {k: float(v) for k, v in trainer.callback_metrics.items() if k in ("train/loss", "val/loss")}
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()}, refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self.bar is not None:
            self.bar.close()
