"""`ssl-med probe`: ask what a frozen encoder knows: linear, nearest neighbours, few-shot, pretexts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from tqdm import tqdm

from datamodules.core.base import NO_VALIDATION, MedicalData
from experiments.config.defaults import write_phantoms
from experiments.config.kinds import ProbeRun
from experiments.config.protocols import probe_class
from experiments.config.run import compose_probe
from experiments.config.sections import SCRATCH
from experiments.config.showing import is_shown, show
from experiments.run.environment import say
from experiments.run.machine import frozen_device
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
from experiments.run.validation import check_choosing, one_sided
from ssl_med.config import keyed
from ssl_med.evaluation.features import (
    Features,
    cached,
    check_levels,
    extract,
    settings_key,
    weights_key,
)
from ssl_med.evaluation.metrics import conventions
from ssl_med.evaluation.protocols.core.contract import PARTS, Result, SamplesOf
from ssl_med.ledger import Leakage
from ssl_med.reports.escape import picture_stems
from ssl_med.reports.figures.pictures import save_overlay
from ssl_med.reports.run_folder import FIGURES
from ssl_med.reports.writing import write_cases
from ssl_med.spec import Batch

USAGE = "ssl-med probe task=NAME|data=NAME protocol=NAME [init=RUN|FILE|scratch] [data.root=DIR] [config=FILE] [key=value ...]"
EXAMPLES = (
    "ssl-med probe task=nodule2d protocol=linear init=RUN data.root=DIR",
    "ssl-med probe data=chest14 protocol=pretext_rotation init=RUN data.root=DIR",
)
NAMES = ("task", "data", "protocol", "trainer", "backbone")
REQUIRED = ("protocol",)
SETTINGS = {
    "": "experiments.config.sections:StartConfig",
    "probe": "{protocol}",
    "task": "ssl_med.evaluation.tasks:TaskConfig",
    "data": "datamodules.{data}:Config",
    "labels": "experiments.config.sections:LabelsConfig",
    "transfer": "ssl_med.evaluation.protocols.finetune:InitConfig",
    "backbone": "ssl_med.networks.backbones.{backbone}:Config",
    "trainer": "experiments.config.sections:LoadingConfig",
    "tracking": "experiments.config.sections:TrackingConfig",
}
OPTIONS = {"--show": "print all settings and stop; --show=sources: and the file or override that set each"}
DEFAULTS = ("root", "phantoms", "trainer")

DRAWS = 100  # of those who choose, until both classes are among them and among the rest
HELD = 0.2  # share of the training subjects that chooses, where there is no validation part (Anton et al. 2022)


def probe(overrides: Sequence[str]) -> Path:
    """Runs a probe; returns the run folder."""
    start = time.perf_counter()
    config = compose_probe(overrides)
    prepare_process(config.trainer, config.precision)
    write_phantoms(config.data.name, config.data.root)
    pl.seed_everything(config.general.seed, verbose=False)
    loaded = build_network(config, with_decoder=False)
    data = config.data_class(
        config.data,
        labelled=config.labelled,
        batch_size=config.trainer.batch_size,
        num_workers=config.trainer.num_workers,
        seed=config.general.seed,
        label_fraction=config.labels.fraction,
        label_shots=config.labels.shots,
        test=True,
    )
    data.setup()
    ledger, leakage = check_leak(loaded, data, allow=config.data.allow_overlap)
    run = _Frozen(config, loaded, data, config.folder())
    session = Session.open(config, method=loaded.method)
    if session is None:
        say(f"finished already: {config.folder()}")
        return config.folder()
    with session:
        session.open_loggers()
        session.record_subjects(ledger)
        say(f"probing {config.name} ({config.protocol}) from {config.general.init} -> {session.folder}")
        notes = [note for note in notes_of(config, loaded, data, ledger, leakage) if note != NO_VALIDATION]
        if loaded.card is None and loaded.config.norm == "batch":
            notes.append("random weights: batch statistics are those of the initialisation, mean 0 and variance 1")
        tell(loaded, notes, say)
        result = run.result()
        for note in result.notes:
            say(f"note: {note}")
        _finish(
            session, run, loaded, leakage, result, notes=[*notes, *result.notes], seconds=time.perf_counter() - start
        )
    return session.folder


class _Frozen:
    """The encoder and the data of a run, as `Source` of ssl_med.evaluation.protocols says."""

    def __init__(self, config: ProbeRun, loaded: LoadedNetwork, data: MedicalData, folder: Path) -> None:
        self.config, self.data = config, data
        self.kind = probe_class(config.protocol, config.spec, config.name)
        self.spec, self.task, self.seed = config.spec, config.task, config.general.seed
        self.whole = config.labels.whole
        self.backbone = loaded.backbone.eval().requires_grad_(False)
        self.device = frozen_device(config.trainer.accelerator)
        self.backbone.to(self.device)
        levels = config.probe.levels or tuple(range(len(self.backbone.channels)))
        self.levels = check_levels(self.backbone, levels)
        self.folder = Path(config.probe.cache) if config.probe.cache else folder / "features"
        self.weights = weights_key(self.backbone)
        self.cases = {part: list(cases) for part, cases in data.parts.items()}
        self.notes: list[str] = []
        self.held = self.single = False
        self.read = 0
        if not self.cases["val"] and "val" in self.kind.parts:
            self._hold()
        if config.labelled and "val" in self.kind.parts and not self.single:
            check_choosing(data, self.cases["val"], config.protocol)

    def result(self) -> Result:
        """Runs the protocol."""
        result = self.kind(self.config.probe).result(self)
        result.notes = [*self.notes, *result.notes]
        return result

    def _hold(self) -> None:
        """Without a validation part, some training subjects choose; they are among those of the final fit.

        Of a single subject some samples do, as the paper's code has it for all.
        """
        subjects = sorted({case.subject for case in self.cases["train"]})
        count = max(1, round(HELD * len(subjects)))
        if len(subjects) == 1:
            self.held = self.single = True
            self.cases["val"] = self.cases["train"]
            self.notes.append(f"no validation part and one training subject: {HELD:.0%} of its samples choose")
            return
        train = self.cases["train"]
        rng = np.random.default_rng([self.config.general.seed, 0x4E1D])
        for _ in range(DRAWS):  # those of one class could choose nothing, and the rest would not learn the other
            order = rng.permutation(len(subjects))
            chosen = {subjects[k] for k in order[:count]}
            sides = ([c for c in train if (c.subject in chosen) == inside] for inside in (True, False))
            if not self.config.labelled or not any(one_sided(self.data, side) for side in sides):
                break
        self.cases["train"] = [case for case in train if case.subject not in chosen]
        self.cases["val"] = [case for case in train if case.subject in chosen]
        self.held = True
        self.notes.append(f"no validation part: {count} of the {len(subjects)} training subjects choose")

    def features(
        self, samples_of: SamplesOf, *, kind: str, parts: Sequence[str] = PARTS, crops: bool = False, **about: Any
    ) -> list[Features]:
        """Features of each part, from their files where they are there."""
        settings = keyed(self.config.data, "sample")
        about = {"kind": kind, **about}
        found = []
        for part in parts:
            like = "train" if self.held and part == "val" else part
            content = self.data.content_digest(self.cases[part])
            seed = self.config.general.seed
            key = settings_key(
                self.weights, self.levels, self.config.trainer.precision, about, settings, like, content, seed
            )
            loader = self.data.still_loader(self.cases[part], part=like, crops=crops)

            def make(loader: Any = loader, part: str = part) -> Features:
                shown = tqdm(loader, desc=f"features of {part}", disable=not self.config.trainer.progress, leave=False)
                precision = self.config.trainer.precision
                return extract(self.backbone, shown, samples_of, device=self.device, precision=precision)

            features, known = cached(self.folder / f"{part}-{key}.safetensors", make)
            self.read += known
            found.append(features.to(self.device))
        if self.single and "val" in parts:
            found[0], found[1] = self._divided(found[0])
        return found

    def _divided(self, features: Features) -> tuple[Features, Features]:
        """Samples that fit and samples that choose."""
        count = max(1, round(HELD * len(features)))
        order = np.random.default_rng([self.config.general.seed, 0x4E1D]).permutation(len(features))
        return features.rows(np.sort(order[count:])), features.rows(np.sort(order[:count]))

    def subjects(self) -> list[int]:
        """Number of the subject of each test sample."""
        samples: Any = self.data.still_loader(self.cases["test"], part="test").dataset
        return [samples.subject[int(case)] for case in samples.case]

    def batches(self, part: str) -> Iterator[Batch]:
        """Batches of evaluation, on the device."""
        loader = self.data.still_loader(self.cases[part], part=part)
        for batch in tqdm(loader, desc=f"prediction of {part}", disable=not self.config.trainer.progress, leave=False):
            there: Any = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            yield there


def _finish(
    session: Session[ProbeRun],
    run: _Frozen,
    loaded: LoadedNetwork,
    leakage: Leakage | None,
    result: Result,
    *,
    notes: list[str],
    seconds: float,
) -> None:
    config = session.config
    described = run.data.describe()
    metrics = {f"test/{key}": value for key, value in result.metrics.items()}
    write_cases(session.folder, result.rows)
    session.track_result(metrics)
    told = []
    stems = picture_stems(result.pictures)
    for case, arrays in result.pictures.items():
        path = session.folder / FIGURES / f"{stems[case]}.png"
        image, truth, prediction = arrays["image"], arrays["truth"], arrays["prediction"]
        names = config.spec.class_names
        save_overlay(path, image=image, truth=truth, prediction=prediction, class_names=names, case=case)
        told.append({"case": case, "why": "first cases", "file": f"{FIGURES}/{path.name}"})
    session.track_pictures(told)
    session.summarize(
        status="done",
        method=loaded.method,
        task=config.name,
        protocol=config.protocol,
        init=loaded.summary(config.general.init),
        labels=labels_summary(config, described) if config.labelled else None,
        subjects=described["subjects"],
        leakage=asdict(leakage) if leakage is not None else None,
        backbone=backbone_summary(loaded),
        steps=0,
        seconds=round(seconds, 1),
        weights="frozen" if loaded.card is not None else f"frozen, {SCRATCH}",
        features={"levels": list(run.levels), "weights": run.weights, "parts_from_cache": run.read},
        chosen=result.chosen,
        metric=result.metric,
        metrics=metrics,
        n_test=len(result.rows),
        conventions=conventions(metrics),
        notes=notes,
    )
    for key, value in result.chosen.items():
        say(f"chosen {key} {value:.4g}")
    beside = {k: v for k, v in result.metrics.items() if k in ("chance", "accuracy_ci95")}
    words = "".join(f", {key} {value:.4f}" for key, value in beside.items())
    headline = metrics[f"test/{result.metric}"]
    say(
        f"test {result.metric} {headline:.4f}{words} on {len(result.rows)} cases in {seconds:.0f} s -> {session.folder}"
    )


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if is_shown(arguments):
        show(arguments, compose_probe)
    else:
        probe(arguments)
