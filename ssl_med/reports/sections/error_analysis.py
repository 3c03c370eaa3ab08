"""The error analysis of one run of each row: figures, numbers of classes, worst, middle and best cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_med.reports.escape import file_stem
from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.column_runs import ColumnRuns
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.render.blocks import Block, Fold, Grid, Heading, Note, Picture, Pictures, Section
from ssl_med.reports.run_folder import ANALYSIS, Run

_TITLES = {
    "cases": "Values of all test cases",
    "roc": "ROC curve",
    "precision-recall": "Precision-recall curve",
    "froc": "FROC curve",
    "confusion": "Confusion",
    "calibration": "Calibration",
}
_BROAD = 1000  # pixels from which a figure needs the width of the page
_ORDER = {"worst": 0, "middle": 1, "best": 2}  # of the pictures; the section "Predictions" shows the first cases


def section(comparison: Comparison) -> list[Section]:
    """Nothing where no run has an analysis."""
    blocks: list[Block] = []
    for runs in comparison.column_runs.values():
        found = [_run(runs, row, run) for row, run in examined(runs)]
        blocks += [Heading(runs.title), *found] if found else []
    return [Section("errors", "Error analysis", blocks)] if blocks else []


def examined(runs: ColumnRuns) -> list[tuple[str, Run]]:
    """Row and run: of each row the run with the lowest seed at the largest label fraction that has an analysis."""
    found = []
    for row in runs.rows:
        members = [run for fraction in reversed(runs.fractions) for run in runs.runs_of(row, fraction)]
        run = next((run for run in members if run.analysis), None)
        if run is not None:
            found.append((row, run))
    return found


def _run(runs: ColumnRuns, row: str, run: Run) -> Fold:
    low, high = run.interval
    between = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    aside = f"{percent(run.fraction)} labels · seed {run.seed} · {run.metric} {run.value:.3f}{between}"
    prefix = f"{file_stem(runs.title)}-{file_stem(run.name)}"
    figures = [
        Picture(path, f"{row}: {_title(path)}", f"{prefix}-{path.stem}", broad=_width(path) >= _BROAD)
        for path in run.analysis
    ]
    blocks: list[Block] = [Pictures(figures), *class_numbers(run)]
    chosen = sorted(
        ((why, case, good, path) for case, why, good, path in run.pictured if why in _ORDER),
        key=lambda item: (_ORDER[item[0]], item[2], item[1]),
    )
    if chosen:
        cases = [
            Picture(path, f"{why}: {case} ({good:.3f})", f"{prefix}-{path.stem}", why, f"{case} · {good:.3f}")
            for why, case, good, path in chosen
        ]
        blocks.append(Note(f"Worst first, chosen among all test cases; the number is {_goodness(runs)}."))
        blocks.append(Pictures(cases, "pictures" if runs.metric == "dice" else "pictures small"))
    return Fold(row, aside, blocks)


def class_numbers(run: Run) -> Sequence[Grid]:
    """One line a class: counts, areas under the curves, calibration error; nothing where there are no classes."""
    errors = run.summary.get("errors") or {}
    curves: Mapping[str, Any] = errors.get("curves") or {}
    ece: Mapping[str, Any] = errors.get("ece") or {}
    if not ece:
        return []
    lines = []
    for name in dict.fromkeys([*ece, *curves]):
        curve = curves.get(name) or {}
        values = [curve.get("auc"), curve.get("average_precision"), ece.get(name)]
        counts = [curve.get("positives"), curve.get("negatives")]
        lines.append([name, *(EMPTY if x is None else str(x) for x in counts), *map(_value, values)])
    note = f"ECE: expected calibration error of the {errors.get('calibrated')}, {errors.get('calibration_bins')}."
    return [Grid(["class", "positives", "negatives", "AUC", "average precision", "ECE"], lines, css="", caption=[note])]


def _goodness(runs: ColumnRuns) -> str:
    if runs.metric == "dice":
        return "the case's Dice"
    return "the probability that the run gave to the right answer, averaged over findings where there are several"


def _title(path: Path) -> str:
    name = path.stem.removeprefix(ANALYSIS)
    return _TITLES.get(name, name)


def _width(png: Path) -> int:
    """Pixels, from the header of the PNG."""
    with png.open("rb") as file:
        return int.from_bytes(file.read(20)[16:], "big")


def _value(value: Any) -> str:
    return EMPTY if value is None or math.isnan(value) else f"{value:.3f}"
