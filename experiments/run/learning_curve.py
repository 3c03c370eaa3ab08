"""The test metric along a training, for learning curves; nothing of it reaches the training."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from ssl_med.distributed import gather_objects
from ssl_med.evaluation.features import kept_mode
from ssl_med.evaluation.tasks import Row
from ssl_med.evaluation.transfer import Transfer
from ssl_med.finite import check_rows


class TestCurve(pl.Callback):
    """Logs curve/METRIC of the whole test part every so many optimiser steps.

    The random state is put back, the mode too, and the metric is no monitor: a run with a curve ends with the weights of the
    run without one.
    """

    __test__ = False  # no test of pytest's

    def __init__(self, every: int) -> None:
        self.every = every
        self.seconds = 0.0
        self._last = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tests after each `every`-th step, once."""
        assert isinstance(module, Transfer)
        step = trainer.global_step
        if step % self.every or step == self._last or step == trainer.max_steps:
            return
        self._last = step
        start = time.perf_counter()
        metrics = self._test(trainer, module)
        self.seconds += time.perf_counter() - start
        points = {f"curve/{name}": value for name, value in metrics.items()}
        for logger in trainer.loggers:
            # by the last finished step, as Lightning numbers lines: its own line of this step follows, and a line whose step
            # falls would be taken for a resumed run
            logger.log_metrics({"curve/steps": step, **points}, step=step - 1)

    def state_dict(self) -> dict[str, Any]:
        """Which step was tested: further batches of its window ask again."""
        return {"last": self._last, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self._last, self.seconds = state_dict["last"], state_dict["seconds"]

    @torch.no_grad()
    def _test(self, trainer: pl.Trainer, module: Transfer) -> dict[str, float]:
        task, device = module.task, module.device
        rows: list[Row] = []
        with isolate_rng(), kept_mode(module):
            module.eval()
            for batch in trainer.datamodule.test_dataloader():  # type: ignore[attr-defined]
                there = module.transfer_batch_to_device(batch, device, 0)
                with trainer.precision_plugin.forward_context():
                    logits = module.answer(there["image"])
                check_rows(batch["id"], logits, "answers")
                subjects = batch["subject"].tolist()
                rows += [{"subject": who, **row} for who, row in zip(subjects, task.rows(logits, there), strict=True)]
        found = {row["case"]: row for row in gather_objects(rows)}  # a padded last batch may repeat a case
        return task.summarize([found[case] for case in sorted(found)])
