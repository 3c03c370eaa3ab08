"""`ssl-med external`: test a fine-tuning on another data set, without any training."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl

from datamodules.core.base import MedicalData
from experiments.config.defaults import write_phantoms
from experiments.config.external import ExternalRun, compose_external
from experiments.config.showing import is_shown, show
from experiments.run.environment import quiet, say
from experiments.run.error_analysis import RESAMPLES, error_analysis, interval_of, picture_cases
from experiments.run.session import Session, ledger_of, prepare_process
from ssl_med.evaluation.analysis import headline
from ssl_med.evaluation.bootstrap import Interval, bootstrap, difference_of
from ssl_med.evaluation.external import External
from ssl_med.evaluation.metrics import conventions
from ssl_med.evaluation.tasks import Row
from ssl_med.evaluation.transfer import Transfer
from ssl_med.ledger import Leakage, Ledger, compare
from ssl_med.reports.run_folder import CASES, IN_DOMAIN
from ssl_med.reports.writing import write_cases
from ssl_med.spec import SslMedError, first_line

USAGE = "ssl-med external RUN task=NAME map=NAME|same [map.CLASS=CLASS ...] [part=all|test] [data.root=DIR] [--show]"
EXAMPLES = (
    "ssl-med external runs/finetune/shenzhen-scratch-1a2b3c4d task=montgomery data.root=DIR map=tuberculosis",
    "ssl-med external RUN task=chexpert data.root=DIR 'map.Effusion=Pleural Effusion' uncertain=ignore part=test",
)
NAMES = ("task", "data", "map", "trainer")
REQUIRED = ("task",)
SETTINGS = {
    "": "experiments.config.sections:GeneralConfig out resume + experiments.config.external:ExternalConfig part uncertain",
    "map": "",
    "task": "ssl_med.evaluation.tasks:TaskConfig",
    "data": "datamodules.{data}:Config",
    "trainer": "experiments.config.sections:LoadingConfig",
}
OPTIONS = {"--show": "print all settings and stop; --show=sources: and the file or override that set each"}
DEFAULTS = ("root", "phantoms", "trainer")


def external(overrides: Sequence[str]) -> Path:
    """Tests a finished fine-tuning on another data set; returns the run folder."""
    start = time.perf_counter()
    config = compose_external(overrides)
    trained = config.trained
    prepare_process(config.trainer, config.precision)
    write_phantoms(config.data.name, config.data.root)
    pl.seed_everything(config.general.seed, verbose=False)
    module = trained.module(config.task)
    inside = _in_domain(config)
    data = config.data_class(
        config.data,
        labelled=True,
        batch_size=config.trainer.batch_size,
        num_workers=config.trainer.num_workers,
        seed=config.general.seed,
        only_test=config.external.part,
    )
    data.setup("test")
    notes = [*config.notes, *data.describe()["notes"], *_left_out(config, data)]
    ledger = ledger_of(data)
    leakage = _leaks(config, ledger)
    notes += [str(found) for found in leakage if found is not None and found.status != "none"]
    notes += _same_tested(config, ledger)
    if trained.run.leakage.get("status") == "allowed":
        notes.append("in domain: the pretraining saw subjects or files of the test part (data.allow_overlap=true)")
    session = Session.open(config, method=trained.run.method)
    if session is None:
        say(f"finished already: {config.folder()}")
        return config.folder()
    session.record_subjects(ledger)
    say(f"testing {trained.folder} ({trained.run.task}) on {config.name} -> {session.folder}")
    for note in notes:
        say(f"note: {note}")
    module.task = External(module.task, config.mapped, module.backbone, module.decoder)
    module.spec = config.mapped.spec
    trainer = _trainer(config)
    trainer.test(module, datamodule=data, verbose=False)
    module.test_rows = External.counted(module.test_rows)
    _finish(session, module, data, trainer, inside, leakage, notes=notes, start=start)
    return session.folder


def _trainer(config: ExternalRun) -> pl.Trainer:
    """One device, no logger: there is nothing to follow."""
    c = config.trainer
    quiet()
    return pl.Trainer(
        accelerator=c.accelerator,
        devices=1,
        precision=config.precision.of_trainer,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=c.progress,
        enable_model_summary=False,
    )


def _in_domain(config: ExternalRun) -> list[Row]:
    """Test cases of the trained run, scored by the mapped classes.

    Raises:
        SslMedError: it left none, or none of a mapped class.
    """
    trained, mapped = config.trained, config.mapped
    cases = trained.run.cases
    if not cases:
        raise SslMedError(f"{trained.folder}: has no test_cases.csv; fine-tune again, in another folder")
    try:
        rows = mapped.rows(cases, trained.spec)
        if any(math.isnan(float(row["subject"])) for row in rows):
            raise ValueError("a case without a subject")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SslMedError(
            f"{trained.folder / CASES}: does not hold the answers of this run ({first_line(error)}); fine-tune again, in "
            "another folder"
        ) from None
    if not rows:
        raise SslMedError(f"{trained.folder}: no test case is of a mapped class ({', '.join(mapped.spec.class_names)})")
    return rows


def _left_out(config: ExternalRun, data: MedicalData) -> list[str]:
    """Cases of a class that is not mapped.

    Raises:
        SslMedError: nobody has a mapped class.
    """
    mapped = config.mapped
    if mapped.spec.target != "class":
        return []
    counts = data.positives(data.parts["test"])
    names = zip(mapped.spec.class_names, mapped.sources, strict=True)
    absent = [name for name, of in names if counts and not any(counts[mapped.other.class_names[k]] for k in of)]
    if len(absent) == len(mapped.spec.class_names):
        raise SslMedError(f"data.root={data.config.root}: has no case of a mapped class ({', '.join(absent)})")
    notes = [f"no external case has {', '.join(absent)}"] if absent else []
    found = [f"{counts[name]} {name}" for name in mapped.external if counts.get(name)]
    return [*notes, f"left out, for their class is not mapped: {', '.join(found)}"] if found else notes


def _leaks(config: ExternalRun, ledger: Ledger) -> tuple[Leakage, Leakage | None]:
    """Whether the fine-tuning, and the pretraining before it, saw whom this run tests on; None: there was no pretraining.

    Raises:
        SslMedError: one did, and data.allow_overlap is off.
    """
    tuned, pretrained = config.trained.ledgers()
    allow = config.data.allow_overlap
    training = compare(tuned, ledger, allow=allow, by="training")
    scratch = not config.trained.run.card
    return training, None if scratch else compare(pretrained, ledger, allow=allow)


def _same_tested(config: ExternalRun, ledger: Ledger) -> list[str]:
    """Whether both tests share cases: neither is spoiled, but they are not two samples."""
    tuned, _ = config.trained.ledgers()
    if tuned.salt != ledger.salt or "test" not in tuned.parts:
        return []
    both = tuned.parts["test"] & ledger.parts["test"]
    count = max(len(both.subjects), len(both.volumes))
    return [f"{count} external cases are of the in-domain test too"] if count else []


def _finish(
    session: Session[ExternalRun],
    module: Transfer,
    data: MedicalData,
    trainer: pl.Trainer,
    inside: list[Row],
    leakage: tuple[Leakage, Leakage | None],
    *,
    notes: list[str],
    start: float,
) -> None:
    config = session.config
    trained, mapped = config.trained, config.mapped
    write_cases(session.folder, module.test_rows)
    write_cases(session.folder, inside, name=IN_DOMAIN)
    metric = module.task.metric
    before = {f"in_domain/{key}": value for key, value in module.task.summarize(inside).items()}
    interval = interval_of(module)
    outside = Interval(**{key: value for key, value in interval.items() if key != "unit"})
    inner = bootstrap(
        headline(mapped.spec.target, mapped.spec.class_names, inside),
        [row["subject"] for row in inside],
        resamples=RESAMPLES,
    )
    drop = difference_of(inner, outside)
    seconds = time.perf_counter() - start
    run = trained.run
    session.summarize(
        status="done",
        method=run.method,
        task=config.name,
        trained_on={"run": run.name, "hash": run.summary.get("hash"), "task": run.task, "data": run.data},
        tested_on={"task": config.name, "data": config.data.name, "part": config.external.part},
        map={
            "name": config.external.map,
            "classes": config.external.classes,
            "uncertain": config.external.uncertain,
            "unmapped_trained": list(mapped.trained),
            "unmapped_external": list(mapped.external),
        },
        init=run.summary.get("init"),
        transfer=run.summary.get("transfer"),
        labels=run.summary.get("labels"),
        subjects=data.describe()["subjects"],
        leakage={"training": asdict(leakage[0]), "pretraining": asdict(leakage[1]) if leakage[1] is not None else None},
        steps=0,
        seconds=round(seconds, 1),
        weights=run.summary.get("weights"),
        metric=metric,
        metrics={**module.test_metrics, **before},
        n_test=len(module.test_rows),
        n_in_domain=len(inside),
        interval=interval,
        in_domain={"interval": {**asdict(inner), "unit": trained.spec.group_key}},
        drop=asdict(drop),
        errors=error_analysis(session.folder, module),
        pictures=picture_cases(session.folder, module, data, trainer, config.task),
        conventions=conventions(module.test_metrics),
        notes=notes,
    )
    say(f"in domain:     {metric} {_shown(inner)} on {len(inside)} cases ({inner.subjects} subjects) of {run.task}")
    who = f"{len(module.test_rows)} cases ({outside.subjects} subjects) of {config.name}"
    say(f"out of domain: {metric} {_shown(outside)} on {who}")
    say(f"drop:          {_shown(drop)} in {seconds:.0f} s -> {session.folder}")


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:.4f}" + ("" if interval.reason else f" [{interval.low:.4f}, {interval.high:.4f}]")


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if is_shown(arguments):
        show(arguments, compose_external)
    else:
        external(arguments)
