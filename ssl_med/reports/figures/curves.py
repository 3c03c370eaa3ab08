"""Curves of single runs along their training: losses, online probes, validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_med.reports.escape import drawn
from ssl_med.reports.numbers.column_runs import ColumnRuns
from ssl_med.reports.run_folder import Run
from ssl_med.reports.style import INK, LINES, RC, Style, panel, style

_INSIDE = 4  # entries of a legend that find room beside the lines


def loss_curves(runs: Sequence[Run]) -> list[Figure]:
    """Pretraining losses, one panel per method: losses of different methods have no common scale."""
    figures = []
    for method in sorted({run.method for run in runs}):
        with mpl.rc_context(RC):
            figure, axes = panel(f"Pretraining loss: {method}")
            look = style(method)
            members = [run for run in runs if run.method == method]
            crowd = len(members) > len(LINES)  # more runs than kinds of lines are drawn alike, and named in no legend
            for k, run in enumerate(members):
                name = "" if len(members) == 1 else f" · {drawn(run.name)}"
                name = f", {len(members)} runs" if crowd else name
                line, shown = LINES[0 if crowd else k], not crowd or k == 0
                steps, loss = series(run, "train/loss")
                if len(steps):
                    axes.plot(steps, loss, color=look.color, alpha=0.25, linewidth=0.9)
                    axes.plot(
                        steps, smooth(loss), color=look.color, linestyle=line, label=f"train{name}" if shown else ""
                    )
                steps, loss = series(run, "val/loss")
                if len(steps):
                    axes.plot(
                        steps, loss, color=INK, linestyle=line, marker=look.marker, markersize=4,
                        linewidth=1.1, label=f"validation{name}" if shown else "",
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
        if "key" in about and "task" in about:
            panels.setdefault((str(about["task"]), str(about["key"])), []).append(run)
    figures = []
    for (task, key), members in sorted(panels.items()):
        with mpl.rc_context(RC):
            figure, axes = panel(f"Online probe: {task}, {key.partition('/')[2].replace('_', ' ')}")
            for k, run in enumerate(members):
                look = style(run.method, variant=sum(other.method == run.method for other in members[:k]))
                steps, values = series(run, key)
                name = f" · {drawn(run.name)}" if len(members) > 1 else ""
                axes.plot(
                    steps, values, color=look.color, linestyle=look.line, marker=look.marker, markersize=4,
                    markerfacecolor=look.face, label=f"{drawn(run.method)}{name}",
                )  # fmt: skip
            axes.set_xlabel("optimiser step")
            _legend(axes)
            figures.append(figure)
    return figures


def validation_curves(table: ColumnRuns, looks: Mapping[str, Style]) -> list[Figure]:
    """Validation metric of fine-tuning, one panel per label fraction: thin: seeds, thick: their mean."""
    key = f"val/{table.metric}"
    if not any(key in line for run in table.runs for line in run.curve):
        key = "val/loss"
    figures = []
    for fraction in table.fractions:
        with mpl.rc_context(RC):
            figure, axes = panel(f"Validation {key.removeprefix('val/')} at {table.budget(fraction)} labels")
            for row in table.rows:
                look = looks[row]
                lines = [series(run, key) for run in table.runs_of(row, fraction)]
                lines = [(steps, values) for steps, values in lines if len(steps)]
                if len(lines) > 1:
                    for steps, values in lines:
                        axes.plot(steps, values, color=look.color, alpha=0.35, linewidth=0.9, linestyle=look.line)
                if lines:
                    steps, values = average(lines)
                    axes.plot(
                        steps, values, color=look.color, linestyle=look.line, linewidth=1.8, label=drawn(row),
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


def _legend(axes: Any) -> None:
    entries = len(axes.get_legend_handles_labels()[0])
    if entries > _INSIDE:  # would lie on the lines
        axes.figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, handlelength=2.6)
    elif entries:
        axes.legend(fontsize=8.5, handlelength=2.6)
