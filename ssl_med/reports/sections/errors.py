"""The error analysis of a table: one run of each row, with its figures, numbers and pictured cases."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.tables import EMPTY, Table
from ssl_med.reports.render import parts as p
from ssl_med.reports.run_folder import ANALYSIS, FIGURES, Run
from ssl_med.reports.writing import file_stem

_TITLES = {
    "cases": "Values of all test cases",
    "roc": "ROC curve",
    "precision-recall": "Precision-recall curve",
    "froc": "FROC curve",
    "confusion": "Confusion",
    "calibration": "Calibration",
}
_BROAD = 1000  # pixels from which a figure needs the width of the page
_ORDER = {"worst": 0, "middle": 1, "best": 2}  # of the pictures; the first cases stand under "Predictions"


def examined(table: Table) -> list[tuple[str, Run]]:
    """Row and run: of each row the run with the lowest seed at the largest label fraction that has an analysis."""
    found = []
    for row in table.rows:
        runs = [run for fraction in reversed(table.fractions) for run in table.runs_of(row, fraction)]
        run = next((run for run in runs if run.analysis), None)
        if run is not None:
            found.append((row, run))
    return found


def html_errors(table: Table) -> str:
    """The section of one table; '' when no run has an analysis."""
    text = ""
    for row, run in examined(table):
        figures = "".join(_figure(path, alt=f"{row}: {_title(path)}") for path in run.analysis)
        numbers = class_numbers(run)
        inner = f'<div class="figures">{figures}</div>'
        if numbers:
            body = [[escape(cell) for cell in line] for line in numbers[1:]]
            inner += p.table(numbers[0], body) + f'<p class="note">{escape(_calibrated(run))}</p>'
        shown = "".join(
            p.png_figure(
                path, alt=f"{row}: {why} case {case}", caption=f"<b>{escape(why)}</b> · {escape(case)} · {good:.3f}"
            )
            for why, case, good, path in _pictured(run)
        )
        if shown:
            small = "" if table.metric == "dice" else " small"
            note = "Worst first, chosen among all test cases; the number is " + _goodness(table)
            inner += f'<p class="note">{note}.</p><div class="figures pictures{small}">{shown}</div>'
        text += p.fold(row, _aside(run), inner)
    return f"<h3>{escape(table.title)}</h3>{text}" if text else ""


def markdown_errors(table: Table, out: Path) -> list[str]:
    """Lines of the section; figures are copied into `out`/figures."""
    lines: list[str] = []
    for row, run in examined(table):
        lines += [f"### {row}: {_aside(run)}", ""]
        numbers = class_numbers(run)
        if numbers:
            lines += [*markdown_table(numbers), "", _calibrated(run), ""]
        pictures = [(_title(path), path) for path in run.analysis]
        pictures += [(f"{why}: {case} ({good:.3f})", path) for why, case, good, path in _pictured(run)]
        for title, path in pictures:
            target = out / FIGURES / f"{file_stem(table.task)}-{file_stem(run.name)}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            lines += [f"![{title}]({target.relative_to(out).as_posix()})", ""]
    return [f"## Error analysis: {table.title}", "", *lines] if lines else []


def markdown_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Head and rows as lines of Markdown; all columns but the first to the right."""
    head, *rows = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return [head, f"|{'|'.join([' --- ', *(' ---: ' for _ in lines[0][1:])])}|", *rows]


def class_numbers(run: Run) -> list[list[str]]:
    """Head and one line a class: counts, areas under the curves, calibration error; [] where there are no classes."""
    errors = run.summary.get("errors") or {}
    curves: Mapping[str, Any] = errors.get("curves") or {}
    ece: Mapping[str, Any] = errors.get("ece") or {}
    if not ece:
        return []
    lines = [["class", "positives", "negatives", "AUC", "average precision", "ECE"]]
    for name in dict.fromkeys([*ece, *curves]):
        curve = curves.get(name) or {}
        values = [curve.get("auc"), curve.get("average_precision"), ece.get(name)]
        counts = [curve.get("positives"), curve.get("negatives")]
        lines.append([name, *(_count(x) for x in counts), *(_value(x) for x in values)])
    return lines


def _figure(path: Path, *, alt: str) -> str:
    content = path.read_bytes()
    figure = p.png_figure(content, alt=alt)
    width = int.from_bytes(content[16:20], "big")  # of the PNG header, in pixels
    return figure.replace("<figure>", '<figure class="broad">', 1) if width >= _BROAD else figure


def _pictured(run: Run) -> list[tuple[str, str, float, Path]]:
    found = [(why, case, good, path) for case, why, good, path in run.pictured if why in _ORDER]
    return sorted(found, key=lambda item: (_ORDER[item[0]], item[2], item[1]))


def _aside(run: Run) -> str:
    low, high = run.interval
    between = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return f"{percent(run.fraction)} labels · seed {run.seed} · {run.metric} {run.value:.3f}{between}"


def _goodness(table: Table) -> str:
    if table.metric == "dice":
        return "the case's Dice"
    return "the probability that the run gave to the right answer, averaged over findings where there are several"


def _calibrated(run: Run) -> str:
    errors = run.summary.get("errors") or {}
    return f"ECE: expected calibration error of the {errors.get('calibrated')}, {errors.get('calibration_bins')}."


def _title(path: Path) -> str:
    name = path.stem.removeprefix(ANALYSIS)
    return _TITLES.get(name, name)


def _value(value: Any) -> str:
    return EMPTY if value is None or math.isnan(value) else f"{value:.3f}"


def _count(value: Any) -> str:
    return EMPTY if value is None else str(value)
