"""Lightning's loop over batches with a moment after each optimiser step at which a training can be left and gone on with.

Lightning writes checkpoints from hooks within a batch, before its line is logged and its validation has run, and guesses on
resuming what is still to do. Here a checkpoint is written when a step is over with all that follows from it, and gradients of
no further batch are open: what comes next is the next batch, or the end of the epoch.
"""

from __future__ import annotations

from typing import Any, Protocol

import pytorch_lightning as pl
from pytorch_lightning.loops.optimization.automatic import ClosureResult, _AutomaticOptimization
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

_MARK = "after_step"  # of a checkpoint: it was written at such a moment


class Watch(Protocol):
    """What is asked by the loop."""

    validated: bool
    """whether the run has had a validation"""

    def after_step(self, trainer: pl.Trainer, *, last: bool) -> None:
        """A step is over with its validation; `last`: nothing of the training follows."""


class WholeWindows(_AutomaticOptimization):
    """Divides by the batches that a window of accumulated gradients has; the last one of an epoch may be short."""

    def _training_step(self, kwargs: Any) -> ClosureResult:
        result = super()._training_step(kwargs)
        trainer, batches = self.trainer, self.trainer.num_training_batches
        every = trainer.accumulate_grad_batches
        rest = int(batches) % every if batches != float("inf") else 0
        if rest and trainer.fit_loop.epoch_loop.batch_idx >= batches - rest and result.closure_loss is not None:
            result.closure_loss = result.closure_loss * (every / rest)
        return result


class Steps(_TrainingEpochLoop):
    """See above; a training that would end without any validation has one at its end."""

    def __init__(self, trainer: pl.Trainer, watch: Watch) -> None:
        super().__init__(trainer, min_steps=trainer.min_steps, max_steps=trainer.max_steps)
        self.automatic_optimization = WholeWindows(trainer)
        self.watch = watch
        self._resumed_after_step = False

    def reset(self) -> None:
        """Of a checkpoint that was written after a step, nothing has to be repaired."""
        if self.restarting and self._resumed_after_step:
            self._resumed_after_step = False
            setattr(self, "restarting", False)  # noqa: B010 - a property whose type mypy does not see
            return
        super().reset()

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Validates and logs, and then the step is over unless further batches belong to it."""
        super().on_advance_end(data_fetcher)
        if not self._should_accumulate():
            self.watch.after_step(self.trainer, last=self._ends or self.trainer.should_stop)

    @property
    def _ends(self) -> bool:
        """Whether no batch follows."""
        loop = self.trainer.fit_loop
        epochs = loop.max_epochs
        if 0 <= self.max_steps <= self.global_step:
            return True
        over = self._num_ready_batches_reached() and epochs is not None and epochs >= 0
        return over and loop.epoch_progress.current.processed + 1 >= int(epochs or 0)

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        due: bool = super()._should_check_val_fx(data_fetcher)
        return due or (self._ends and self.trainer.enable_validation and not self.watch.validated)

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Adds where the checkpoint was written: a window of gradients may be open, a validation under way."""
        return {**super().on_save_checkpoint(), _MARK: bool(getattr(self.watch, "saving", False))}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Remembers where it was written."""
        super().on_load_checkpoint(state_dict)
        self._resumed_after_step = bool(state_dict.get(_MARK))
