"""What a call of the Python interface returns: the folder that was written, and what can be read from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_med.spec import SslMedError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Result:
    """A folder that a command has written; a run can be given as `init` to the calls that follow."""

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json of a run: status, metrics, weights, settings, versions.

        Raises:
            SslMedError: the folder holds no run, as that of a comparison or a report.
        """
        path = self.folder / "summary.json"
        if not path.is_file():
            raise SslMedError(f"{self.folder}: holds no summary.json; only the folder of one run has one")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """The run's metrics by name, such as `test/dice`."""
        metrics: dict[str, float] = self.summary["metrics"]
        return metrics

    def network(self) -> nn.Module:
        """The trained network in evaluation mode: of a pretraining its encoder, of a fine-tuning all that predicts.

        A fine-tuning's is a `ssl_med.evaluation.transfer.Transfer` with the weights that were tested.

        Raises:
            SslMedError: the run trained no network, or its weights are gone.
        """
        kind = self.summary.get("kind")
        if kind == "pretrain":
            from experiments.api.networks import load_backbone

            return load_backbone(self.folder)[0]
        if kind == "finetune":
            from experiments.config.finetuned import FinetunedRun
            from ssl_med.config import Layer, build
            from ssl_med.evaluation.tasks import TaskConfig

            run = FinetunedRun.read(self.folder)
            task = build(TaskConfig, [Layer("config.yaml", run.settings["task"])], prefix="task")
            return run.module(task).eval()
        raise SslMedError(
            f"{self.folder}: a run of `{kind}` trains no network; ask the pretraining or fine-tuning before it"
        )
