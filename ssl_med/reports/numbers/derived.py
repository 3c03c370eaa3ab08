"""What follows from the cells of a comparison: curves, labels and steps saved, ranks, cost, the paper's numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ssl_med.evaluation.metrics import Metric, metric_of
from ssl_med.reports.figures.curves import Trace
from ssl_med.reports.numbers.comparison import Comparison, last_step
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.ranking import Ranking, rank
from ssl_med.reports.numbers.tables import BOLD_FROM, Cell
from ssl_med.reports.run_folder import Run

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


def budget_traces(comparison: Comparison, column: str) -> list[Trace]:
    """Metric against label fraction, a line a row."""
    fractions = _fractions(comparison, column)
    return _traces(
        comparison, {row: {x: comparison.cell(column, x, row) for x in fractions} for row in comparison.design.rows}
    )


def series_traces(comparison: Comparison, series: str) -> tuple[list[str], list[Trace]]:
    """Names of the columns of a series and the metric at each one's largest budget against their number, a line a row.

    [] where fewer than two columns have results.
    """
    columns = [c for c in comparison.design.columns if c.series == series and c.label in comparison.tables]
    if len(columns) < 2:
        return [], []
    cells = {
        row: {k: comparison.cell(c.label, max(c.fractions), row) for k, c in enumerate(columns)}
        for row in comparison.design.rows
    }
    return [c.label.removeprefix(series).strip() for c in columns], _traces(comparison, cells)


def learning_traces(comparison: Comparison, column: str, fraction: float) -> list[Trace]:
    """Metric against optimiser step, a line a row; the final value closes it. [] where no early step was tested."""
    if not comparison.early.get(column):
        return []
    return _traces(
        comparison, {row: learning_curve(comparison, column, fraction, row) for row in comparison.design.rows}
    )


def learning_curve(comparison: Comparison, column: str, fraction: float, row: str) -> dict[int, Cell]:
    """Step -> the metric over seeds there."""
    runs = comparison.runs(column, fraction, row)
    steps = [*comparison.early.get(column, ()), *sorted({last_step(run) for run in runs})]
    found = {}
    for step in steps:
        values = [run.value if step == last_step(run) else comparison.at(run, step) for run in runs]
        known = tuple(value for value in values if not math.isnan(value))
        if known:
            found[step] = Cell(known)
    return found


def _traces(comparison: Comparison, points: dict[str, dict[float, Cell]] | dict[str, dict[int, Cell]]) -> list[Trace]:
    found = []
    for row, cells in points.items():
        at = {x: cell for x, cell in cells.items() if cell.n}
        if at:
            ends = [interval(cell) for cell in at.values()]
            look, mean = comparison.styles[row], [cell.mean for cell in at.values()]
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


def annotation_saving(comparison: Comparison, column: str) -> tuple[float, dict[str, Reached]]:
    """Share of the labels that each row needs for the mean of the baseline at all labels, and that mean.

    Interpolated between budgets in the logarithm of the share. Empty where the column has no 100 %, or one budget only.
    """
    fractions = _fractions(comparison, column)
    if len(fractions) < 2 or fractions[-1] != 1.0:
        return math.nan, {}
    target = comparison.cell(column, 1.0, comparison.design.baseline)
    if not target.n:
        return math.nan, {}
    found = {}
    for row in comparison.challengers:
        cells = [comparison.cell(column, x, row) for x in fractions]
        if not all(cell.n for cell in cells):
            found[row] = Reached(why="cells are missing")
            continue
        metric = metric_of(comparison.metric(column))
        value, first = crossing(fractions, [cell.mean for cell in cells], target.mean, metric)
        by_seed = _by_seed(comparison, column, row, fractions)
        reached = sum(not math.isnan(crossing(fractions, line, target.mean, metric)[0]) for line in by_seed)
        found[row] = Reached(value, first, reached, len(by_seed))
    return target.mean, found


def crossing(x: Sequence[float], y: Sequence[float], target: float, metric: Metric) -> tuple[float, bool]:
    """The least x at which the line through (log x, y) is as good as the target, nan if none; whether the first point is."""
    if metric.reaches(y[0], target):
        return float(x[0]), True
    for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)):
        if metric.reaches(y1, target) and not metric.reaches(y0, target):
            share = (target - y0) / (y1 - y0)
            return float(math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0)))), False
    return math.nan, False


def convergence(comparison: Comparison, column: str, fraction: float) -> tuple[float, dict[str, Reached]]:
    """The first tested step at which each row's mean reaches 95 % of the baseline's final mean, and that bound.

    Where lower is better, the bound is the final mean divided by 95 %.
    """
    final = comparison.cell(column, fraction, comparison.design.baseline)
    if not comparison.early.get(column) or not final.n:
        return math.nan, {}
    metric, found = metric_of(comparison.metric(column)), {}
    target = NEAR * final.mean if metric.higher_is_better else final.mean / NEAR
    for row in comparison.design.rows:
        cells = learning_curve(comparison, column, fraction, row)
        if not cells:
            found[row] = Reached(why="cells are missing")
            continue
        step = next((step for step, cell in cells.items() if metric.reaches(cell.mean, target)), math.nan)
        runs = comparison.runs(column, fraction, row)
        steps = comparison.early[column]
        reached = sum(
            any(metric.reaches(v, target) for v in (run.value, *(comparison.at(run, s) for s in steps))) for run in runs
        )
        found[row] = Reached(step, step == next(iter(cells)), reached, len(runs))
    return target, found


def _by_seed(comparison: Comparison, column: str, row: str, fractions: Sequence[float]) -> list[list[float]]:
    lines = [{run.seed: run.value for run in comparison.runs(column, x, row)} for x in fractions]
    return [[line[seed] for line in lines] for seed in lines[0] if all(seed in line for line in lines)]


def _fractions(comparison: Comparison, column: str) -> list[float]:
    return sorted(next(c.fractions for c in comparison.design.columns if c.label == column))


# --- over the whole table --------------------------------------------------------------------------------------


def ranking(comparison: Comparison) -> tuple[Ranking, list[str]]:
    """Ranks over all columns and budgets, and the rows that have no result at all and are left out."""
    keys = [(column.label, x) for column in comparison.design.columns for x in column.fractions]
    means = {row: [_goodness(comparison, column, x, row) for column, x in keys] for row in comparison.design.rows}
    absent = [row for row, values in means.items() if np.isnan(values).all()]
    return rank({row: values for row, values in means.items() if row not in absent}), absent


def _goodness(comparison: Comparison, column: str, fraction: float, row: str) -> float:
    """Mean of a cell with the sign that makes larger better; nan without a run."""
    cell = comparison.cell(column, fraction, row)
    return metric_of(comparison.metric(column)).goodness(cell.mean) if cell.n else math.nan


@dataclass(frozen=True)
class Published:
    """One number of the paper and ours in the same unit; ours is nan where the cell is missing, the paper's where it has none.

    * p: the paper's, of this row against the best other one; nan where it gives none. * unit: of the metric.
    """

    row: str
    column: str
    fraction: float
    published: float
    ours: Cell
    p: float = math.nan
    unit: str = ""

    @property
    def scale(self) -> float:
        """100 where the paper gives percent and we a share."""
        return 100.0 if not self.unit and abs(self.published) > 1.5 and abs(self.ours.mean) <= 1 else 1.0


def published(comparison: Comparison) -> list[Published]:
    """The declared numbers of the paper, `column` or `column@fraction`; a column alone means its largest budget."""
    design = comparison.design
    known = {column.label: sorted(column.fractions) for column in design.columns}
    cells: dict[tuple[str, str, float], dict[str, float]] = {}
    for what, declared in (("published", design.published), ("p", design.published_p)):
        for row, numbers in declared.items():
            for place, number in numbers.items():
                column, _, share = place.partition("@")
                if column in known:
                    key = row, column, float(share) if share else known[column][-1]
                    cells.setdefault(key, {"published": math.nan})[what] = float(number)
    return [
        Published(
            row,
            column,
            fraction,
            ours=comparison.cell(column, fraction, row),
            unit=_unit(comparison, column),
            **numbers,
        )
        for (row, column, fraction), numbers in cells.items()
    ]


def _unit(comparison: Comparison, column: str) -> str:
    metric = comparison.metric(column)
    return metric_of(metric).unit if metric else ""


@dataclass(frozen=True)
class Cost:
    """What a row took: mean seconds of one pretraining and of one run of each column, hours of all its runs, and energy."""

    pretraining: float
    finals: Mapping[str, float]
    hours: float
    kwh: float
    peak_mb: float
    parameters: int


def costs(comparison: Comparison) -> dict[str, Cost]:
    """Of each row, over its finished runs. A pretraining that rows share counts for each of them."""
    found = {}
    for row in comparison.design.rows:
        mine = [entry for entry in comparison.entries if entry.row == row and not entry.why]
        starts = {entry.starts for entry in mine if entry.starts}
        first = [entry.run for entry in comparison.of("pretrain") if entry.run.folder in starts and not entry.why]
        first = first or [entry.run for entry in mine if entry.role == "pretrain"]
        final = [entry for entry in mine if entry.role == "final"]
        runs = [*first, *(entry.run for entry in mine if entry.role != "pretrain")]
        peaks = [float(run.summary["peak_mb"]) for run in runs if run.summary.get("peak_mb")]
        found[row] = Cost(
            pretraining=_mean([seconds(run) for run in first]),
            finals={
                c.label: _mean([seconds(e.run) for e in final if e.column == c.label])
                for c in comparison.design.columns
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
