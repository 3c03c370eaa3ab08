"""A finished fine-tuning as its folder holds it: the tested weights, what they were trained on, and who took part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from experiments.config.kinds import FinetuneRun
from ssl_med.config import Tree, read_yaml, to_plain
from ssl_med.evaluation.tasks import Segmentation, TaskConfig
from ssl_med.evaluation.transfer import Transfer
from ssl_med.finite import check_tensors
from ssl_med.ledger import Ledger
from ssl_med.networks.backbone import build_backbone, stored_config
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.optim import OptimConfig
from ssl_med.reading import UnreadableError, mismatch, read_json
from ssl_med.reports.run_folder import BEST, CONFIG, LAST, SUBJECTS, SUMMARY, Run, read_run
from ssl_med.spec import DataSpec, SslMedError, first_line
from ssl_med.weights.core.torch_files import read_torch

_OLD = "was fine-tuned by a version that did not record {}; fine-tune again, in another folder"


class _Network(TypedDict):
    spec: dict[str, Any]
    skips: bool | None


class _Summary(TypedDict):
    network: _Network
    backbone: dict[str, Any]


class _Trainer(TypedDict):
    precision: str | int


class _Settings(TypedDict):
    task: dict[str, Any]
    data: dict[str, Any]
    trainer: _Trainer


def chosen_weights(run: Run) -> Path:
    """The checkpoint whose weights a finished run chose; it may be gone."""
    return run.folder / (BEST if str(run.summary.get("weights", "")).startswith("best") else LAST)


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
        if not run.summary.get("network"):
            raise SslMedError(f"{folder}: {_OLD.format('its network')}")
        settings = read_yaml(folder / CONFIG, str(folder / CONFIG)).tree
        for name, hint, tree in ((SUMMARY, _Summary, run.summary), (CONFIG, _Settings, settings)):
            if wrong := mismatch(hint, tree):
                raise SslMedError(f"{folder / name}: {wrong}; fine-tune again, in another folder")
        try:
            stored_config(run.summary["backbone"])
            spec = DataSpec.from_dict(run.summary["network"]["spec"])
        except SslMedError as error:
            raise SslMedError(f"{folder / SUMMARY}: {error}; fine-tune again, in another folder") from None
        return cls(run, settings, spec)

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
            module.load_state_dict(read_torch(path)["state_dict"])
        except UnreadableError as error:
            raise SslMedError(f"{path}: {error}") from None
        except Exception as error:  # torch has no family of errors for tensors that do not fit
            raise SslMedError(f"{path}: does not hold the weights of {self.folder} ({first_line(error)})") from None
        check_tensors(module.state_dict(), str(path))
        if isinstance(module.task, Segmentation) and (pieces := self.run.summary.get("pieces")):
            module.task.largest = tuple(bool(pieces[name]["largest_only"]) for name in self.spec.class_names)
        return module

    def weights(self) -> Path:
        """File of the weights that the run tested."""
        path = chosen_weights(self.run)
        if not path.is_file():
            raise SslMedError(f"{path}: no such file; the tested weights of this run are gone")
        return path

    def ledgers(self) -> tuple[Ledger, Ledger | None]:
        """Who took part in the fine-tuning, and in the pretraining before it; None: nobody is named.

        Raises:
            SslMedError: the run did not record it.
        """
        path = self.folder / SUBJECTS
        try:
            tree = read_json(path)
            before = tree.get("pretraining") if isinstance(tree, dict) else None
            return Ledger.from_dict(tree), Ledger.from_dict(before) if before is not None else None
        except UnreadableError as error:
            raise SslMedError(f"{path}: {error}; it lists the subjects that the run was trained on") from None
