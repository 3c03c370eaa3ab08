"""The run folder and the Trainer: what pretraining and fine-tuning share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, Strategy

from datamodules.core.base import MedicalData
from datamodules.core.splits import PARTS
from datamodules.core.synthetic import is_synthetic
from experiments.config.kinds import RunConfig
from experiments.config.online import PREFIX
from experiments.config.sections import TrainerConfig
from experiments.run.callbacks import (
    BestCheckpoint,
    Budget,
    Collapse,
    FiniteLoss,
    Preemption,
    Progress,
    RunError,
    Throughput,
)
from experiments.run.environment import (
    git_revision,
    hardware,
    is_first_process,
    peak_mb,
    quiet,
    reset_peak,
    say,
    versions,
)
from experiments.run.learning_curve import TestCurve
from experiments.run.machine import check_machine
from experiments.run.online_probe import OnlineProbe, ProbeCheckpoint, ProbeStopping
from experiments.run.tracking import LABEL_FRACTION, JsonLines, build_loggers, close_loggers, log_pictures
from ssl_med.config import read_yaml, to_yaml
from ssl_med.distributed import convert_sync_batchnorm
from ssl_med.evaluation.metrics import metric_of
from ssl_med.ledger import Ledger, Members
from ssl_med.networks.convolution import guard_convolutions
from ssl_med.reports.run_folder import BEST, CONFIG, LAST, SUBJECTS, SUMMARY, read_metrics
from ssl_med.reports.writing import write_json, write_summary, write_text
from ssl_med.spec import SslMedError

C = TypeVar("C", bound=RunConfig)


def prepare_process(config: RunConfig) -> None:
    """Refuses what this machine lacks, sets the threads, and says which arithmetic it chose or what is wrong with the wish."""
    check_machine(config.trainer)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    line = config.precision.announcement()
    if line:
        say(line)


@dataclass
class Session(Generic[C]):
    """One run in its folder, new or resumed."""

    config: C
    folder: Path
    resume_from: Path | None
    seconds_before: float
    method: str
    loggers: list[Logger] = field(default_factory=list)

    def __enter__(self) -> Session[C]:
        reset_peak()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        close_loggers(self.loggers, failed=error is not None)

    @classmethod
    def open(cls, config: C, *, method: str) -> Session[C] | None:
        """Creates or continues the run folder; None when the same run is finished there already.

        Args:
            config: of the run.
            method: that pretrains, or that the weights come from.

        Raises:
            SslMedError: the folder holds another run, or an unfinished one and `resume=false`.
        """
        folder = config.folder()
        resume_from, seconds = None, 0.0
        if is_first_process():
            stored = folder / CONFIG
            if stored.is_file():
                _same_run(stored, config)
                if not config.general.resume:
                    raise SslMedError(f"{folder}: holds this run already; remove it, choose out=DIR, or allow resume")
                if (folder / SUMMARY).is_file() and _finished(folder):
                    return None
            elif folder.exists() and any(folder.iterdir()):
                raise SslMedError(f"out={folder}: is not empty and holds no run; choose another folder")
            folder.mkdir(parents=True, exist_ok=True)
            write_text(stored, to_yaml({**config.tree(), "hash": config.hash()}))  # other processes read it meanwhile
        last = folder / LAST
        if last.is_file():
            resume_from = last
            seconds = max((line.get("seconds", 0.0) for line in read_metrics(folder)), default=0.0)
        return cls(config, folder, resume_from, seconds, method)

    def trainer(self, c: TrainerConfig, *, validate: bool, online: OnlineProbe | None = None) -> pl.Trainer:
        """The Lightning Trainer that `c` describes, the config's own or matched in length; `validate`: there is such a part."""
        self.length = c
        probed = online is not None and c.monitor.startswith(PREFIX)
        if c.patience and not validate and not probed:
            raise SslMedError(
                "trainer.patience needs a validation part, and the split has none; set trainer.patience=0"
            )
        # a run that is shorter than the interval validates once, at its end
        interval = min(c.val_every_steps, c.max_steps * c.accumulate) if c.max_steps > 0 else c.val_every_steps
        self.open_loggers()
        self.preemption = Preemption()
        mode = metric_of(c.monitor).mode
        finite = FiniteLoss(c.log_every, checkpoint_every=c.checkpoint_every_steps)
        last = ModelCheckpoint(
            self.folder,
            filename="last",
            every_n_train_steps=c.checkpoint_every_steps,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        curves = [TestCurve(c.test_every_steps)] if self.config.kind == "finetune" and c.test_every_steps else []
        besides: list[TestCurve | OnlineProbe] = [*curves, *([online] if online is not None else [])]
        callbacks: list[pl.Callback] = [
            finite,
            self.preemption,
            Throughput(
                c.log_every, samples=c.batch_size * c.accumulate, paused=lambda: sum(x.seconds for x in besides)
            ),
            last,
        ]
        if self.config.kind == "finetune" and not self.config.labels.shots:
            callbacks.append(Budget(self.config.labels.fraction))
        if self.config.kind == "pretrain" and c.collapse_patience:
            callbacks.append(Collapse(c.log_every, patience=c.collapse_patience, batch_size=c.batch_size))
        if online is not None:
            online.before = finite.check
            callbacks.append(online)
        best: dict[str, Any] = {"filename": "best", "monitor": c.monitor, "mode": mode, "enable_version_counter": False}
        stop: dict[str, Any] = {"patience": c.patience, "mode": mode, "check_finite": False, "strict": False}
        if online is not None and probed:
            online.watchers = [ProbeCheckpoint(self.folder, save_on_train_epoch_end=False, **best)]
            if c.patience:
                online.watchers.append(ProbeStopping(c.monitor, check_on_train_epoch_end=False, **stop))
            callbacks += online.watchers
        else:
            if validate:
                callbacks.append(BestCheckpoint(self.folder, **best))
            if c.patience:
                callbacks.append(EarlyStopping(c.monitor, **stop))
        callbacks += curves
        if c.progress:
            callbacks.append(Progress(c.log_every))
        quiet()
        return pl.Trainer(
            accelerator=c.accelerator,
            devices=c.devices if c.devices == "auto" else int(c.devices),
            num_nodes=c.num_nodes,
            strategy=_strategy(c.strategy, c.devices, c.num_nodes),
            precision=self.config.precision.of_trainer,
            max_epochs=c.max_epochs if c.max_epochs >= 0 else -1,
            max_steps=c.max_steps,
            accumulate_grad_batches=c.accumulate,
            gradient_clip_val=c.clip or None,
            val_check_interval=interval or 1.0,
            check_val_every_n_epoch=None if interval else 1,
            limit_val_batches=1.0 if validate else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=c.log_every,
            use_distributed_sampler=False,  # our loaders know their part of each global batch
            logger=self.loggers,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.folder,
        )

    def open_loggers(self) -> None:
        """Starts metrics.jsonl and, unless it is off, the W&B run; `__exit__` ends them."""
        self.loggers = build_loggers(self.config, self.folder, method=self.method, seconds_before=self.seconds_before)

    def fit(self, trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> bool:
        """Trains to the end or to a signal; True when it reached its end."""
        if trainer.world_size > 1 and self.length.sync_batchnorm:
            convert_sync_batchnorm(module, device_type=trainer.strategy.root_device.type)
        if trainer.strategy.root_device.type == "cpu":
            guard_convolutions(module)
        if self.length.channels_last:
            dims = self.config.spec.spatial_dims
            module.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
        if self.resume_from:
            say(f"resuming from {self.resume_from}")
        try:
            trainer.fit(module, datamodule=data, ckpt_path=self.resume_from, weights_only=True)
        except RunError as error:
            if trainer.is_global_zero:
                facts = {"steps": trainer.global_step, "seconds": self.seconds(), "metrics": {}}
                method = self.config.name if self.config.kind == "pretrain" else None
                self.summarize(status="failed", method=method, notes=[str(error)], **facts)
            raise
        trainer.save_checkpoint(self.folder / LAST)
        return self.preemption.received is None

    def best_weights(self, module: pl.LightningModule) -> str:
        """Restores the weights that the run selects, in place; says which."""
        path = self.folder / BEST
        if self.length.select == "last" or not path.is_file():
            return "last"
        state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
        return f"best {self.length.monitor}, step {state['global_step']}"

    def seconds(self) -> float:
        """Wall-clock seconds of training, interruptions left out."""
        jsonl = self.loggers[0]
        assert isinstance(jsonl, JsonLines)
        return round(jsonl.seconds, 1)

    def record_subjects(self, ledger: Ledger, pretrained: Ledger | None = None) -> None:
        """Salted hashes of who took part, by part, and of who took part in the pretraining before."""
        if is_first_process():
            before = {"pretraining": pretrained.to_dict()} if pretrained is not None else {}
            write_json(self.folder / SUBJECTS, ledger.to_dict() | before)

    def track_result(self, metrics: Mapping[str, float]) -> None:
        """Logs the test result of a run that Lightning does not train, beside its share of labels."""
        labels = self.config.labels
        budget = {} if labels.shots or not self.config.labelled else {LABEL_FRACTION: labels.fraction}
        for logger in self.loggers:
            logger.log_metrics({**metrics, **budget}, step=0)

    def track_pictures(self, told: Sequence[Mapping[str, Any]]) -> None:
        """W&B gets the pictures of test cases where `tracking.pictures` allows it."""
        if self.config.tracking.pictures:
            captions = [f"{item['case']}: {item['why']}" for item in told]
            log_pictures(self.loggers, [self.folder / item["file"] for item in told], captions)

    def summarize(self, **values: Any) -> None:
        """summary.json: `values` with what every run states."""
        config = self.config
        write_summary(
            self.folder,
            {
                "format": 1,
                "kind": config.kind,
                "name": self.folder.name,
                "hash": config.hash(),
                "seed": config.general.seed,
                "data": config.data.name,
                "synthetic": is_synthetic(config.data.root),
                "backbone": config.tree()["backbone"],
                "config": config.public_tree(),
                "hardware": hardware(),
                "precision": str(config.precision),
                "versions": versions(),
                "git": git_revision(),
                "peak_mb": round(peak_mb()),
                **values,
            },
        )


def ledger_of(data: MedicalData, *, files_of: Sequence[str] = PARTS) -> Ledger:
    """Keys of the subjects of each part of a run, and of the files of those parts whose files will be compared."""
    identities, files = data.identities(), data.image_files()
    return Ledger({part: Members.of(identities[part], files[part] if part in files_of else ()) for part in identities})


def _same_run(stored: Path, config: RunConfig) -> None:
    tree = read_yaml(stored, str(stored)).tree
    if tree.get("hash") != config.hash():
        mine = config.tree()
        different = sorted(
            f"{section}.{key}" if isinstance(value, dict) else section
            for section, value in mine.items()
            if section in tree  # an older version may not have had it
            for key in (value if isinstance(value, dict) else [section])
            if (value[key] if isinstance(value, dict) else value)
            != ((tree.get(section) or {}).get(key) if isinstance(value, dict) else tree.get(section))
        )
        raise SslMedError(
            f"{stored.parent}: holds a run with other settings ({', '.join(different[:5]) or 'kind'} differ); "
            "choose another out=DIR"
        )


def _finished(folder: Path) -> bool:
    return bool(json.loads((folder / SUMMARY).read_text()).get("status") == "done")


def _strategy(name: str, devices: str, num_nodes: int) -> str | Strategy:
    if name == "ddp" or (name == "auto" and (num_nodes > 1 or devices not in ("auto", "1"))):
        # buffers agree without being sent: statistics are shared, and all processes push the same keys
        return DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False)
    return name
