"""The run folder and the Trainer: what pretraining and fine-tuning share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from datamodules.core.base import MedicalData
from datamodules.core.splits import PARTS
from datamodules.core.synthetic import is_synthetic
from experiments.config.kinds import RunConfig
from experiments.config.online import PREFIX
from experiments.config.sections import LoadingConfig, TrainerConfig
from experiments.run.begun import check_same, is_done
from experiments.run.callbacks import RunError
from experiments.run.checkpoints import Resumed, find_checkpoint
from experiments.run.environment import git_revision, hardware, is_first_process, peak_mb, reset_peak, say, versions
from experiments.run.interruption import behind, held, listening, stop_if_lost
from experiments.run.lock import FolderLock
from experiments.run.machine import check_machine
from experiments.run.online_probe import OnlineProbe
from experiments.run.processes import alone_again
from experiments.run.tracking import LABEL_FRACTION, JsonLines, build_loggers, close_loggers, log_pictures
from experiments.run.trainer import equip
from ssl_med.config import to_yaml
from ssl_med.distributed import convert_sync_batchnorm
from ssl_med.files import remove_leftovers, write_text
from ssl_med.finite import NotFiniteError
from ssl_med.ledger import Ledger, Members
from ssl_med.networks.convolution import guard_convolutions
from ssl_med.precision import Precision
from ssl_med.reading import UnreadableError
from ssl_med.reports.run_folder import BEST, CONFIG, LAST, SUBJECTS, SUMMARY, read_metrics
from ssl_med.reports.writing import cut_metrics, write_json, write_summary
from ssl_med.spec import SslMedError
from ssl_med.weights.core.torch_files import read_torch

C = TypeVar("C", bound=RunConfig)


def prepare_process(trainer: LoadingConfig, precision: Precision) -> None:
    """Refuses what this machine lacks, sets the threads, and says which arithmetic it chose or what is wrong with the wish."""
    check_machine(trainer)
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    line = precision.announcement()
    if line:
        say(line)


@dataclass
class Session(Generic[C]):
    """One run in its folder, new or resumed; nobody else writes there meanwhile."""

    config: C
    folder: Path
    method: str
    resumed: Resumed | None = None
    seconds_before: float = 0.0
    loggers: list[Logger] = field(default_factory=list)
    steps: int = 0
    _held: ExitStack = field(default_factory=ExitStack)  # what is given back at the end

    def __enter__(self) -> Session[C]:
        reset_peak()
        self._held.enter_context(listening())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        with self._held:
            close_loggers(self.loggers, failed=error is not None)
            alone_again(at_once=error is not None)
            stop = behind(error) if error is not None else None
            if stop is not None and is_first_process():
                self._stopped("interrupted", [])
                say(f"{stop} at step {self.steps}; the same command goes on from there")

    @classmethod
    def open(cls, config: C, *, method: str) -> Session[C] | None:
        """Creates or continues the run folder; None when the same run is finished there already.

        Args:
            config: of the run.
            method: that pretrains, or that the weights come from.

        Raises:
            SslMedError: the folder holds another run, or an unfinished one and `resume=false`, or another process writes to it.
        """
        folder = config.folder()
        session = cls(config, folder, method)
        if is_first_process():
            if session._finished():
                return None
            with ExitStack() as opening:
                opening.enter_context(FolderLock(folder, "a run is under way here"))
                if session._finished():  # by whoever held the folder until now
                    return None
                session._held = opening.pop_all()
            remove_leftovers(folder)
            # other processes read it meanwhile
            write_text(folder / CONFIG, to_yaml({**config.tree(), "hash": config.hash()}))
        session._resume()
        return session

    def _finished(self) -> bool:
        """Whether the folder holds this run and it is done; refuses a folder that holds something else."""
        folder, stored = self.folder, self.folder / CONFIG
        if stored.is_file():
            check_same(stored, self.config)
            if not self.config.general.resume:
                raise SslMedError(f"{folder}: holds this run already; remove it, choose out=DIR, or allow resume")
            return (folder / SUMMARY).is_file() and is_done(folder)
        # what begins with a point is a lock or what a killed process was writing
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise SslMedError(f"out={folder}: is not empty and holds no run; choose another folder")
        return False

    def _resume(self) -> None:
        """Reads the checkpoint, and takes back the lines of metrics.jsonl that the run will write again."""
        self.resumed = find_checkpoint(self.folder, say)
        known: dict[str, Any] = {"log_bytes": 0, "seconds": 0.0} if self.resumed is None else self.resumed.run
        if "log_bytes" in known:
            self.seconds_before = known["seconds"]
            if is_first_process():
                cut_metrics(self.folder, known["log_bytes"])
        else:  # a checkpoint of version 0.1
            self.seconds_before = max((line.get("seconds", 0.0) for line in read_metrics(self.folder)), default=0.0)

    def trainer(
        self, c: TrainerConfig, overrides: Sequence[str], *, validate: bool, online: OnlineProbe | None = None
    ) -> pl.Trainer:
        """The Lightning Trainer that `c` describes, the config's own or matched in length.

        Args:
            c: its settings.
            overrides: of the command, for further processes.
            validate: whether there is a validation part.
            online: the online probe.
        """
        self.length = c
        probed = online is not None and c.monitor.startswith(PREFIX)
        if c.patience and not validate and not probed:
            raise SslMedError(
                "trainer.patience needs a validation part, and the split has none; set trainer.patience=0"
            )
        self.open_loggers()
        self.equipped = equip(
            self.config,
            c,
            command=(self.config.kind, *overrides),
            folder=self.folder,
            loggers=self.loggers,
            log=self._log,
            resumed=self.resumed,
            validate=validate,
            online=online,
        )
        return self.equipped.trainer

    def open_loggers(self) -> None:
        """Starts metrics.jsonl and, unless it is off, the W&B run; `__exit__` ends them."""
        self.loggers = build_loggers(self.config, self.folder, method=self.method, seconds_before=self.seconds_before)

    @property
    def _log(self) -> JsonLines:
        log = self.loggers[0]
        assert isinstance(log, JsonLines)
        return log

    def fit(self, trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> None:
        """Trains to the end.

        Raises:
            Interruption: a signal asked to stop; last.ckpt holds all that was done.
            RunError: the training cannot go on.
        """
        if trainer.world_size > 1 and self.length.sync_batchnorm:
            convert_sync_batchnorm(module, device_type=trainer.strategy.root_device.type)
        if trainer.strategy.root_device.type == "cpu":
            guard_convolutions(module)
        if self.length.channels_last:
            dims = self.config.spec.spatial_dims
            module.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
        resume_from = self.resumed.path if self.resumed is not None else None
        if self.resumed is not None:
            self.steps = self.resumed.state["global_step"]
            say(f"resuming from {resume_from}, step {self.steps}")
            self.resumed = None  # the memory is the trainer's
        try:
            with held():
                trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
                self.equipped.state.restore(trainer)
                if not (self.folder / LAST).is_file():  # a training of no steps
                    trainer.save_checkpoint(self.folder / LAST)
        except (RunError, NotFiniteError) as error:
            if trainer.is_global_zero:
                self.steps = trainer.global_step
                self._stopped("failed", [str(error)])
            raise
        finally:
            self.steps = trainer.global_step

    def _stopped(self, status: str, notes: list[str]) -> None:
        """summary.json of a run that did not reach its end."""
        method = self.method if self.config.kind == "pretrain" else None
        facts: dict[str, Any] = {"steps": self.steps, "seconds": self.seconds(), "metrics": {}}
        self.summarize(status=status, method=method, notes=notes, **facts)

    def best_weights(self, module: pl.LightningModule) -> str:
        """Restores the weights that the run selects, in place; says which."""
        path = self.folder / BEST
        if self.length.select == "last" or self.equipped.best is None or self.equipped.best.best is None:
            return "last"
        try:
            state = read_torch(path)
        except UnreadableError as error:
            raise SslMedError(
                f"{path}: {error}, and with it the chosen weights are lost; remove {self.folder}, and the same command trains "
                "again"
            ) from None
        module.load_state_dict(state["state_dict"])
        return f"best {self.length.monitor}, step {state['global_step']}"

    def seconds(self) -> float:
        """Wall-clock seconds of training, interruptions left out."""
        return round(self._log.seconds if self.loggers else self.seconds_before, 1)

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
        if values["status"] == "done":
            stop_if_lost()
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
