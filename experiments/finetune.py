"""`ssl-med finetune`: one task from pretrained or random weights, tested once on the best validation weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from datamodules.core.base import MedicalData
from experiments.compose import SCRATCH, RunConfig, compose_finetune
from experiments.errors import error_analysis, interval_of, picture_cases
from experiments.session import Session, ledger_of, say
from ssl_med.checkpoint import Card, LoadReport, find_backbone, load_backbone
from ssl_med.config import to_plain
from ssl_med.evaluation.metrics import CONVENTIONS
from ssl_med.evaluation.tasks import task_class
from ssl_med.evaluation.transfer import Transfer
from ssl_med.ledger import Leakage, compare
from ssl_med.networks.backbone import Backbone, Decoder, build_backbone, build_decoder, resolve
from ssl_med.networks.init import init_weights
from ssl_med.reports.records import write_cases
from ssl_med.spec import SslMedError


def build_network(config: RunConfig) -> tuple[Backbone, Decoder | None, Card | None, LoadReport | None]:
    """Encoder and, for segmentation, decoder: from the init file, or at the configured initialisation."""
    spec, with_decoder = config.spec, task_class(config.spec).needs_decoder
    if config.general.init == SCRATCH:
        backbone = build_backbone(config.backbone, spatial_dims=spec.spatial_dims, in_channels=spec.in_channels)
        init_weights(backbone, config.backbone.init)
        decoder = build_decoder(config.backbone, backbone) if with_decoder else None
        if decoder is not None:
            init_weights(decoder, config.backbone.init)
        return backbone, decoder, None, None
    path = find_backbone(config.general.init)
    backbone, decoder, card, report = load_backbone(
        path,
        in_channels=spec.in_channels,
        adapt_channels=config.transfer.adapt_channels,
        with_decoder=with_decoder,
    )
    if backbone.spatial_dims != spec.spatial_dims:
        raise SslMedError(
            f"{path}: is a {backbone.spatial_dims}D network, task '{config.name}' is {spec.spatial_dims}D"
        )
    resolve(card.backbone_config(), spec)  # refuses a patch size that the loaded network cannot take
    return backbone, decoder, card, report


def finetune(words: Sequence[str]) -> Path:
    """Runs or continues a fine-tuning and tests it; returns the run folder."""
    config = compose_finetune(words)
    spec = config.spec
    pl.seed_everything(config.general.seed, verbose=False)
    backbone, decoder, card, report = build_network(config)
    module = Transfer(
        spec=spec,
        backbone=backbone,
        decoder=decoder,
        task=config.task,
        optim=config.optim,
        init=config.backbone.init,
        batch_size=config.trainer.batch_size * config.trainer.accumulate,
        seed=config.general.seed,
    )
    data = config.data_class(
        config.data,
        labelled=True,
        batch_size=config.trainer.batch_size,
        num_workers=config.trainer.num_workers,
        seed=config.general.seed,
        label_fraction=config.labels.fraction,
    )
    data.setup("fit")
    ledger = ledger_of(data, files_of=("val", "test"))
    leakage = compare(card.ledger(), ledger, allow=config.data.allow_overlap) if card is not None else None
    session = Session.open(config)
    if session is None:
        say(f"finished already: {config.folder()}")
        return config.folder()
    with session:
        session.record_subjects(ledger)
        say(f"finetuning {config.name} from {config.general.init} -> {session.folder}")
        notes = list(data.describe().get("notes", []))
        if card is not None:
            say(f"init: {report}")
            notes += _differences(card, config)
        if leakage is not None and leakage.status != "none":
            notes.append(str(leakage))
        for note in notes:
            say(f"note: {note}")
        trainer = session.trainer(validate="val" in data.subjects())
        complete = session.fit(trainer, module, data)
        steps = trainer.global_step
        weights = session.best_weights(module) if complete else "last"
        if complete:
            trainer.test(module, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            _finish(
                session,
                trainer,
                module,
                data,
                card,
                report,
                leakage,
                steps=steps,
                weights=weights,
                notes=notes,
                done=complete,
            )
    return session.folder


def _differences(card: Card, config: RunConfig) -> list[str]:
    """What the network was not pretrained for; a user should know, and may have chosen it."""
    was, now = card.data_spec(), config.spec
    notes = []
    for name in ("intensity", "spacing_mm", "orientation"):
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            shown = [asdict(x) if name == "intensity" else x for x in (before, after)]
            notes.append(f"{name} differs: pretrained on {shown[0]}, task has {shown[1]}")
    return notes


def _finish(
    session: Session,
    trainer: pl.Trainer,
    module: Transfer,
    data: MedicalData,
    card: Card | None,
    report: LoadReport | None,
    leakage: Leakage | None,
    *,
    steps: int,
    weights: str,
    notes: list[str],
    done: bool,
) -> None:
    config, described = session.config, data.describe()
    errors: dict[str, Any] = {}
    if done:
        write_cases(session.folder, module.test_rows)
        errors = {
            "interval": interval_of(module),
            "errors": error_analysis(session.folder, module),
            "pictures": picture_cases(session.folder, module, data, trainer, config.task),
        }
    kind = "scratch" if card is None else ("run" if Path(config.general.init).is_dir() else "file")
    backbone = card.backbone if card is not None else to_plain(config.backbone)
    session.summarize(
        status="done" if done else "interrupted",
        method=card.method if card is not None else SCRATCH,
        task=config.name,
        init={
            "kind": kind,
            "path": config.general.init,
            "method": card.method if card is not None else None,
            "card": card.summary() if card is not None else None,
            "report": str(report) if report is not None else None,
        },
        labels={"fraction": config.labels.fraction, **described["labels"]},
        subjects=described["subjects"],
        leakage=asdict(leakage) if leakage is not None else None,
        backbone=backbone,
        steps=steps,
        seconds=session.seconds(),
        weights=weights,
        metric=module.task.metric,
        metrics=module.test_metrics,
        n_test=len(module.test_rows),
        conventions={name: text for name, text in CONVENTIONS.items() if f"test/{name}" in module.test_metrics},
        notes=notes,
        **errors,
    )
    if not done:
        say(f"interrupted at step {steps}; the same command goes on from there")
        return
    headline = module.test_metrics[f"test/{module.task.metric}"]
    interval = errors["interval"]
    between = "" if interval["reason"] else f" [{interval['low']:.4f}, {interval['high']:.4f}]"
    who = f"{len(module.test_rows)} cases ({interval['subjects']} {interval['unit']}s)"
    say(f"done: {steps} steps, {session.seconds():.0f} s, tested weights: {weights}")
    say(f"test {module.task.metric} {headline:.4f}{between} on {who} -> {session.folder}")
