"""A finished fine-tuning as its folder holds it: the tested weights, what they were trained on, and who took part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.config.kinds import FinetuneRun
from ssl_med.config import Tree, read_yaml, to_plain
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.evaluation.transfer import Transfer
from ssl_med.ledger import Ledger
from ssl_med.networks.backbone import build_backbone, stored_config
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.optim import OptimConfig
from ssl_med.reports.run_folder import BEST, CONFIG, LAST, SUBJECTS, Run, read_run
from ssl_med.spec import DataSpec, SslMedError

_OLD = "was fine-tuned by a version that did not record {}; fine-tune again, in another folder"


@dataclass(frozen=True)
class FinetunedRun:
    """The folder, its summary, its settings, and the spec of the data that it was trained and tested on."""

    run: Run
    settings: Tree
    spec: DataSpec

    @classmethod
    def read(cls, folder: Path) -> FinetunedRun:
        """Reads the folder of a fine-tuning.

        Raises:
            SslMedError: no such folder, a run of another kind, or one without a result.
        """
        if not folder.is_dir():
            raise SslMedError(f"{folder}: no such folder; give the folder of a finished `ssl-med finetune`")
        run = read_run(folder)
        if run.kind and run.kind != "finetune":
            raise SslMedError(f"{folder}: is a run of `{run.kind}`; only what `ssl-med finetune` trained can be tested")
        if run.problem:
            raise SslMedError(f"{folder}: is no finished fine-tuning: {run.problem}")
        if "network" not in run.summary:
            raise SslMedError(f"{folder}: {_OLD.format('its network')}")
        spec = DataSpec.from_dict(run.summary["network"]["spec"])
        return cls(run, read_yaml(folder / CONFIG, str(folder / CONFIG)).tree, spec)

    @classmethod
    def planned(cls, folder: Path, config: FinetuneRun) -> FinetunedRun:
        """A fine-tuning that is still to come, as far as its settings say: enough to compose what follows it."""
        backbone, network = to_plain(config.backbone), {"spec": config.spec.to_dict()}
        summary = {"kind": "finetune", "task": config.name, "seed": config.general.seed, "hash": config.hash()}
        return cls(Run(folder, {**summary, "backbone": backbone, "network": network}), config.tree(), config.spec)

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return self.run.folder

    def network(self) -> BackboneConfig:
        """Settings of the network that was trained."""
        return stored_config(self.run.summary["backbone"])

    def module(self, task: TaskConfig) -> Transfer:
        """The network with the weights that the run tested.

        Raises:
            SslMedError: the file of the weights is absent or does not fit.
        """
        architecture = self.network()
        backbone = build_backbone(architecture, spatial_dims=self.spec.spatial_dims, in_channels=self.spec.in_channels)
        skips = self.run.summary["network"]["skips"]
        decoder = backbone.build_decoder(skips=skips) if skips is not None else None
        module = Transfer(
            spec=self.spec, backbone=backbone, decoder=decoder, task=task, optim=OptimConfig(), batch_size=1
        )
        path = self.weights()
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            module.load_state_dict(state["state_dict"])
        except OSError as error:
            raise SslMedError(f"{path}: cannot be read ({error.strerror or error})") from None
        except Exception as error:  # torch has no family of errors for damaged files and tensors that do not fit
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SslMedError(f"{path}: does not hold the weights of {self.folder} ({reason})") from None
        return module

    def weights(self) -> Path:
        """File of the weights that the run tested."""
        name = BEST if str(self.run.summary.get("weights", "")).startswith("best") else LAST
        if not (self.folder / name).is_file():
            raise SslMedError(f"{self.folder / name}: no such file; the tested weights of this run are gone")
        return self.folder / name

    def ledgers(self) -> tuple[Ledger, Ledger | None]:
        """Who took part in the fine-tuning, and in the pretraining before it; None: nobody is named.

        Raises:
            SslMedError: the run did not record it.
        """
        path = self.folder / SUBJECTS
        try:
            tree: dict[str, Any] = json.loads(path.read_text())
            before = tree.get("pretraining")
            return Ledger.from_dict(tree), Ledger.from_dict(before) if before is not None else None
        except (OSError, ValueError, KeyError, TypeError):
            raise SslMedError(f"{path}: cannot be read; it lists the subjects that the run was trained on") from None
