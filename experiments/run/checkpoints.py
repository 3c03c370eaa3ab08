"""last.ckpt and best.ckpt: what is in them, when they are written, and how a run goes on from them exactly."""

from __future__ import annotations

import math
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from experiments.run.callbacks import RunError
from experiments.run.interruption import Interruption
from experiments.run.tracking import JsonLines
from ssl_med.files import write_file
from ssl_med.reports.run_folder import BEST, LAST, PREVIOUS
from ssl_med.spec import first_line
from ssl_med.weights.core.torch_files import read_torch

KEY = "ssl_med_run"  # of a checkpoint: what the run knows besides weights and loops
Say = Callable[[str], None]


@dataclass(frozen=True)
class Resumed:
    """A checkpoint in memory, and the file that it came from."""

    path: Path
    state: dict[str, Any]

    @property
    def run(self) -> dict[str, Any]:
        """What `RunState` wrote; empty in checkpoints of version 0.1."""
        found: dict[str, Any] = self.state.get(KEY) or {}
        return found


def find_checkpoint(folder: Path, say: Say) -> Resumed | None:
    """The newest whole checkpoint of a run folder; None: the run starts at its beginning.

    A damaged last.ckpt is put aside, and said in a line.
    """
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        state, problem = _read(path)
        if state is not None:
            return Resumed(path, state)
        path.replace(path.with_name(f"{name}.damaged"))  # else it would take the predecessor's place
        older = name == LAST and (folder / PREVIOUS).is_file()
        then = f"the run goes on from {PREVIOUS}" if older else "the run starts anew"
        say(f"note: {path} is damaged ({problem}) and now {name}.damaged; {then}")
    return None


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint, or None and what is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the sums that it writes
            bad = archive.testzip()
        if bad is not None:
            return None, f"{bad} has a wrong checksum"
        state = read_torch(path)
        if not isinstance(state, dict) or not {"state_dict", "loops", "global_step"} <= state.keys():
            return None, "it is no checkpoint of a training"
    except OSError:
        raise  # the file could not be read now, which says nothing about what it holds
    except Exception as error:  # whatever a broken archive makes of its readers
        return None, first_line(error)[:120]
    return state, ""


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints beside their place, synced and renamed, and keeps one predecessor of last.ckpt.

    Lightning's own go through TMPDIR, which may lie on another disk.
    """

    def __init__(self, resumed: Resumed | None = None) -> None:
        super().__init__()
        self._resumed = resumed

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            SslMedError: it cannot be written; those before it are whole.
        """
        path = Path(path)
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        write_file(path, lambda file: torch.save(checkpoint, file), keep=keep)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """What was read when the folder was opened, once; else the file."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and Path(path) == resumed.path:
            return resumed.state
        loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return loaded


class BestCheckpoint(Checkpoint):
    """best.ckpt by a validation metric; waits while the method says that its validation losses are not comparable.

    It holds weights alone. A value that is not finite chooses nothing, and ends the run.

    Args:
        folder: of the run.
        monitor: logged value that chooses.
        mode: "min" or "max".
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        self.folder, self.monitor, self.mode = folder, monitor, mode
        self.best: float | None = None

    @property
    def state_key(self) -> str:
        """As Lightning's ModelCheckpoint had it in version 0.1, whose runs go on."""
        key: str = self._generate_state_key(
            monitor=self.monitor, mode=self.mode, every_n_train_steps=0, every_n_epochs=1, train_time_interval=None
        )
        return key

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self.monitor in trainer.callback_metrics:
            self.look(trainer)
        elif getattr(pl_module, "validation_is_comparable", True):
            logged = sorted(key for key in trainer.callback_metrics if key.startswith("val/"))
            raise RunError(f"trainer.monitor={self.monitor}: no such metric; logged are {', '.join(logged)}")

    def look(self, trainer: pl.Trainer) -> None:
        """Keeps the weights if the value is better than all before."""
        value = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(value):
            raise RunError(
                f"trainer.monitor={self.monitor} is {value} at step {trainer.global_step} and chooses nothing; lower optim.lr, "
                "set trainer.clip=1, use trainer.precision=32, or monitor another value"
            )
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        if trainer.strategy.reduce_boolean_decision(better):
            self.best = value
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"best_model_score": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        score = state_dict["best_model_score"]
        self.best = None if score is None else float(score)


class RunState(pl.Callback):
    """Writes last.ckpt after a step: every so many steps, at each validation, at the end, and when asked to stop.

    The checkpoint also holds what Lightning forgets: how far metrics.jsonl has come, the logged values that its next lines
    repeat, random states, whether training was to stop, whether there was a validation.

    Args:
        folder: of the run.
        every: steps between checkpoints.
        lines: metrics.jsonl.
        asked: which signal asked to stop, agreed on by all processes; see `Preemption`.
        check: raises when the weights are spoiled and must not be kept.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        *,
        lines: JsonLines,
        asked: Callable[[pl.Trainer], int | None],
        check: Callable[[], None],
    ) -> None:
        self.folder, self.every, self.lines = folder, every, lines
        self.asked, self.check = asked, check
        self.validated = self.saving = False
        self._due = False
        self._loaded: dict[str, Any] = {}

    # --- when --------------------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.validated = self._due = True

    def after_step(self, trainer: pl.Trainer, *, last: bool) -> None:
        """Saves when it is time.

        Raises:
            Interruption: a signal asked for it; the checkpoint is written.
        """
        signal = self.asked(trainer)
        if last or self._due or signal is not None or trainer.global_step % self.every == 0:
            self.check()
            self._due, self.saving = False, True
            try:
                trainer.save_checkpoint(self.folder / LAST)
            finally:
                self.saving = False
        if signal is not None:
            raise Interruption(signal)

    # --- what --------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        repeated = {} if loop._num_ready_batches_reached() else loop._results.metrics(True)["log"]
        checkpoint[KEY] = {
            "should_stop": trainer.should_stop,
            "validated": self.validated,
            "metrics": _plain(trainer.callback_metrics),
            "repeated": _plain(repeated),
            "log_bytes": self.lines.synced(),
            "seconds": self.lines.seconds,
            "random": _random_state(),
        }

    def on_load_checkpoint(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = dict(checkpoint.get(KEY) or {})
        if self._loaded:
            self.validated = self._loaded["validated"]
            trainer.should_stop = self._loaded["should_stop"]

    def restore(self, trainer: pl.Trainer) -> None:
        """Puts back what Lightning clears between loading and training; also for a training that has nothing left to do."""
        trainer.callback_metrics.update(self._loaded.pop("metrics", {}))
        progress: Any = trainer.fit_loop.epoch_progress
        if "random" in self._loaded and progress.current.processed < progress.current.ready:
            # not trained any more: a training that ends within an epoch counts it, and lines of the test name it
            progress.increment_processed()
            progress.increment_completed()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if "random" in self._loaded:
            _set_random_state(self._loaded.pop("random"))
        self.restore(trainer)

    def on_train_batch_start(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # a line repeats what was logged some steps ago within its epoch; what this step logs itself comes later and counts
        for name, value in self._loaded.pop("repeated", {}).items():
            pl_module.log(name, value, batch_size=1)


def _plain(metrics: Any) -> dict[str, Any]:
    return {str(key): torch.as_tensor(value).detach().cpu().clone() for key, value in metrics.items()}


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
