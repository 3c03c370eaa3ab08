"""Curves for print and for colour-blind readers: a method has one colour and one marker everywhere."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from ssl_med.reports.figures.pictures import FAINT, INK
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.tables import Table
from ssl_med.reports.run_folder import SCRATCH, Run

# Okabe and Ito (2008), without the yellow that vanishes on white
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_FURTHER = ("#7b5ea7", "#8c6d31", "#1c2733", "#a6192e", "#7f8c1f")  # for tables of many rows
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FIXED = ("pcrl", "models_genesis", "context_restoration", "moco", "simclr")  # these never share a colour
LINES = ("-", (0, (6, 1.5)), (0, (3, 1.2, 1, 1.2)), (0, (1, 1)))
SIZE = (
    5.4,
    3.5,
)  # inches: two side by side on a wide screen, one on a phone without shrinking the text to nothing

RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so figures look alike everywhere
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "grid.color": "#e4e9ee",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.hashsalt": "ssl_med",  # equal figures are equal files
}


@dataclass(frozen=True)
class Style:
    """How a row is drawn everywhere."""

    color: str
    marker: str
    line: Any
    hollow: bool = False

    @property
    def face(self) -> str:
        """Fill of the marker."""
        return "white" if self.hollow else self.color


def style(method: str, *, variant: int = 0) -> Style:
    """Style of a method; its variants in one table differ in line and fill. Scratch is always grey and dashed."""
    if method == SCRATCH:
        return Style("#5f6b76", "X", (0, (4, 2)))
    line = LINES[variant % len(LINES)]
    if method in _FIXED:
        k = _FIXED.index(method)
        return Style(COLORS[k], _MARKERS[k], line, variant % 2 == 1)
    k = zlib.crc32(method.encode())
    return Style(COLORS[k % len(COLORS)], _MARKERS[k // 7 % len(_MARKERS)], line, variant % 2 == 1)


def styles(methods: Mapping[str, str]) -> dict[str, Style]:
    """Row -> its style; where two rows would share a colour, the later one takes the next free one, then another marker."""
    found: dict[str, Style] = {}
    palette = (*COLORS, *_FURTHER)
    # methods with a colour of their own come first, so that no other takes it
    for k, row in enumerate(sorted(methods, key=lambda row: methods[row] not in (SCRATCH, *_FIXED))):
        look = style(methods[row])
        taken = {other.color for other in found.values()}
        if look.color in taken:
            again, place = divmod(k, len(palette))
            free = [color for color in palette if color not in taken] or [palette[place]]
            look = Style(free[0], _MARKERS[(k + again) % len(_MARKERS)], LINES[again % len(LINES)])
        found[row] = look
    return {row: found[row] for row in methods}


@dataclass(frozen=True)
class Trace:
    """One line of a figure: points with the ends of their intervals, nan where there is none."""

    label: str
    look: Style
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def traces(
    lines: Sequence[Trace], *, title: str, below: str, shares: bool = False, names: Sequence[str] = ()
) -> Figure:
    """Lines with interval bars that stand a little beside each other.

    `shares`: x are label fractions, on a log scale; `names`: x are 0, 1, ... and called so.
    """
    with mpl.rc_context(RC):
        figure, axes = panel(title, height=4.3)
        ticks = sorted({x for line in lines for x in line.x})
        span = (np.log(ticks[-1] / ticks[0]) if shares else ticks[-1] - ticks[0]) if len(ticks) > 1 else 1.0
        for k, line in enumerate(lines):
            shift = min(0.012, 0.08 / len(lines)) * span * (k - (len(lines) - 1) / 2)
            x = np.array(line.x, float) * np.exp(shift) if shares else np.array(line.x, float) + shift
            bars = np.nan_to_num(np.array([np.subtract(line.mean, line.low), np.subtract(line.high, line.mean)]))
            axes.errorbar(
                x, line.mean, yerr=bars, label=line.label, color=line.look.color, linestyle=line.look.line,
                marker=line.look.marker, markerfacecolor=line.look.face, markersize=5, linewidth=1.5, elinewidth=1.0,
            )  # fmt: skip
        if shares:
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        if shares:
            axes.set_xticklabels([percent(x) for x in ticks])
        elif names:
            axes.set_xticklabels([names[round(x)] for x in ticks])
        axes.set_xlabel(below)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, handlelength=2.6)
        return figure


def label_efficiency(table: Table) -> Figure:
    """Test metric against label fraction: mean, band of ± 1 standard deviation, and every seed as a point."""
    with mpl.rc_context(RC):
        figure, axes = panel(f"Test {table.metric} by label budget")
        spread = 0.012 * np.log(table.fractions[-1] / table.fractions[0]) if len(table.fractions) > 1 else 0.02
        for k, row in enumerate(table.rows):
            look = style(table.method(row), variant=table.variant(row))
            cells = [(x, table.cell(row, x)) for x in table.fractions]
            cells = [(x, cell) for x, cell in cells if cell.n]
            if not cells:
                continue
            x = np.array([x for x, _ in cells])
            # rows stand a little beside each other, so that their points do not hide one another
            x = x * np.exp(spread * (k - (len(table.rows) - 1) / 2))
            mean = np.array([cell.mean for _, cell in cells])
            sd = np.nan_to_num([cell.sd for _, cell in cells])
            axes.fill_between(x, mean - sd, mean + sd, color=look.color, alpha=0.13, linewidth=0)
            axes.plot(
                x,
                mean,
                color=look.color,
                linestyle=look.line,
                marker=look.marker,
                label=row,
                linewidth=1.8,
                markerfacecolor=look.face,
            )
            for place, (_, cell) in zip(x, cells, strict=True):
                axes.plot([place] * cell.n, cell.values, ".", color=look.color, alpha=0.55, markersize=5)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(table.fractions)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([percent(x) for x in table.fractions])
        axes.set_xlim(table.fractions[0] / 1.25, table.fractions[-1] * 1.25)
        axes.set_xlabel("share of the labelled training patients (logarithmic)")
        _legend(axes)
        return figure


def loss_curves(runs: Sequence[Run]) -> list[Figure]:
    """Pretraining losses, one panel per method: losses of different methods have no common scale."""
    figures = []
    for method in sorted({run.method for run in runs}):
        with mpl.rc_context(RC):
            figure, axes = panel(f"Pretraining loss: {method}")
            look = style(method)
            members = [run for run in runs if run.method == method]
            for k, run in enumerate(members):
                name = f" · {run.name}" if len(members) > 1 else ""
                line = LINES[k % len(LINES)]
                steps, loss = series(run, "train/loss")
                if len(steps):
                    axes.plot(steps, loss, color=look.color, alpha=0.25, linewidth=0.9)
                    axes.plot(steps, smooth(loss), color=look.color, linestyle=line, label=f"train{name}")
                steps, loss = series(run, "val/loss")
                if len(steps):
                    axes.plot(
                        steps, loss, color=INK, linestyle=line, marker=look.marker, markersize=4,
                        linewidth=1.1, label=f"validation{name}",
                    )  # fmt: skip
            axes.set_xlabel("optimiser step")
            _legend(axes)
            if axes.lines:
                figures.append(figure)
    return figures


def probe_curves(runs: Sequence[Run]) -> list[Figure]:
    """Online probes of pretrainings, one panel per task and metric, one line per run."""
    panels: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        about = run.summary.get("online") or {}
        if "key" in about:
            panels.setdefault((str(about["task"]), str(about["key"])), []).append(run)
    figures = []
    for (task, key), members in sorted(panels.items()):
        with mpl.rc_context(RC):
            figure, axes = panel(f"Online probe: {task}, {key.partition('/')[2].replace('_', ' ')}")
            for k, run in enumerate(members):
                look = style(run.method, variant=sum(other.method == run.method for other in members[:k]))
                steps, values = series(run, key)
                name = f" · {run.name}" if len(members) > 1 else ""
                axes.plot(
                    steps, values, color=look.color, linestyle=look.line, marker=look.marker, markersize=4,
                    markerfacecolor=look.face, label=f"{run.method}{name}",
                )  # fmt: skip
            axes.set_xlabel("optimiser step")
            _legend(axes)
            figures.append(figure)
    return figures


def validation_curves(table: Table) -> list[Figure]:
    """Validation metric of fine-tuning, one panel per label fraction: thin: seeds, thick: their mean."""
    key = f"val/{table.metric}"
    if not any(key in line for run in table.runs for line in run.curve):
        key = "val/loss"
    figures = []
    for fraction in table.fractions:
        with mpl.rc_context(RC):
            figure, axes = panel(f"Validation {key.removeprefix('val/')} at {table.budget(fraction)} labels")
            for row in table.rows:
                look = style(table.method(row), variant=table.variant(row))
                lines = [series(run, key) for run in table.runs_of(row, fraction)]
                lines = [(steps, values) for steps, values in lines if len(steps)]
                if len(lines) > 1:
                    for steps, values in lines:
                        axes.plot(steps, values, color=look.color, alpha=0.35, linewidth=0.9, linestyle=look.line)
                if lines:
                    steps, values = average(lines)
                    axes.plot(
                        steps, values, color=look.color, linestyle=look.line, linewidth=1.8, label=row,
                        marker=look.marker, markersize=4,
                    )  # fmt: skip
            axes.set_xlabel("optimiser step")
            _legend(axes)
            if axes.lines:
                figures.append(figure)
    return figures


def series(run: Run, key: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps and values of one metric; steps in which it was not finite are left out."""
    pairs = [(line["step"], line[key]) for line in run.curve if key in line]
    steps, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    keep = np.isfinite(values)
    return steps[keep], values[keep]


def smooth(values: NDArray[Any]) -> NDArray[Any]:
    """Gaussian mean over a fortieth of the curve to either side; centred, so that it does not lag behind."""
    from scipy.ndimage import gaussian_filter1d

    smoothed: NDArray[Any] = gaussian_filter1d(values, max(len(values) / 40, 0.5), mode="nearest")
    return smoothed


def average(lines: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean over runs at each step that all of them logged."""
    found: dict[float, list[float]] = {}
    lines = list(lines)
    for steps, values in lines:
        for step, value in dict(zip(steps, values, strict=True)).items():
            found.setdefault(step, []).append(value)
    shared = sorted(step for step, values in found.items() if len(values) == len(lines))
    return np.array(shared), np.array([np.mean(found[step]) for step in shared])


def to_svg(figure: Figure) -> str:
    """A figure as SVG text whose letters are outlines: it looks the same without any font installed."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()


def panel(title: str, *, height: float = SIZE[1]) -> tuple[Figure, Any]:
    """An empty figure with its axes; height in inches."""
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, pad=9)
    return figure, axes


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, handlelength=2.6)
