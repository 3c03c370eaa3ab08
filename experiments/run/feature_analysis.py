"""One analysis of the features of one network, as a run in its folder; and several of these side by side."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from datamodules.core.base import MedicalData
from datamodules.core.splits import PARTS
from experiments.config.analyses import asked_analysis
from experiments.config.defaults import write_phantoms
from experiments.config.kinds import FeaturesRun
from experiments.config.sections import SCRATCH
from experiments.run.environment import say
from experiments.run.machine import frozen_device
from experiments.run.pretrained import LoadedNetwork, backbone_summary, build_network, check_leak, notes_of, tell
from experiments.run.pretrained_method import restoring_method
from experiments.run.session import Session, prepare_process
from ssl_med.features.core.analysis import Analysis, Findings
from ssl_med.features.core.images import Images
from ssl_med.files import new_file
from ssl_med.methods.core.restoring import restoring
from ssl_med.reading import UnreadableError, read_json
from ssl_med.reports.numbers.wording import count, duration
from ssl_med.reports.run_folder import FEATURES, FEATURES_ARRAYS, FEATURES_ROWS, FIGURES, SUMMARY, read_cases
from ssl_med.reports.style import save
from ssl_med.reports.writing import write_cases, write_json, write_summary
from ssl_med.spec import SslMedError, first_line

PARTS_OF_RUN = "features"  # folder of the parts that are finished; it goes when the run has ended
ALL = "all"  # of images.part
SLOW = 20.0  # seconds of foreseen time above which the cost is told


def analyse(config: FeaturesRun) -> tuple[str, Path]:
    """Carries out one analysis of one network; returns the name of the weights and the run folder."""
    start = time.perf_counter()
    analysis = asked_analysis(config.analysis)(config.features)
    prepare_process(config.trainer, config.precision)
    write_phantoms(config.data.name, config.data.root)
    pl.seed_everything(config.general.seed, verbose=False)
    loaded = build_network(config, with_decoder=analysis.decoder)
    method = restoring_method(config.general.init, config.spec) if analysis.restores else None
    data = _data(config)
    cases = {part: _cases(config, data, part) for part in _parts(config, analysis)}
    # nothing is learned, so that nothing is claimed of new subjects
    ledger, leakage = check_leak(loaded, data, allow=True)
    session = Session.open(config, method=loaded.method)
    if session is None:
        say(f"finished already: {config.folder()}")
        return loaded.method, config.folder()
    with session:
        session.open_loggers()
        session.record_subjects(ledger)
        say(f"{config.analysis} on {config.name} of {config.general.init} -> {session.folder}")
        notes = notes_of(config, loaded, data, ledger, leakage)
        if loaded.card is None and loaded.config.norm == "batch":
            notes.append("random weights: batch statistics are those of the initialisation, mean 0 and variance 1")
        tell(loaded, notes, say)
        others = {part: _images(config, loaded, data, cases[part], part, session.folder) for part in analysis.parts}
        images = _images(config, loaded, data, cases[config.images.part], config.images.part, session.folder)
        images.others = others
        if method is not None and (restorer := restoring(method.to(images.device))) is not None:
            images.restore = restorer.restored
        _foretell(analysis, images)
        found = analysis.measure(images)
        for note in found.notes:
            say(f"note: {note}")
        write_findings(session.folder, config.analysis, found)
        pictures = draw(session.folder, analysis, {loaded.method: found})
        session.track_result({f"features/{config.analysis}/{key}": value for key, value in found.numbers.items()})
        session.track_pictures([{**item, "case": item["title"], "why": config.analysis} for item in pictures])
        seconds = time.perf_counter() - start
        session.summarize(
            status="done",
            method=loaded.method,
            task=config.name if config.labelled else None,
            analysis=config.analysis,
            init=loaded.summary(config.general.init),
            subjects=data.describe()["subjects"],
            leakage=asdict(leakage) if leakage is not None else None,
            backbone=backbone_summary(loaded),
            steps=0,
            seconds=round(seconds, 1),
            weights="frozen" if loaded.card is not None else f"frozen, {SCRATCH}",
            metrics=found.numbers,
            headline=found.headline,
            drawings=pictures,
            images={"part": config.images.part, "cases": len(cases[config.images.part]), "samples": images.count},
            notes=[*notes, *found.notes],
        )
        shutil.rmtree(session.folder / PARTS_OF_RUN, ignore_errors=True)
        headline = f"{found.headline} {found.numbers[found.headline]:.4f}"
        say(f"{headline} on {count(images.count, 'image')} in {seconds:.0f} s -> {session.folder}")
    return loaded.method, session.folder


def side_by_side(config: FeaturesRun, found: Mapping[str, Path], folder: Path) -> None:
    """Relates several finished runs: numbers of pairs, figures with all networks, and one table of all images.

    Args:
        config: of one of them; they differ in their weights only.
        found: name of the network -> its run folder.
        folder: where to write.
    """
    analysis = asked_analysis(config.analysis)(config.features)
    findings = {name: read_findings(run) for name, run in found.items()}
    pairs = analysis.between(findings)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {f"{name}/{key}": value for name, one in findings.items() for key, value in one.numbers.items()}
    write_json(folder / FEATURES, {"kind": config.analysis, "networks": list(found), "numbers": numbers | pairs})
    rows = [{"network": name, **row} for name, one in findings.items() for row in one.rows]
    if rows:
        write_cases(folder, rows, name=FEATURES_ROWS)
    first = read_json(next(iter(found.values())) / SUMMARY)
    shared = {key: first.get(key) for key in ("data", "task", "analysis", "synthetic", "config", "images", "hardware")}
    drawn = draw(folder, analysis, findings)
    write_summary(
        folder,
        {**shared, "kind": "features", "status": "done", "metrics": pairs, "networks": list(found), "drawings": drawn},
    )
    for key, value in pairs.items():
        say(f"{key} {value:.4g}")


def write_findings(folder: Path, kind: str, found: Findings) -> None:
    """features.json, features.csv with one row per image, and features.safetensors with what figures are drawn from."""
    write_json(
        folder / FEATURES, {"kind": kind, "headline": found.headline, "numbers": found.numbers, "notes": found.notes}
    )
    if found.rows:
        write_cases(folder, found.rows, name=FEATURES_ROWS)
    with new_file(folder / FEATURES_ARRAYS) as file:
        save_file({key: np.ascontiguousarray(value) for key, value in found.arrays.items()}, file)


def read_findings(folder: Path) -> Findings:
    """What `write_findings` wrote.

    Raises:
        SslMedError: a file is gone or damaged.
    """
    try:
        tree, arrays = read_json(folder / FEATURES), load_file(folder / FEATURES_ARRAYS)
        rows: list[dict[str, Any]] = [dict(row) for row in read_cases(folder, FEATURES_ROWS)]
        numbers = {key: float("nan") if value is None else float(value) for key, value in tree["numbers"].items()}
        return Findings(numbers, str(tree["headline"]), rows, arrays, list(tree["notes"]))
    except (UnreadableError, SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SslMedError(
            f"{folder}: what the analysis found cannot be read ({first_line(error)}); remove the folder, and the same command "
            "looks again"
        ) from None


def draw(folder: Path, analysis: Analysis, found: Mapping[str, Findings]) -> list[dict[str, Any]]:
    """Saves the figures of an analysis below a folder; returns what summary.json says of them."""
    told = []
    for drawing in analysis.draw(found):
        path = save(drawing.figure, folder / FIGURES / f"{drawing.stem}.png")
        told.append({"title": drawing.title, "caption": drawing.caption, "file": f"{FIGURES}/{path.name}"})
    return told


def _data(config: FeaturesRun) -> MedicalData:
    data = config.data_class(
        config.data,
        labelled=config.labelled,
        batch_size=config.trainer.batch_size,
        num_workers=config.trainer.num_workers,
        seed=config.general.seed,
        test=True,
    )
    data.setup()
    return data


def _parts(config: FeaturesRun, analysis: Analysis) -> list[str]:
    """The part that is looked at, and those from which the analysis learns.

    Raises:
        SslMedError: it is one of these.
    """
    if config.images.part in (*analysis.parts, ALL) and analysis.parts:
        raise SslMedError(
            f"images.part={config.images.part}: kind={config.analysis} learns from {' and '.join(analysis.parts)}; take "
            "images.part=test"
        )
    return [*analysis.parts, config.images.part]


def _cases(config: FeaturesRun, data: MedicalData, part: str) -> list[Any]:
    """The cases of a part: all, or as many as asked for, drawn by the seed, in their order.

    Raises:
        SslMedError: the part is empty.
    """
    cases = [case for one in (PARTS if part == ALL else (part,)) for case in data.parts[one]]
    if not cases and part != config.images.part:
        raise SslMedError(
            f"kind={config.analysis} needs a {part} part, and the split has none; see data.split and data.split_ratios"
        )
    if not cases:
        there = [part for part, members in data.parts.items() if members]
        raise SslMedError(f"images.part={config.images.part} has no case; take one of {', '.join(there)}")
    wanted = config.images.cases
    if not wanted or wanted >= len(cases):
        return cases
    chosen = np.random.default_rng([config.general.seed, 0xFEA7]).permutation(len(cases))[:wanted]
    return [cases[k] for k in np.sort(chosen)]


def _images(
    config: FeaturesRun, loaded: LoadedNetwork, data: MedicalData, cases: Sequence[Any], part: str, folder: Path
) -> Images:
    device = frozen_device(config.trainer.accelerator)
    backbone = loaded.backbone.eval().requires_grad_(False).to(device)
    decoder = loaded.decoder.eval().requires_grad_(False).to(device) if loaded.decoder is not None else None
    loader = data.still_loader(cases, part="test" if part == ALL else part)
    samples: Any = loader.dataset
    subjects = [samples.subject[int(case)] for case in samples.case]
    numbers = {subject: number for number, subject in enumerate(dict.fromkeys(subjects))}
    return Images(
        backbone,
        config.spec,
        lambda: loader,
        len(samples),
        [numbers[subject] for subject in subjects],
        device=device,
        seed=config.general.seed,
        precision=config.trainer.precision,
        decoder=decoder,
        # files of other images, which may have taken the place of these, are not taken for theirs
        kept_in=folder / PARTS_OF_RUN / data.content_digest(cases)[:16],
        progress=config.trainer.progress,
    )


def _foretell(analysis: Analysis, images: Images) -> None:
    """Says what the analysis costs, unless it is a matter of seconds."""
    passes = analysis.passes(images)
    if passes <= images.count:
        return
    seconds = analysis.seconds(images)
    if seconds >= SLOW:
        say(f"{passes} images go through the encoder: about {duration(seconds)}; stopped, the same command goes on")
