"""What a call of the Python interface returns: the folder that was written, and what can be read from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_med.reading import UnreadableError, mismatch, read_json
from ssl_med.reports.summary import Summary
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
        if not path.exists():
            raise SslMedError(f"{self.folder}: holds no summary.json; only the folder of one run has one")
        try:
            found: dict[str, Any] = read_json(path)
        except UnreadableError as error:
            raise SslMedError(f"{path}: {error}; run the same command again in another folder") from None
        if wrong := mismatch(Summary, found):
            raise SslMedError(f"{path}: {wrong}; run the same command again in another folder")
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """The run's metrics by name, such as `test/dice`."""
        metrics: dict[str, float] = self.summary.get("metrics", {})
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
