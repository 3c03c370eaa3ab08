"""The Lightning Trainer of a run, with what watches it, writes its checkpoints and chooses its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import Strategy

from experiments.config.online import PREFIX
from experiments.config.sections import TrainerConfig
from experiments.run.callbacks import Budget, Collapse, FiniteLoss, Preemption, Progress, Throughput
from experiments.run.checkpoints import BestCheckpoint, CheckpointFiles, Resumed, RunState
from experiments.run.environment import quiet
from experiments.run.learning_curve import TestCurve
from experiments.run.online_probe import OnlineProbe, ProbeCheckpoint, ProbeStopping
from experiments.run.processes import SharedTraining
from experiments.run.steps import Steps
from experiments.run.tracking import JsonLines
from ssl_med.evaluation.metrics import metric_of


@dataclass(frozen=True)
class Equipped:
    """A trainer, what writes its last.ckpt, and what chooses its best weights; None: nothing chooses."""

    trainer: pl.Trainer
    state: RunState
    best: BestCheckpoint | None


def equip(
    config: Any,
    c: TrainerConfig,
    *,
    command: Sequence[str],
    folder: Path,
    loggers: Sequence[Logger],
    log: JsonLines,
    resumed: Resumed | None,
    validate: bool,
    online: OnlineProbe | None,
) -> Equipped:
    """Makes the trainer that `c` describes.

    Args:
        config: of the run.
        c: the run's own settings of the trainer, or those matched in length to a label budget.
        command: of the run and its words, for further processes.
        folder: of the run.
        loggers: all of them.
        log: the one that writes metrics.jsonl.
        resumed: the checkpoint that the run goes on from.
        validate: whether there is a validation part.
        online: the online probe.
    """
    probed = online is not None and c.monitor.startswith(PREFIX)
    mode, finite, preemption = metric_of(c.monitor).mode, FiniteLoss(c.log_every), Preemption()
    state = RunState(folder, c.checkpoint_every_steps, lines=log, asked=preemption.asked, check=finite.check)
    curves = [TestCurve(c.test_every_steps)] if config.kind == "finetune" and c.test_every_steps else []
    besides: list[TestCurve | OnlineProbe] = [*curves, *([online] if online is not None else [])]
    callbacks: list[pl.Callback] = [
        finite,
        preemption,
        Throughput(c.log_every, samples=c.batch_size * c.accumulate, paused=lambda: sum(x.seconds for x in besides)),
        state,
    ]
    if config.kind == "finetune" and not config.labels.shots:
        callbacks.append(Budget(config.labels.fraction))
    if config.kind == "pretrain" and c.collapse_patience:
        callbacks.append(Collapse(c.log_every, patience=c.collapse_patience, batch_size=c.batch_size))
    if online is not None:
        online.before = finite.check
        callbacks.append(online)
    stop: dict[str, Any] = {"patience": c.patience, "mode": mode, "check_finite": False, "strict": False}
    stop["check_on_train_epoch_end"] = False  # but after each validation, of which an epoch may have none or many
    best: BestCheckpoint | None = None
    if online is not None and probed:
        best = ProbeCheckpoint(folder, c.monitor, mode)
        online.watchers = [best]
        if c.patience:
            online.watchers.append(ProbeStopping(c.monitor, **stop))
        callbacks += online.watchers
    else:
        if validate:
            best = BestCheckpoint(folder, c.monitor, mode)
            callbacks.append(best)
        if c.patience:
            callbacks.append(EarlyStopping(c.monitor, **stop))
    callbacks += curves
    if c.progress:
        callbacks.append(Progress(c.log_every))
    quiet()
    trainer = pl.Trainer(
        accelerator=c.accelerator,
        devices=c.devices if c.devices == "auto" else int(c.devices),
        num_nodes=c.num_nodes,
        strategy=_strategy(c, command),
        precision=config.precision.of_trainer,
        max_epochs=c.max_epochs if c.max_epochs >= 0 else -1,
        max_steps=c.max_steps,
        accumulate_grad_batches=c.accumulate,
        gradient_clip_val=c.clip or None,
        val_check_interval=c.val_every_steps or 1.0,
        check_val_every_n_epoch=None if c.val_every_steps else 1,
        limit_val_batches=1.0 if validate else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=c.log_every,
        use_distributed_sampler=False,  # our loaders know their part of each global batch
        logger=loggers,
        callbacks=callbacks,
        plugins=[CheckpointFiles(resumed)],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit_loop.epoch_loop = Steps(trainer, state)
    # signals are ours (see `Preemption`); Lightning's handlers would stop a training within a step
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return Equipped(trainer, state, best)


def _strategy(c: TrainerConfig, command: Sequence[str]) -> str | Strategy:
    if c.strategy == "ddp" or (c.strategy == "auto" and (c.num_nodes > 1 or c.devices not in ("auto", "1"))):
        # buffers agree without being sent: statistics are shared, and all processes push the same keys
        return SharedTraining(command, gradient_as_bucket_view=True, broadcast_buffers=False)
    return c.strategy
