"""`ssl-med probe`: ask what a frozen encoder knows: linear, nearest neighbours, few-shot, pretexts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.core.base import NO_VALIDATION, MedicalData
from experiments.config.defaults import write_phantoms
from experiments.config.run import RunConfig, compose_probe
from experiments.config.sections import SCRATCH
from experiments.run.environment import say
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
from ssl_med.config import to_plain, to_yaml
from ssl_med.evaluation import dense, fewshot, pretext, probes
from ssl_med.evaluation.features import (
    Features,
    cached,
    check_levels,
    extract,
    pooled,
    settings_key,
    weights_key,
)
from ssl_med.evaluation.metrics import conventions
from ssl_med.evaluation.tasks import Row, Segmentation, task_class
from ssl_med.ledger import Leakage
from ssl_med.reports.figures.pictures import save_overlay
from ssl_med.reports.run_folder import FIGURES
from ssl_med.reports.writing import file_stem, write_cases
from ssl_med.rng import seeded_generator
from ssl_med.spec import Batch, DataSpec, SslMedError

USAGE = (
    "ssl-med probe task=NAME|data=NAME protocol=NAME [init=RUN|FILE|scratch] [data.root=DIR] [key=value ...] [--show]"
)
EXAMPLES = (
    "ssl-med probe task=nodule2d protocol=linear init=RUN data.root=DIR",
    "ssl-med probe data=chest14 protocol=pretext_rotation init=RUN data.root=DIR",
)
NAMES = ("task", "data", "protocol", "trainer")
REQUIRED = ("protocol",)
SETTINGS = {
    "": "experiments.config.sections:GeneralConfig",
    "probe": "{protocol}",
    "task": "ssl_med.evaluation.tasks:TaskConfig",
    "data": "datamodules.{data}:Config",
    "labels": "experiments.config.sections:LabelsConfig",
    "transfer": "ssl_med.evaluation.protocols:InitConfig",
    "backbone": "ssl_med.networks.backbones.{backbone}:Config",
    "trainer": "experiments.config.sections:TrainerConfig accelerator batch_size precision num_workers threads progress",
    "tracking": "experiments.config.sections:TrackingConfig",
}
OPTIONS = {"--show": "print all settings and stop"}
DEFAULTS = ("root", "phantoms", "trainer")

PICTURES = 4  # of a probe of voxels: the first test cases
HELD = 0.2  # share of the training subjects that chooses, where there is no validation part (Anton et al. 2022)
# settings of data that do not change what a case's sample is
_FREE = (
    "cache_gb", "allow_overlap", "quarantine", "quarantine_budget", "split", "split_file", "split_ratios", "split_seed",
    "test_is_val", "pretrain_share", "share_by", "store",
)  # fmt: skip

SamplesOf = Callable[[Batch], tuple[Sequence[str], Tensor, Tensor]]


@dataclass
class Result:
    """What a protocol found on the test part."""

    metric: str
    metrics: dict[str, float]
    rows: list[Row]
    chosen: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def probe(overrides: Sequence[str]) -> Path:
    """Runs a probe; returns the run folder."""
    start = time.perf_counter()
    config = compose_probe(overrides)
    prepare_process(config)
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
    run = _Probe(config, loaded, data, config.folder())
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


class _Probe:
    """One protocol on the parts of one data set."""

    def __init__(self, config: RunConfig, loaded: LoadedNetwork, data: MedicalData, folder: Path) -> None:
        self.config, self.data = config, data
        self.backbone = loaded.backbone.eval().requires_grad_(False)
        self.device = _device(config.trainer.accelerator)
        self.backbone.to(self.device)
        levels = config.probe.levels or tuple(range(len(self.backbone.channels)))
        self.levels = check_levels(self.backbone, levels)
        self.folder = Path(config.probe.cache) if config.probe.cache else folder / "features"
        self.weights = weights_key(self.backbone)
        self.cases = {part: list(cases) for part, cases in data.parts.items()}
        self.notes: list[str] = []
        self.held = self.single = False
        self.read = 0
        if not self.cases["val"] and config.protocol != "fewshot":
            self._hold()

    def result(self) -> Result:
        """Runs the protocol."""
        protocol, spec = self.config.protocol, self.config.spec
        if protocol == "fewshot":
            return self._fewshot()
        if spec.target == "mask":
            return self._dense()
        if protocol.startswith("pretext"):
            return self._pretext()
        features = self._features(self._pooled)
        if protocol == "knn":
            return self._scored(spec, features[2], probes.knn(self.config.probe, spec, *features))
        return self._scored(spec, features[2], self._linear(spec, features))

    # --- features ------------------------------------------------------------------------------------------------

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
        order = np.random.default_rng([self.config.general.seed, 0x4E1D]).permutation(len(subjects))
        chosen = {subjects[k] for k in order[:count]}
        train = self.cases["train"]
        self.cases["train"] = [case for case in train if case.subject not in chosen]
        self.cases["val"] = [case for case in train if case.subject in chosen]
        self.held = True
        self.notes.append(f"no validation part: {count} of the {len(subjects)} training subjects choose")

    def _features(
        self, samples_of: SamplesOf, parts: Sequence[str] = ("train", "val", "test"), **about: Any
    ) -> list[Features]:
        """Features of each part, from their files where they are there."""
        settings = {k: v for k, v in to_plain(self.config.data).items() if k not in _FREE}
        settings["root"] = str(Path(settings["root"]).resolve())
        kind = "pretext" if self.config.protocol.startswith("pretext") else "pooled"
        about = {"kind": about.get("kind", kind if kind == "pooled" else self.config.protocol), **about}
        found = []
        for part in parts:
            like = "train" if self.held and part == "val" else part
            names = [case.name for case in self.cases[part]]
            seed = self.config.general.seed
            key = settings_key(
                self.weights, self.levels, self.config.trainer.precision, about, settings, like, names, seed
            )
            loader = self.data.still_loader(self.cases[part], part=like, crops=about["kind"] == "dense")

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

    def _pooled(self, batch: Batch) -> tuple[Sequence[str], Tensor, Tensor]:
        return batch["id"], pooled(self.backbone, batch["image"], self.levels), batch["label"]

    # --- protocols -----------------------------------------------------------------------------------------------

    def _linear(self, spec: DataSpec, features: list[Features]) -> probes.Outcome:
        wanted = self.config.probe.refit_on
        # subjects held out of the budget return to it; a validation part would enlarge a part of the labels
        refit = self.held if wanted == "auto" and not self.config.labels.whole else wanted != "train"
        train, val = (len(part) for part in features[:2])
        fitted = f"train and val, {train + val} samples" if refit else f"train, {train} samples"
        self.notes.append(f"L2 chosen on {val} validation samples; final fit on {fitted}")
        return probes.linear(self.config.probe, spec, *features, refit=refit)

    def _scored(self, spec: DataSpec, test: Features, outcome: probes.Outcome) -> Result:
        task = task_class(spec)(self.config.task, spec, self.backbone, None)
        batch: Any = {"id": test.ids, "label": test.label}
        subjects = self._subjects()
        # a pretext's sample is named by its crop's number and what was done to it
        crops = self.config.protocol.startswith("pretext")
        places = (int(name.split("/")[-2]) if crops else k for k, name in enumerate(test.ids))
        scored = zip(task.rows(outcome.logits, batch), places, strict=True)
        rows = [{**row, "subject": subjects[place]} for row, place in scored]
        return Result(task.metric, task.summarize(rows), rows, outcome.chosen, [*self.notes, *outcome.notes])

    def _subjects(self) -> list[int]:
        """Number of the subject of each test sample."""
        samples: Any = self.data.still_loader(self.cases["test"], part="test").dataset
        return [samples.subject[int(case)] for case in samples.case]

    def _fewshot(self) -> Result:
        spec = self.config.spec
        if spec.target == "mask":
            raise SslMedError("protocol=fewshot needs class labels")
        train, test = self._features(self._pooled, ("train", "test"))
        found = fewshot.fewshot(self.config.probe, spec, train, test, seed=self.config.general.seed)
        subjects = self._subjects()
        first = len(found.ids) - len(
            subjects
        )  # of a pool the training samples come first; their subjects are not counted
        rows: list[Row] = []
        for k, asked in enumerate(found.asked.tolist()):
            if asked:
                row = {"case": found.ids[k], "label": int(found.label[k]), "asked": asked}
                row |= {"subject": subjects[k - first]} if k >= first else {}
                rows.append(row | {"accuracy": int(found.right[k]) / asked})
        return Result("accuracy", found.metrics, rows, {}, list(found.notes))

    def _pretext(self) -> Result:
        kind = self.config.protocol
        samples = pretext.rotation_samples if kind == "pretext_rotation" else pretext.position_samples

        def samples_of(batch: Batch) -> tuple[Sequence[str], Tensor, Tensor]:
            return samples(self.backbone, batch, self.levels)

        spec = pretext.pretext_spec(self.config.spec, kind)
        features = self._features(samples_of)
        result = self._scored(spec, features[2], self._linear(spec, features))
        result.metric = "accuracy"
        result.metrics = {"accuracy": result.metrics["accuracy"], "chance": 1 / len(spec.class_names)}
        return result

    def _dense(self) -> Result:
        config, spec = self.config.probe, self.config.spec
        cpu = torch.device("cpu")
        generator = seeded_generator(self.config.general.seed, 0xDE5E, device=cpu)

        def samples_of(batch: Batch) -> tuple[Sequence[str], Tensor, Tensor]:
            return dense.sample_voxels(self.backbone, batch, self.levels, config.voxels, generator)

        train, val = self._features(samples_of, ("train", "val"), kind="dense", voxels=config.voxels)
        weight, bias, chosen, notes = dense.fit_voxels(config, train, val, generator=generator)
        decoder = dense.LinearDecoder(self.backbone, self.levels, len(spec.class_names)).to(self.device)
        decoder.fill(weight, bias)
        task = Segmentation(self.config.task, spec, self.backbone, decoder).to(self.device).eval()
        dense.set_head(task, torch.zeros(len(spec.class_names)))
        threshold = dense.Threshold(len(spec.class_names))
        for batch, logits in self._predictions(task, decoder, "val"):
            threshold.add(logits[0], batch["mask"][0])
        best = threshold.best()
        dense.set_head(task, best)
        rows: list[Row] = []
        pictures: dict[str, dict[str, np.ndarray]] = {}
        for batch, logits in self._predictions(task, decoder, "test"):
            found = task.test_rows(logits, batch)
            subjects = batch["subject"].tolist()
            rows += [{**row, "subject": subject} for row, subject in zip(found, subjects, strict=True)]
            if len(pictures) < PICTURES:
                pictures[batch["id"][0]] = task.picture(logits, batch)
        names = spec.class_names
        chosen = {f"l2/{name}": chosen[f"l2/{k}"] for k, name in enumerate(names)}
        chosen |= {f"threshold/{name}": float(best[k]) for k, name in enumerate(names)}
        about = (
            f"voxel features of levels {list(self.levels)}, {len(train)} training voxels, thresholds by validation Dice"
        )
        return Result(task.metric, task.summarize(rows), rows, chosen, [*self.notes, about, *notes], pictures)

    @torch.inference_mode()
    def _predictions(self, task: Segmentation, decoder: dense.LinearDecoder, part: str) -> Any:
        loader = self.data.still_loader(self.cases[part], part=part)
        shown = tqdm(loader, desc=f"prediction of {part}", disable=not self.config.trainer.progress, leave=False)
        for batch in shown:
            there: Any = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            yield there, task.predict(there["image"], self.backbone, decoder)


def _device(accelerator: str) -> torch.device:
    """Where features are computed."""
    known = ("auto", "cpu", "gpu", "cuda")
    if accelerator not in known:
        raise SslMedError(f"trainer.accelerator is '{accelerator}'; a probe runs on one of {', '.join(known)}")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise SslMedError(f"trainer.accelerator={accelerator}: there is no GPU; set trainer.accelerator=cpu")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _finish(
    session: Session,
    run: _Probe,
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
    for case, arrays in result.pictures.items():
        path = session.folder / FIGURES / f"{file_stem(case)}.png"
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
    if "--show" in arguments:
        print(to_yaml(compose_probe([word for word in arguments if word != "--show"]).tree()), end="")
    else:
        probe(arguments)
