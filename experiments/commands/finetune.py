"""`ssl-med finetune`: train a task on labels from pretrained or random weights, and test the best weights once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from datamodules.core.base import MedicalData
from datamodules.core.splits import PARTS
from experiments.config.defaults import write_phantoms
from experiments.config.kinds import FinetuneRun
from experiments.config.run import compose_finetune
from experiments.config.sections import TrainerConfig
from experiments.config.showing import is_shown, show
from experiments.config.transform_lists import augment_of
from experiments.run.environment import say
from experiments.run.error_analysis import error_analysis, interval_of, picture_cases
from experiments.run.pretrained import (
    LoadedNetwork,
    backbone_summary,
    build_network,
    check_leak,
    labels_summary,
    notes_of,
    tell,
)
from experiments.run.session import Session, prepare_process
from experiments.run.validation import check_monitor_is_defined
from ssl_med.evaluation.components import Verdict
from ssl_med.evaluation.metrics import conventions
from ssl_med.evaluation.protocols.finetune import describe
from ssl_med.evaluation.tasks import PooledTask, task_class
from ssl_med.evaluation.transfer import Transfer
from ssl_med.ledger import Leakage
from ssl_med.networks.backbone import check_statistics, repeated
from ssl_med.reports.writing import write_cases
from ssl_med.spec import SslMedError

USAGE = "ssl-med finetune task=NAME [init=RUN|FILE|scratch] [data.root=DIR] [config=FILE] [key=value ...] [--show]"
EXAMPLES = (
    "ssl-med finetune task=lits init=runs/pretrain/pcrl-luna-1a2b3c4d data.root=/data/LiTS labels.fraction=0.1",
    "ssl-med finetune task=nodule2d data.root=DIR trainer=cpu labels.shots=5 transfer.protocol=frozen seed=1",
)
NAMES = ("task", "data", "recipe", "trainer", "backbone")
REQUIRED = ("task",)
SETTINGS = {
    "": "experiments.config.sections:TunedConfig",
    "task": "ssl_med.evaluation.tasks:TaskConfig",
    "data": "datamodules.{data}:Config",
    "labels": "experiments.config.sections:BudgetConfig",
    "transfer": "ssl_med.evaluation.protocols.finetune:TransferConfig",
    "backbone": "ssl_med.networks.backbones.{backbone}:Config",
    "optim": "ssl_med.optim:OptimConfig",
    "trainer": "experiments.config.sections:TrainerConfig",
    "tracking": "experiments.config.sections:TrackingConfig",
}
OPTIONS = {"--show": "print all settings and stop; --show=sources: and the file or override that set each"}
DEFAULTS = ("root", "phantoms", "trainer")


def matched_schedule(config: FinetuneRun, data: MedicalData) -> tuple[TrainerConfig, int]:
    """Trainer settings after budget matching, and the batches of a scheduled epoch (0: those of the loader).

    labels.match=steps: an epoch is one of all labels, whatever the budget.

    Raises:
        SslMedError: labels.match=steps without trainer.max_epochs.
    """
    trainer, labels = config.trainer, config.labels
    if labels.match == "epochs":
        return trainer, 0
    if trainer.max_epochs < 0:
        raise SslMedError(
            f"labels.match=steps counts trainer.max_epochs, which is not set; trainer.max_steps={trainer.max_steps} matches "
            "steps already, leave labels.match out"
        )
    batches = data.full_epoch()
    steps = trainer.max_epochs * -(-batches // trainer.accumulate)
    steps = min(steps, trainer.max_steps) if trainer.max_steps >= 0 else steps
    rhythm = trainer.val_every_steps or batches
    return replace(trainer, max_epochs=-1, max_steps=steps, val_every_steps=rhythm), batches


def finetune(overrides: Sequence[str]) -> Path:
    """Runs or continues a fine-tuning and tests it; returns the run folder."""
    config = compose_finetune(overrides)
    prepare_process(config.trainer, config.precision)
    write_phantoms(config.data.name, config.data.root)
    spec, transfer = config.spec, config.transfer
    pl.seed_everything(config.general.seed, verbose=False)
    loaded = build_network(config, with_decoder=task_class(spec).needs_decoder)
    data = config.data_class(
        config.data,
        labelled=True,
        batch_size=config.trainer.batch_size,
        num_workers=config.trainer.num_workers,
        seed=config.general.seed,
        label_fraction=config.labels.fraction,
        label_shots=config.labels.shots,
        augment=augment_of(config.task, spec, config.data.allow),
    )
    data.setup("fit")
    check_monitor_is_defined(data, config.trainer.monitor)
    if config.task.largest_component and not data.parts["val"]:
        raise SslMedError(
            "task.largest_component is decided by validation, and the split has no such part; set it to false"
        )
    length, epoch_batches = matched_schedule(config, data)
    module = Transfer(
        spec=spec,
        backbone=loaded.backbone,
        decoder=loaded.decoder,
        task=config.task,
        optim=config.optim,
        init=config.backbone.init,
        batch_size=config.trainer.batch_size * config.trainer.accumulate,
        seed=config.general.seed,
        transfer=transfer,
        epoch_batches=epoch_batches,
    )
    if isinstance(module.task, PooledTask) and config.task.class_weights == "balanced":
        module.task.balance(*map(torch.tensor, data.drawn(data.parts["train"])))
    size = config.trainer.batch_size
    check_statistics(loaded.backbone, spec.patch_size, norm=loaded.config.norm, batch_size=size)
    # an external test compares itself with all who took part here
    ledger, leakage = check_leak(loaded, data, allow=config.data.allow_overlap, files_of=PARTS)
    session = Session.open(config, method=loaded.method)
    if session is None:
        say(f"finished already: {config.folder()}")
        return config.folder()
    with session:
        session.record_subjects(ledger, loaded.card.ledger() if loaded.card is not None else None)
        say(f"finetuning {config.name} from {config.general.init} -> {session.folder}")
        notes = [*notes_of(config, loaded, data, ledger, leakage), *repeated(size, data.count("train"))]
        tell(loaded, notes, say)
        described = describe(transfer, loaded.backbone, norm=loaded.config.norm)
        say("transfer: " + ", ".join(f"{key} {value}" for key, value in described.items()))
        trainer = session.trainer(length, overrides, validate="val" in data.subjects())
        session.fit(trainer, module, data)
        steps = trainer.global_step
        module.settle()
        weights = session.best_weights(module)
        pieces = None
        if config.task.largest_component:
            module.to(trainer.strategy.root_device)
            with trainer.precision_plugin.forward_context():
                pieces = module.judge_pieces(data.val_dataloader())
        trainer.test(module, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            _finish(
                session,
                trainer,
                module,
                data,
                loaded,
                leakage,
                transfer=described,
                steps=steps,
                weights=weights,
                notes=notes,
                pieces=pieces,
            )
    return session.folder


def _finish(
    session: Session[FinetuneRun],
    trainer: pl.Trainer,
    module: Transfer,
    data: MedicalData,
    loaded: LoadedNetwork,
    leakage: Leakage | None,
    *,
    transfer: dict[str, Any],
    steps: int,
    weights: str,
    notes: list[str],
    pieces: Verdict | None,
) -> None:
    config, described = session.config, data.describe()
    labels = config.labels
    by_steps = labels.match == "steps" or config.trainer.max_epochs < 0
    write_cases(session.folder, module.test_rows)
    errors: dict[str, Any] = {
        "interval": interval_of(module),
        "errors": error_analysis(session.folder, module),
        "pictures": picture_cases(session.folder, module, data, trainer, config.task),
    }
    session.track_pictures(errors["pictures"])
    session.summarize(
        status="done",
        method=loaded.method,
        task=config.name,
        recipe=config.general.recipe,
        pieces=pieces,
        init=loaded.summary(config.general.init),
        transfer=transfer,
        labels={**labels_summary(config, described), "matched": "steps" if by_steps else "epochs"},
        subjects=described["subjects"],
        leakage=asdict(leakage) if leakage is not None else None,
        backbone=backbone_summary(loaded),
        network={
            "spec": config.spec.to_dict(),
            "skips": loaded.decoder.skips if loaded.decoder is not None else None,
        },
        steps=steps,
        seconds=session.seconds(),
        weights=weights,
        metric=module.task.metric,
        metrics=module.test_metrics,
        n_test=len(module.test_rows),
        conventions=conventions(module.test_metrics),
        notes=notes,
        **errors,
    )
    headline = module.test_metrics[f"test/{module.task.metric}"]
    interval = errors["interval"]
    between = "" if interval["reason"] else f" [{interval['low']:.4f}, {interval['high']:.4f}]"
    who = f"{len(module.test_rows)} cases ({interval['subjects']} {interval['unit']}s)"
    say(f"done: {steps} steps, {session.seconds():.0f} s, tested weights: {weights}")
    say(f"test {module.task.metric} {headline:.4f}{between} on {who} -> {session.folder}")


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if is_shown(arguments):
        show(arguments, compose_finetune)
    else:
        finetune(arguments)
