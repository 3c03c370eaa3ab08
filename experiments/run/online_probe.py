"""The online probe: what the encoder knows of a labelled task while it is pretrained, on few samples held in memory.

Features and protocols are those of `ssl-med probe`. Training samples of the task are the memory (nearest neighbours) or the
fit (logistic regression), validation samples give the number; test samples are never read. Nothing is chosen on the samples
that are scored: numbers of neighbours and L2 are settings.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from datamodules.core.splits import label_budget
from experiments.config.online import PREFIX, Online, spelled
from experiments.run.callbacks import RunError
from experiments.run.checkpoints import BestCheckpoint
from ssl_med.evaluation.features import Features, check_levels, extract, kept_mode, pooled
from ssl_med.evaluation.metrics import metric_of
from ssl_med.evaluation.protocols.core.choice import Outcome
from ssl_med.evaluation.protocols.knn import KnnConfig, knn
from ssl_med.evaluation.protocols.linear import LinearConfig, linear
from ssl_med.evaluation.tasks import task_class
from ssl_med.finite import NotFiniteError
from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import Batch, SslMedError

_PARTS = ("train", "val")
_BATCH = {2: 64, 3: 8}  # images of a forward pass: small, since the training holds its memory meanwhile


# -------------------------------------------------------------------------------------------------- while training


class ProbeCheckpoint(BestCheckpoint):
    """best.ckpt by the online probe; after a validation the value is as old as the last probe, and nothing happens."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing."""

    def on_probe_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows a validation otherwise."""
        self.look(trainer)


class ProbeStopping(EarlyStopping):
    """Early stopping by the online probe; its patience counts probes."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing."""

    def on_probe_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows a validation otherwise."""
        super().on_validation_end(trainer, pl_module)


class OnlineProbe(pl.Callback):
    """Probes the encoder every so many steps, with the encoder in evaluation mode and in no random state of the training.

    The first process probes, all are told the number. The number of the untrained network is logged, but neither selects
    weights nor counts for early stopping.

    Args:
        online: what was asked for.
        precision: as trainer.precision.
        num_workers: loader processes while the samples are read.

    Raises:
        SslMedError: the data cannot be indexed, or have no validation part.
    """

    def __init__(self, online: Online, *, precision: str, num_workers: int) -> None:
        self.online, self.precision = online, precision
        self.spec, self.key = online.spec, online.key
        self.watchers: list[ProbeCheckpoint | ProbeStopping] = []
        self.before: Callable[[], None] = lambda: None  # checks that the weights are worth a look
        self.steps: list[int] = []
        self.values: list[float] = []
        self.seconds = self.read_seconds = 0.0
        self._batches: dict[str, list[Batch]] = {}
        self._levels: tuple[int, ...] = ()
        # one seed for all runs, so that their numbers are of the same samples
        seed = online.data.split_seed
        with spelled(), isolate_rng():
            self.data = online.data_class(
                online.data, labelled=True, batch_size=_BATCH[self.spec.spatial_dims], num_workers=num_workers,
                seed=seed, test=False,
            )  # fmt: skip
            self.data.setup()
            if not self.data.parts["val"]:
                raise SslMedError(
                    f"online.task={online.settings.task}: has no validation part to score; choose another data.split or "
                    "data.split_ratios"
                )
            for part in _PARTS:
                self.data.parts[part] = self._drawn(self.data.parts[part])

    def _drawn(self, cases: Sequence[Any]) -> list[Any]:
        """Cases of some subjects, strata in proportion."""
        wanted, there = self.online.settings.samples, len(self._samples(cases))
        signatures = self.data.signatures(cases)
        fraction = min(1.0, wanted / max(1, there))
        chosen = set(label_budget(signatures, fraction=fraction, seed=self.data.seed, lead=self.data.lead_stratum))
        return [case for case in cases if case.subject in chosen]

    def _samples(self, cases: Sequence[Any]) -> Any:
        """Of candidates the positives and some negatives, in both parts: AUC does not depend on their ratio."""
        return self.data.still_dataset(cases, part="train")

    def read(self, backbone: Backbone) -> str:
        """Decodes all samples into memory; returns what was read, for the user.

        Raises:
            SslMedError: a file is damaged, the labels cannot be scored, or `backbone` has no such levels.
        """
        start = time.perf_counter()
        with spelled(), isolate_rng():
            self._levels = check_levels(backbone, self.online.settings.levels)
            for part in _PARTS:
                loader = self.data.still_loader(self.data.parts[part], part="train")
                self._batches[part] = [_kept(batch) for batch in loader]
        self._check_labels()
        self.read_seconds = time.perf_counter() - start
        counts = [f"{n} {part} samples ({self.subjects[part]} subjects)" for part, n in self.samples.items()]
        settings = self.online.settings
        every = f"{settings.every_epochs} epochs" if settings.every_epochs else f"{settings.every_steps} steps"
        return (
            f"online probe: {self.key} of {settings.task} every {every}, {' and '.join(counts)} read in "
            f"{self.read_seconds:.1f} s"
        )

    def _check_labels(self) -> None:
        names, task = self.spec.class_names, self.online.settings.task
        for part, batches in self._batches.items():
            word = {"train": "training", "val": "validation"}[part]
            labels = [row for batch in batches for row in batch["label"].tolist()]
            if self.spec.target == "class":
                absent = [name for k, name in enumerate(names) if k not in labels]
                lacks = bool(absent) if part == "train" or len(names) == 2 else len(set(labels)) < 2
                what = f"no '{absent[0]}'" if absent else ""
            else:
                lacks = not any({0.0, 1.0} <= {row[k] for row in labels} for k in range(len(names)))
                what = "no finding that some have and others have not"
            if lacks:
                raise SslMedError(
                    f"online.task={task}: among {len(labels)} {word} samples is {what}; raise online.samples, or choose "
                    "another online.data.split or online.data.split_seed"
                )

    @property
    def samples(self) -> dict[str, int]:
        """Samples of each part in memory."""
        return {part: sum(len(batch["id"]) for batch in batches) for part, batches in self._batches.items()}

    @property
    def subjects(self) -> dict[str, int]:
        """Subjects of each part."""
        return {part: len(members) for part, members in self.data.subjects().items()}

    # --- hooks ---------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if trainer.global_step == 0:
            self._probe(trainer, pl_module)

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.steps[-1:] == [trainer.global_step] or not self._due(trainer):
            return
        self.before()
        pl_module.log(self.key, self._probe(trainer, pl_module), logger=False)
        for watcher in self.watchers:
            watcher.on_probe_end(trainer, pl_module)

    def _due(self, trainer: pl.Trainer) -> bool:
        settings, step = self.online.settings, trainer.global_step
        if step == trainer.estimated_stepping_batches:
            return True
        if settings.every_epochs:
            return trainer.is_last_batch and (trainer.current_epoch + 1) % settings.every_epochs == 0
        return step % settings.every_steps == 0

    def _probe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> float:
        start = time.perf_counter()
        value = math.nan
        if trainer.is_global_zero:
            # Lightning compares monitored values in float32: with more digits two probes could differ here and be equal there
            with suppress(NotFiniteError):
                value = round(self.value(pl_module.backbone), 6)  # type: ignore[arg-type]
        value, seconds = trainer.strategy.broadcast((value, time.perf_counter() - start))
        if math.isnan(value):  # all processes leave together
            raise RunError(
                f"the online probe at step {trainer.global_step} finds features that are not finite; lower optim.lr, set "
                "trainer.clip=1, or use trainer.precision=32"
            )
        self.steps.append(trainer.global_step)
        self.values.append(value)
        self.seconds += seconds
        logged = {self.key: value, f"{PREFIX}seconds": seconds}
        for logger in trainer.loggers:  # steps are counted from 0, as Lightning does
            logger.log_metrics(logged, step=max(0, trainer.global_step - 1))
        return value

    def value(self, backbone: Backbone) -> float:
        """The number for an encoder, which is left as it was.

        Raises:
            NotFiniteError: features are nan or infinite.
        """
        device = next(backbone.parameters()).device

        def features_of(batch: Batch) -> tuple[Sequence[str], Tensor, Tensor]:
            return batch["id"], pooled(backbone, batch["image"], self._levels), batch["label"]

        with isolate_rng(), kept_mode(backbone):
            train, val = (
                extract(backbone, self._batches[part], features_of, device=device, precision=self.precision).to(device)
                for part in _PARTS
            )
            with spelled():
                outcome = self._outcome(train, val)
            task = task_class(self.spec)(self.online.task, self.spec, backbone, None)
            asked: Any = {"id": val.ids, "label": val.label}
            return task.summarize(task.rows(outcome.logits, asked))[task.metric]

    def _outcome(self, train: Features, val: Features) -> Outcome:
        settings = self.online.settings
        if settings.protocol == "knn":
            nearest = KnnConfig(neighbours=(min(settings.neighbours, len(train)),))
            return knn(nearest, self.spec, train, val, val)
        fixed = LinearConfig(strengths=1, strength_min=settings.l2, strength_max=settings.l2)
        return linear(fixed, self.spec, train, val, val, refit=False)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"steps": list(self.steps), "values": list(self.values), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self.steps, self.values = list(state_dict["steps"]), list(state_dict["values"])
        self.seconds = state_dict["seconds"]

    # --- what is told --------------------------------------------------------------------------------------------

    def summary(self, run_seconds: float) -> dict[str, Any]:
        """For summary.json; seconds and share are those of the probes, within the run's."""
        return {
            "task": self.online.settings.task,
            "key": self.key,
            "samples": self.samples,
            "subjects": self.subjects,
            "steps": self.steps,
            "values": self.values,
            "seconds": round(self.seconds, 2),
            "share": round(self.seconds / run_seconds, 4) if run_seconds > 0 else None,
            "read_seconds": round(self.read_seconds, 2),
        }

    def lines(self, run_seconds: float) -> list[str]:
        """The numbers and the cost, for the user."""
        trained = [(value, step) for step, value in zip(self.steps, self.values, strict=True) if step]
        words = [f"{value:.4f} untrained" for step, value in zip(self.steps, self.values, strict=True) if not step]
        known = [pair for pair in trained if not math.isnan(pair[0])]
        if known:
            value, step = known[metric_of(self.key).best([value for value, _ in known])]
            words += [f"best {value:.4f} at step {step}", f"last {self.values[-1]:.4f}"]
        share = f", {self.seconds / run_seconds:.1%} of the run" if run_seconds > 0 else ""
        return [
            f"{self.key} of {self.online.settings.task}: {', '.join(words)}",
            f"online probe cost: {len(self.steps)} probes, {self.seconds:.1f} s{share}",
        ]


def _kept(batch: Any) -> Batch:
    """What a probe needs of a batch."""
    return {"id": list(batch["id"]), "image": batch["image"], "label": batch["label"]}
