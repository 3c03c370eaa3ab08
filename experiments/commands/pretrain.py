"""`ssl-med pretrain`: pretrain a backbone by one method on one data set, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from datamodules.core.base import MedicalData
from experiments.config.defaults import write_phantoms
from experiments.config.from_card import taken_from_card
from experiments.config.kinds import PretrainRun
from experiments.config.run import compose_pretrain
from experiments.config.showing import is_shown, show
from experiments.run.environment import git_revision, is_first_process, say, versions
from experiments.run.online_probe import OnlineProbe
from experiments.run.restoring import restoration_line, show_restorations
from experiments.run.session import Session, ledger_of, prepare_process
from experiments.run.started import Started
from ssl_med.checkpoint import Card, save_backbone
from ssl_med.config import to_plain
from ssl_med.contract import InputContract
from ssl_med.ledger import Ledger
from ssl_med.methods.core.base import Method
from ssl_med.methods.core.start import Start
from ssl_med.reports.run_folder import BACKBONE

USAGE = (
    "ssl-med pretrain method=NAME [data=NAME] [init=RUN|FILE] [data.root=DIR] [config=FILE] [key=value ...] [--show]"
)
EXAMPLES = (
    "ssl-med pretrain method=pcrl data=luna data.root=/data/LUNA16 trainer.max_steps=500",
    "ssl-med pretrain method=moco data=chest14 data.root=DIR init=resnet18.pth family=torchvision transfer.adapt_channels=true",
)
NAMES = ("method", "data", "trainer", "backbone")
REQUIRED = ("method",)
SETTINGS = {
    "": "experiments.config.sections:PretrainStartConfig seed out resume init family",
    "method": "ssl_med.methods.{method}:Config",
    "data": "datamodules.{data}:Config",
    "transfer": "ssl_med.evaluation.protocols.finetune:PretrainInitConfig",
    "backbone": "ssl_med.networks.backbones.{backbone}:Config",
    "optim": "ssl_med.optim:OptimConfig",
    "trainer": "experiments.config.sections:TrainerConfig",
    "tracking": "experiments.config.sections:TrackingConfig",
    "online": "experiments.config.online:OnlineConfig",
    "online.data": "datamodules.{online}:Config",
}
OPTIONS = {"--show": "print all settings and stop; --show=sources: and the file or override that set each"}
DEFAULTS = ("data", "root", "phantoms", "trainer")


def build_method(config: PretrainRun, start: Start | None = None) -> Method:
    """The method of a pretraining config, at its initial weights or at those that it starts from."""
    pl.seed_everything(config.general.seed, verbose=False)
    method = config.method_class(
        config.method,
        spec=config.spec,
        backbone=config.backbone,
        optim=config.optim,
        batch_size=config.trainer.batch_size * config.trainer.accumulate,
        seed=config.general.seed,
        start=start,
    )
    method.log_every = config.trainer.log_every
    return method


def pretrain(overrides: Sequence[str]) -> Path:
    """Runs or continues a pretraining; returns the run folder."""
    config = compose_pretrain(overrides)
    prepare_process(config.trainer, config.precision)
    write_phantoms(config.data.name, config.data.root)
    started = Started.of(config)
    method = build_method(config, started.start if started is not None else None)
    data = config.data_class(
        config.data,
        need=config.need,
        labelled=False,
        batch_size=config.trainer.batch_size,
        num_workers=config.trainer.num_workers,
        seed=config.general.seed,
    )
    data.setup("fit")
    samples = data.count("train")
    told = method.check_batch_size(config.trainer.batch_size, samples)
    method.prepare(samples)
    online = None
    if config.online is not None:
        workers = config.trainer.num_workers
        online = OnlineProbe(config.online, precision=config.trainer.precision, num_workers=workers)
    # who probes reads first: a damaged file is no run
    probed = online.read(method.backbone) if online is not None and is_first_process() else ""
    session = Session.open(config, method=config.name)
    if session is None:
        say(f"finished already: {config.folder()}")
        return config.folder()
    with session:
        ledger = ledger_of(data)
        notes = [*data.describe().get("notes", []), *told]
        if started is not None:
            notes += [*taken_from_card(config), *started.notes, f"taken from there: {method.begun}"]
            ledger, more = started.joined(ledger)
            notes += more
        if online is not None:
            ledger, more = _with_probed(ledger, online, config)
            notes += more
        session.record_subjects(ledger)
        say(f"pretraining {config.name} on {config.data.name} -> {session.folder}")
        if started is not None:
            say(f"init: {started.loaded.report}")
        for note in notes:
            say(f"note: {note}")
        if probed:
            say(probed)
        trainer = session.trainer(config.trainer, overrides, validate="val" in data.subjects(), online=online)
        session.fit(trainer, method, data)
        if trainer.is_global_zero:
            _finish(session, method, data, trainer, ledger, online, started, notes=notes)
    return session.folder


def _with_probed(ledger: Ledger, online: OnlineProbe, config: PretrainRun) -> tuple[Ledger, list[str]]:
    """The ledger with whom the online probe looks at, and what the reader of its numbers should know.

    They are a part of their own and not trained on, so that later runs may validate on them and never test.
    """
    probed = ledger_of(online.data).parts
    name = f"online probe of {online.online.settings.task}"
    notes = [
        f"{name}: {note}" for note in (*online.data.notes, *InputContract.of(config.spec).differences(online.spec))
    ]
    both = probed["val"] & ledger.parts["train"]
    if both:
        words = f"{len(both.subjects)} subjects and {len(both.volumes)} files of its validation part are pretrained on"
        notes.append(f"{name}: {words}, so its values are somewhat too good")
    return Ledger({**ledger.parts, "online": probed["train"] | probed["val"]}, ledger.salt), notes


def _finish(
    session: Session[PretrainRun],
    method: Method,
    data: MedicalData,
    trainer: pl.Trainer,
    ledger: Ledger,
    online: OnlineProbe | None,
    started: Started | None,
    *,
    notes: list[str],
) -> None:
    config = session.config
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    common = {"method": config.name, "steps": trainer.global_step, "seconds": session.seconds(), "notes": notes}
    if online is not None:
        common["online"] = online.summary(session.seconds())
    if started is not None:
        common["init"] = started.loaded.summary(config.general.init)
    weights = session.best_weights(method)
    card = Card(
        method=config.name,
        method_config=to_plain(config.method),
        backbone=to_plain(config.backbone),
        spec=config.spec.to_dict(),
        skips=method.decoder.skips if method.decoder is not None else None,
        steps=trainer.global_step,
        seed=config.general.seed,
        versions=versions(),
        git=git_revision(),
        **ledger.card_fields(),
        **(started.fields() if started is not None else {}),
    )
    save_backbone(session.folder / BACKBONE, backbone=method.backbone, decoder=method.decoder, card=card)
    shown = show_restorations(session, method, data)
    session.summarize(status="done", metrics=metrics, weights=weights, **common, **shown)
    say(f"done: {trainer.global_step} steps, {session.seconds():.0f} s, weights: {weights}")
    if line := restoration_line(shown):
        say(line)
    for line in online.lines(session.seconds()) if online is not None else ():
        say(line)
    say(f"backbone for finetune: init={session.folder}")


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if is_shown(arguments):
        show(arguments, compose_pretrain)
    else:
        pretrain(arguments)
