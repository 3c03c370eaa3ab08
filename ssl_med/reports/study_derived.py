"""What follows from the cells of a study: curves, labels and steps saved, ranks, cost, and the paper's numbers beside ours."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ssl_med.reports.curves import Trace
from ssl_med.reports.fairness import percent
from ssl_med.reports.ranking import Ranking, rank
from ssl_med.reports.run_folder import Run
from ssl_med.reports.study import Study, last_step
from ssl_med.reports.tables import BOLD_FROM, Cell

NEAR = 0.95  # share of the baseline's final value that counts as arrived
CPU_WATTS, GPU_WATTS = (
    10.0,
    400.0,
)  # of a core with its share of memory and mainboard, of a GPU with its share of the host
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def interval(cell: Cell) -> tuple[float, float]:
    """95 % Student interval of the mean over seeds; nan below three."""
    from scipy.stats import t

    if cell.n < BOLD_FROM:
        return math.nan, math.nan
    half = float(t.ppf(0.975, cell.n - 1)) * cell.sd / math.sqrt(cell.n)
    return cell.mean - half, cell.mean + half


# --- curves ----------------------------------------------------------------------------------------------------


def budget_traces(study: Study, column: str) -> list[Trace]:
    """Metric against label fraction, a line a row."""
    fractions = _fractions(study, column)
    return _traces(study, {row: {x: study.cell(column, x, row) for x in fractions} for row in study.declared.rows})


def series_traces(study: Study, series: str) -> tuple[list[str], list[Trace]]:
    """Names of the columns of a series and the metric at each one's largest budget against their number, a line a row.

    [] where fewer than two columns have results.
    """
    columns = [c for c in study.declared.columns if c.series == series and c.label in study.tables]
    if len(columns) < 2:
        return [], []
    cells = {
        row: {k: study.cell(c.label, max(c.fractions), row) for k, c in enumerate(columns)}
        for row in study.declared.rows
    }
    return [c.label.removeprefix(series).strip() for c in columns], _traces(study, cells)


def learning_traces(study: Study, column: str, fraction: float) -> list[Trace]:
    """Metric against optimiser step, a line a row; the final value closes it. [] where no early step was tested."""
    if not study.early.get(column):
        return []
    return _traces(study, {row: learning_curve(study, column, fraction, row) for row in study.declared.rows})


def learning_curve(study: Study, column: str, fraction: float, row: str) -> dict[int, Cell]:
    """Step -> the metric over seeds there."""
    runs = study.runs(column, fraction, row)
    steps = [*study.early.get(column, ()), *sorted({last_step(run) for run in runs})]
    found = {}
    for step in steps:
        values = [run.value if step == last_step(run) else study.at(run, step) for run in runs]
        known = tuple(value for value in values if not math.isnan(value))
        if known:
            found[step] = Cell(known)
    return found


def _traces(study: Study, points: dict[str, dict[float, Cell]] | dict[str, dict[int, Cell]]) -> list[Trace]:
    found = []
    for row, cells in points.items():
        at = {x: cell for x, cell in cells.items() if cell.n}
        if at:
            ends = [interval(cell) for cell in at.values()]
            look, mean = study.styles[row], [cell.mean for cell in at.values()]
            found.append(Trace(row, look, list(at), mean, [low for low, _ in ends], [high for _, high in ends]))
    return found


# --- labels and steps saved ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reached:
    """The share of labels, or the step, at which a row reaches a bound.

    * value: nan when it does not. * first: the smallest one that was tried reaches it already. * of: runs; * reached: those
    that reach it by themselves. * why: cannot be said.
    """

    value: float = math.nan
    first: bool = False
    reached: int = 0
    of: int = 0
    why: str = ""


def annotation_saving(study: Study, column: str) -> tuple[float, dict[str, Reached]]:
    """Share of the labels that each row needs for the mean of the baseline at all labels, and that mean.

    Interpolated between budgets in the logarithm of the share. Empty where the column has no 100 %, or one budget only.
    """
    fractions = _fractions(study, column)
    if len(fractions) < 2 or fractions[-1] != 1.0:
        return math.nan, {}
    target = study.cell(column, 1.0, study.declared.baseline)
    if not target.n:
        return math.nan, {}
    found = {}
    for row in study.challengers:
        cells = [study.cell(column, x, row) for x in fractions]
        if not all(cell.n for cell in cells):
            found[row] = Reached(why="cells are missing")
            continue
        value, first = crossing(fractions, [cell.mean for cell in cells], target.mean)
        by_seed = _by_seed(study, column, row, fractions)
        reached = sum(not math.isnan(crossing(fractions, line, target.mean)[0]) for line in by_seed)
        found[row] = Reached(value, first, reached, len(by_seed))
    return target.mean, found


def crossing(x: Sequence[float], y: Sequence[float], target: float) -> tuple[float, bool]:
    """The least x at which the line through (log x, y) reaches the target, nan if none, and whether the first point does."""
    if y[0] >= target:
        return float(x[0]), True
    for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)):
        if y0 < target <= y1:
            share = (target - y0) / (y1 - y0)
            return float(math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0)))), False
    return math.nan, False


def convergence(study: Study, column: str, fraction: float) -> tuple[float, dict[str, Reached]]:
    """The first tested step at which each row's mean reaches 95 % of the baseline's final mean, and that bound."""
    final = study.cell(column, fraction, study.declared.baseline)
    if not study.early.get(column) or not final.n:
        return math.nan, {}
    target, found = NEAR * final.mean, {}
    for row in study.declared.rows:
        cells = learning_curve(study, column, fraction, row)
        if not cells:
            found[row] = Reached(why="cells are missing")
            continue
        step = next((step for step, cell in cells.items() if cell.mean >= target), math.nan)
        runs = study.runs(column, fraction, row)
        steps = study.early[column]
        reached = sum(any(v >= target for v in (run.value, *(study.at(run, s) for s in steps))) for run in runs)
        found[row] = Reached(step, step == next(iter(cells)), reached, len(runs))
    return target, found


def _by_seed(study: Study, column: str, row: str, fractions: Sequence[float]) -> list[list[float]]:
    lines = [{run.seed: run.value for run in study.runs(column, x, row)} for x in fractions]
    return [[line[seed] for line in lines] for seed in lines[0] if all(seed in line for line in lines)]


def _fractions(study: Study, column: str) -> list[float]:
    return sorted(next(c.fractions for c in study.declared.columns if c.label == column))


# --- over the whole table --------------------------------------------------------------------------------------


def ranking(study: Study) -> tuple[Ranking, list[str]]:
    """Ranks over all columns and budgets, and the rows that have no result at all and are left out."""
    keys = [(column.label, x) for column in study.declared.columns for x in column.fractions]
    means = {row: [study.cell(column, x, row).mean for column, x in keys] for row in study.declared.rows}
    absent = [row for row, values in means.items() if np.isnan(values).all()]
    return rank({row: values for row, values in means.items() if row not in absent}), absent


@dataclass(frozen=True)
class Published:
    """One number of the paper and ours in the same unit; ours is nan where the cell is missing."""

    row: str
    column: str
    fraction: float
    published: float
    ours: Cell

    @property
    def scale(self) -> float:
        """100 where the paper gives percent and we a share."""
        return 100.0 if abs(self.published) > 1.5 and abs(self.ours.mean) <= 1 else 1.0


def published(study: Study) -> list[Published]:
    """The declared numbers of the paper, `column` or `column@fraction`; a column alone means its largest budget."""
    known = {column.label: sorted(column.fractions) for column in study.declared.columns}
    found = []
    for row, numbers in study.declared.published.items():
        for place, number in numbers.items():
            column, _, share = place.partition("@")
            if column in known:
                fraction = float(share) if share else known[column][-1]
                found.append(Published(row, column, fraction, float(number), study.cell(column, fraction, row)))
    return found


@dataclass(frozen=True)
class Cost:
    """What a row took: mean seconds of one pretraining and of one run of each column, hours of all its runs, and energy."""

    pretraining: float
    finals: Mapping[str, float]
    hours: float
    kwh: float
    peak_mb: float
    parameters: int


def costs(study: Study) -> dict[str, Cost]:
    """Of each row, over its finished runs. A pretraining that rows share counts for each of them."""
    found = {}
    for row in study.declared.rows:
        mine = [entry for entry in study.entries if entry.row == row and not entry.why]
        starts = {entry.starts for entry in mine if entry.starts}
        first = [entry.run for entry in study.of("pretrain") if entry.run.folder in starts and not entry.why]
        first = first or [entry.run for entry in mine if entry.role == "pretrain"]
        final = [entry for entry in mine if entry.role == "final"]
        runs = [*first, *(entry.run for entry in mine if entry.role != "pretrain")]
        peaks = [float(run.summary["peak_mb"]) for run in runs if run.summary.get("peak_mb")]
        found[row] = Cost(
            pretraining=_mean([seconds(run) for run in first]),
            finals={
                c.label: _mean([seconds(e.run) for e in final if e.column == c.label]) for c in study.declared.columns
            },
            hours=sum(seconds(run) for run in runs) / 3600,
            kwh=sum(seconds(run) * watts(run) for run in runs) / 3.6e6,
            peak_mb=max(peaks, default=math.nan),
            parameters=max((parameters(run.folder) for run in first), default=0),
        )
    return found


def seconds(run: Run) -> float:
    """Of a run as it recorded them."""
    return float(run.summary.get("seconds") or 0.0)


def watts(run: Run) -> float:
    """Assumed power, from the number of GPUs or threads that the run recorded."""
    text = str(run.summary.get("hardware") or "")
    if gpus := re.match(r"(\d+) x ", text):
        return GPU_WATTS * int(gpus[1])
    threads = re.search(r"(\d+) threads", text)
    return CPU_WATTS * int(threads[1] if threads else 1)


def parameters(folder: Path) -> int:
    """Numbers in the pretrained backbone of a run, encoder and decoder, from the file's header; 0 without one."""
    path = folder / "backbone.safetensors"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    counted = {
        name: about["shape"]
        for name, about in header.items()
        if name != "__metadata__" and name.rsplit(".")[-1] not in _BUFFERS
    }
    return sum(map(math.prod, counted.values()))


def short(share: float) -> str:
    """0.0312 -> '3.1 %'."""
    return percent(float(f"{share:.2g}"))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
