"""Where metrics go: metrics.jsonl always, W&B as a second sink."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from experiments.compose import RunConfig
from ssl_med.reports.records import append_metrics


class JsonLines(Logger):
    """Appends every logged step to metrics.jsonl; seconds count on from an interrupted run."""

    def __init__(self, folder: Path, *, seconds_before: float = 0.0) -> None:
        super().__init__()
        self.folder = folder
        self._start = time.monotonic() - seconds_before

    @property
    def name(self) -> str:  # noqa: D102
        return "jsonl"

    @property
    def version(self) -> str:  # noqa: D102
        return ""

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training so far."""
        return time.monotonic() - self._start

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # noqa: D102
        values = {key: float(value) for key, value in metrics.items()}
        append_metrics(self.folder, step or 0, {"seconds": round(self.seconds, 3), **values})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""


def build_loggers(config: RunConfig, folder: Path, *, seconds_before: float) -> list[Logger]:
    """metrics.jsonl, and W&B unless it is off."""
    loggers: list[Logger] = [JsonLines(folder, seconds_before=seconds_before)]
    if config.tracking.wandb != "off":
        import wandb

        # W&B would record the command line, with its paths, and what the terminal shows
        private = wandb.Settings(console="off", x_disable_meta=True, save_code=False)
        group = config.name if config.kind == "pretrain" else f"{config.name}-{config.labels.fraction:g}"
        loggers.append(
            WandbLogger(
                name=folder.name,
                id=folder.name,
                save_dir=str(folder),
                offline=config.tracking.wandb == "offline",
                project=config.tracking.project,
                entity=config.tracking.entity or None,
                group=group,
                job_type=config.kind,
                tags=[config.kind, config.name, config.data.name, f"seed{config.general.seed}"],
                config=config.public_tree(),
                resume="allow",
                settings=private,
            )
        )
    return loggers


def close_loggers(loggers: list[Logger], *, failed: bool) -> None:
    """Ends the W&B run, so that the next run of this process gets one of its own."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb

        if wandb.run is not None:  # only the first process has one
            wandb.run.finish(exit_code=int(failed))
