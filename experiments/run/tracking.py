"""Where metrics go: metrics.jsonl always, W&B as a second sink."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from experiments.config.kinds import RunConfig
from experiments.config.sections import MODES, environment_mode
from experiments.run.environment import say
from ssl_med.files import sync
from ssl_med.reports.escape import one_line, short_digest
from ssl_med.reports.run_folder import METRICS
from ssl_med.reports.writing import append_metrics

LABEL_FRACTION = "labels/fraction"  # logged beside the test metrics
PICTURES = "pictures/test"
LONGEST_TAG, LONGEST_NAME = 64, 128  # letters that W&B takes


class JsonLines(Logger):
    """Appends every logged step to metrics.jsonl; seconds count on from an interrupted run.

    Keys of a line are sorted: in which order they came to be logged is not the same in a run that was resumed.
    """

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
        values = {key: float(value) for key, value in sorted(metrics.items())}
        append_metrics(self.folder, step or 0, {"seconds": round(self.seconds, 3), **values})

    def synced(self) -> int:
        """Bytes of the file, which are on the disk afterwards: a checkpoint says how far the lines had come."""
        path = self.folder / METRICS
        if not path.is_file():
            return 0
        sync(path)
        return path.stat().st_size

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""


def facets(config: RunConfig, *, method: str) -> dict[str, str | int | float]:
    """What a run is, in the dimensions that runs are grouped, filtered and compared by."""
    found: dict[str, str | int | float] = {"method": method, "data": config.data.name}
    if config.kind != "pretrain":
        found |= {"task": config.name, "protocol": config.protocol}
    if config.labelled:
        labels = config.labels
        found |= {"shots": labels.shots} if labels.shots else {"fraction": labels.fraction}
    found["seed"] = config.general.seed
    if config.tracking.table:
        found["table"] = config.tracking.table
    return found


def tags_of(found: dict[str, str | int | float]) -> list[str]:
    """Facets as W&B tags, "fraction:0.1"."""
    return [
        _cut(f"{key}:{value:g}" if isinstance(value, float) else f"{key}:{value}", LONGEST_TAG)
        for key, value in found.items()
    ]


def group_of(found: dict[str, str | int | float]) -> str:
    """Runs of one group differ by their seed alone, "method:pcrl data:lits ...": W&B draws their mean and spread."""
    return " ".join(tags_of({key: value for key, value in found.items() if key not in ("seed", "table")}))


def run_id(name: str) -> str:
    """What W&B knows a run by: the name as it is where W&B takes it, else its letters and digits and a hash of the whole."""
    if re.fullmatch(rf"[A-Za-z0-9_.-]{{1,{LONGEST_NAME}}}", name):
        return name
    return f"{re.sub('[^A-Za-z0-9_.-]', '-', name)[:50]}-{short_digest(name)}"


def _cut(text: str, longest: int) -> str:
    """A text in one line, of at most so many letters; one that is cut ends in a hash, so that two of them stay apart."""
    text = one_line(text)
    return text if len(text) <= longest else f"{text[: longest - 9]}~{short_digest(text)}"


def wandb_mode(setting: str) -> str:
    """off, offline or online: the stricter of tracking.wandb and the environment, which alone never sends anything."""
    return min(setting, environment_mode() or setting, key=MODES.index)


def build_loggers(config: RunConfig, folder: Path, *, method: str, seconds_before: float) -> list[Logger]:
    """metrics.jsonl, and W&B unless it is off."""
    loggers: list[Logger] = [JsonLines(folder, seconds_before=seconds_before)]
    sink, asked = wandb_mode(config.tracking.wandb), config.tracking.wandb
    if sink != asked:
        say(f"W&B is {sink} and not {asked}, as WANDB_MODE asks")
    elif asked == "offline" and environment_mode() == "online":
        say("WANDB_MODE=online alone sends nothing; W&B stays offline without tracking.wandb=online")
    if sink != "off":
        import wandb

        # W&B would record the command line, with its paths, and what the terminal shows
        private = wandb.Settings(console="off", x_disable_meta=True, save_code=False)
        found = facets(config, method=method)
        named = folder.name.endswith(config.hash())
        loggers.append(
            WandbLogger(
                name=_cut(folder.name, LONGEST_NAME),
                id=run_id(folder.name if named else f"{folder.name}-{config.hash()}"),  # two folders may have one name
                save_dir=str(folder),
                offline=sink == "offline",
                project=config.tracking.project,
                entity=config.tracking.entity or None,
                group=_cut(group_of(found), LONGEST_NAME),
                job_type=config.kind,
                tags=[config.kind, *tags_of(found)],
                config={**config.public_tree(), "facets": found},
                resume="allow",
                settings=private,
            )
        )
    return loggers


def log_pictures(loggers: list[Logger], paths: Sequence[Path], captions: Sequence[str]) -> None:
    """Sends PNG files of test cases to W&B."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and paths:
            logger.log_image(PICTURES, [str(path) for path in paths], caption=list(captions))


def close_loggers(loggers: list[Logger], *, failed: bool) -> None:
    """Ends the W&B run, so that the next run of this process gets one of its own."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb

        if wandb.run is not None:  # only the first process has one
            wandb.run.finish(exit_code=int(failed))
