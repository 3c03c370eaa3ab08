"""Error analysis of a finished fine-tuning: which cases went wrong, curves, confusion, calibration; PNG files and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import default_collate

from datamodules.core.base import MedicalData
from ssl_med.evaluation.analysis import BINS, Curve, analyse, choose_cases, headline
from ssl_med.evaluation.bootstrap import bootstrap
from ssl_med.evaluation.scores import FROC_RATES, froc_curve
from ssl_med.evaluation.tasks import Row, TaskConfig, marks
from ssl_med.evaluation.transfer import Transfer
from ssl_med.reports.escape import picture_stems
from ssl_med.reports.figures import errors as figures
from ssl_med.reports.figures.pictures import save_overlay, verdict
from ssl_med.reports.run_folder import ANALYSIS, FIGURES
from ssl_med.reports.style import save
from ssl_med.spec import DataSpec

RESAMPLES = 1000  # ends of a 95 % interval to about a twentieth of its width
_HIGHEST = 3  # findings whose scores a picture states


def interval_of(module: Transfer) -> dict[str, Any]:
    """Bootstrap interval of the headline test metric over subjects, for summary.json."""
    rows = module.test_rows
    subjects = [row["subject"] for row in rows]
    return {
        **asdict(bootstrap(headline(module.spec.target, module.spec.class_names, rows), subjects, resamples=RESAMPLES)),
        "unit": module.spec.group_key,
    }


def error_analysis(folder: Path, module: Transfer) -> dict[str, Any]:
    """Draws figures/analysis-*.png from the test rows; returns the numbers for summary.json."""
    spec, rows = module.spec, module.test_rows
    place = folder / FIGURES

    def put(name: str, figure: Any) -> None:
        save(figure, place / f"{ANALYSIS}{name}.png")

    if spec.target == "mask":
        put("cases", figures.case_values(_by_region(spec, rows)))
        return {}
    found = analyse(spec.target, spec.class_names, rows)
    if found.curves:
        put("roc", figures.curves([_roc(curve) for curve in found.curves], kind="roc"))
        put("precision-recall", figures.curves([_pr(curve) for curve in found.curves], kind="precision_recall"))
    if "lesion" in rows[0]:
        lesion, lesions, scans = marks(rows)
        if lesions:
            score = np.array([row[f"score/{spec.class_names[1]}"] for row in rows])
            rate, sensitivity = froc_curve(score, lesion, lesions=lesions, scans=scans)
            put("froc", figures.froc(rate, sensitivity, at=FROC_RATES, lesions=lesions, scans=scans))
    draw = figures.finding_tables if spec.target == "multilabel" else figures.confusion
    put("confusion", draw(found.confusion, spec.class_names))
    overall = found.calibrations[0]
    put(
        "calibration",
        figures.reliability(
            overall.probability,
            overall.frequency,
            overall.count,
            ece=overall.ece,
            of="probability of the answer" if overall.name == "answer" else f"stated probability: {overall.name}",
            bins=f"{BINS} bins of equal width",
        ),
    )
    return found.numbers()


def picture_cases(
    folder: Path, module: Transfer, data: MedicalData, trainer: pl.Trainer, config: TaskConfig
) -> list[dict[str, Any]]:
    """Pictures of the test cases that `task.pictures` chooses, predicted once more; what they show, for summary.json."""
    rows = {row["case"]: row for row in module.test_rows}
    goodness = {case: module.task.goodness(row) for case, row in rows.items()}
    chosen = choose_cases(goodness, config.pictures)
    if not chosen:
        return []
    samples = data.traced("test")
    device = trainer.strategy.root_device
    module.to(device)
    told = []
    stems = picture_stems(chosen)
    for case, why in chosen.items():
        batch = default_collate([samples[0, module.test_index[case]]])
        moved: Any = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in batch.items()}
        with trainer.precision_plugin.forward_context():
            arrays = module.picture(moved)
        path = folder / FIGURES / f"{stems[case]}.png"
        if "truth" in arrays:
            image, truth, prediction = arrays["image"], arrays["truth"], arrays["prediction"]
            names = module.spec.class_names
            save_overlay(path, image=image, truth=truth, prediction=prediction, class_names=names, case=case)
        else:
            lines = said(module.spec, rows[case])
            save(verdict(arrays["image"], case=case, lines=lines, sides=bool(module.spec.orientation)), path)
        told.append({"case": case, "why": why, "goodness": goodness[case], "file": f"{FIGURES}/{path.name}"})
    return told


def said(spec: DataSpec, row: Row) -> list[str]:
    """Truth and answer of a classified case in words."""
    scores = {name: float(row[f"score/{name}"]) for name in spec.class_names}
    if spec.target == "class":
        answer = max(scores, key=lambda name: scores[name])
        true = spec.class_names[row["label"]]
        return [f"truth: {true} (probability {scores[true]:.2f})", f"answer: {answer} ({scores[answer]:.2f})"]
    present = [f"{name} ({scores[name]:.2f})" for name in spec.class_names if row[f"label/{name}"]]
    highest = sorted(scores, key=lambda name: -scores[name])[:_HIGHEST]
    return [f"truth: {', '.join(present) or 'none'}", *(f"answer: {name} {scores[name]:.2f}" for name in highest)]


def _roc(curve: Curve) -> figures.Line:
    note = f"AUC {curve.auc:.3f} ({curve.positives} of {curve.positives + curve.negatives})"
    return figures.Line(curve.name, curve.false_positive, curve.true_positive, note)


def _pr(curve: Curve) -> figures.Line:
    total = curve.positives + curve.negatives
    note = f"AP {curve.average_precision:.3f} ({curve.positives} of {total})"
    # up to the first recall the precision is that of the first threshold; at recall 0 it is not defined
    recall, precision = np.append(0, curve.recall), np.append(curve.precision[0], curve.precision)
    return figures.Line(curve.name, recall, precision, note, curve.positives / total)


def _by_region(spec: DataSpec, rows: Sequence[Row]) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Dice, and the distance of surfaces where it is known, by region."""
    found = {}
    for key, title in (("dice", "Dice"), ("hd95_mm", "HD95 in mm (smaller is better)")):
        regions = {name: f"{key}/{name}" if f"{key}/{name}" in rows[0] else key for name in spec.class_names}
        if all(column in rows[0] for column in regions.values()):
            found[title] = {name: np.array([row[column] for row in rows]) for name, column in regions.items()}
    return found
