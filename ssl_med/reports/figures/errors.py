"""Figures of an error analysis, from plain arrays: ROC and precision-recall, confusion, calibration, values of all cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from ssl_med.reports.escape import drawn
from ssl_med.reports.style import COLORS, FAINT, INK, LINES, RC

Array = NDArray[Any]
_TOGETHER = 4  # curves that one panel can show; more get a panel each
_COLUMNS = 4


@dataclass(frozen=True)
class Line:
    """A curve of one class: points, the level of guessing (precision-recall: the share of positives) and what to say of it."""

    name: str
    x: Array
    y: Array
    note: str
    guessing: float = math.nan


def curves(lines: Sequence[Line], *, kind: Literal["roc", "precision_recall"]) -> Figure:
    """ROC or precision-recall curves; grey and dotted: what guessing gives."""
    words = {
        "roc": ("ROC", "false-positive rate (1 − specificity)", "true-positive rate (sensitivity)"),
        "precision_recall": ("Precision and recall", "recall (sensitivity)", "precision (positive predictive value)"),
    }
    title, across, up = words[kind]
    with mpl.rc_context(RC):
        if len(lines) <= _TOGETHER:
            figure = Figure(figsize=(4.9, 4.7), layout="constrained")
            axes = figure.subplots()
            for k, line in enumerate(lines):
                label = f"{drawn(line.name)}: {line.note}"
                _curve(axes, line, kind=kind, color=COLORS[k], style=LINES[k], label=label)
            axes.set_title(title, pad=9)
            axes.set_xlabel(across)
            axes.set_ylabel(up)
            axes.legend(
                loc="lower right" if kind == "roc" else "best",
                fontsize=8.5,
                handlelength=2.6,
                frameon=True,
                edgecolor="none",
            )
            return figure
        rows = -(-len(lines) // _COLUMNS)
        figure = Figure(figsize=(2.35 * _COLUMNS, 2.55 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True)
        for panel in panels.flat[len(lines) :]:
            panel.set_visible(False)
        for k, (panel, line) in enumerate(zip(panels.flat, lines, strict=False)):
            _curve(panel, line, kind=kind, color=COLORS[0], style="-", label=drawn(line.name))
            panel.set_title(f"{drawn(line.name, longest=30)}\n", fontsize=9.5)
            panel.text(0, 1.03, line.note, transform=panel.transAxes, fontsize=8, color=FAINT)
            panel.tick_params(labelsize=8, labelbottom=k + _COLUMNS >= len(lines))
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, weight="bold", color=INK)
        figure.supxlabel(across, fontsize=9.5, color=INK)
        figure.supylabel(up, fontsize=9.5, color=INK)
        return figure


def _curve(axes: Any, line: Line, *, kind: str, color: str, style: Any, label: str) -> None:
    if kind == "roc":
        axes.plot((0, 1), (0, 1), color=FAINT, linestyle=":", linewidth=1)
    else:
        axes.axhline(line.guessing, color=FAINT, linestyle=":", linewidth=1)
    # precision at a recall between two thresholds is that of the next one: a line between them would flatter
    steps = {"drawstyle": "steps-pre"} if kind == "precision_recall" else {}
    axes.plot(line.x, line.y, color=color, linestyle=style, linewidth=1.8, label=label, **steps)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.5 if label == line.name else 0.2))


def froc(rate: Array, sensitivity: Array, *, at: Sequence[float], lesions: int, scans: int) -> Figure:
    """Sensitivity against false positives per scan (logarithmic), with the operating points `at` whose mean is the CPM.

    Args:
        rate: false positives per scan, ascending from 0.
        sensitivity: the highest at each.
        at: operating points.
        lesions: number behind the sensitivity.
        scans: number behind the rate.
    """
    points = np.interp(at, rate, sensitivity)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(5.4, 3.9), layout="constrained")
        axes = figure.subplots()
        x = np.geomspace(min(at) / 1.3, max(at) * 1.3, 400)
        axes.plot(x, np.interp(x, rate, sensitivity), color=COLORS[0], linewidth=1.8)
        axes.plot(at, points, "o", color=COLORS[1], markersize=6)
        for place, value in zip(at, points, strict=True):
            axes.annotate(
                f"{value:.2f}", (place, value), (0, 7), textcoords="offset points", ha="center", fontsize=8.5, color=INK
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(list(at)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"1/{1 / rate:g}" if rate < 1 else f"{rate:g}" for rate in at])
        axes.set_ylim(-0.02, 1.08)
        axes.set_xlabel(f"false positives per scan ({scans} scan{'' if scans == 1 else 's'})")
        axes.set_ylabel(f"sensitivity ({lesions} lesions)")
        axes.set_title(f"FROC: CPM {points.mean():.3f}", pad=9)
        return figure


def confusion(counts: Array, names: Sequence[str]) -> Figure:
    """Truth by answer: counts, and the share of each truth, which colours the field.

    Args:
        counts: (K, K).
        names: K classes.
    """
    return _fields(
        np.asarray(counts), _shares(counts), rows=names, columns=names, title="Confusion", up="truth", across="answer"
    )


def finding_tables(tables: Array, names: Sequence[str]) -> Figure:
    """What was answered at probability .5, finding by finding; shares of those with, and of those without it.

    Args:
        tables: (K, 2, 2) truth by answer.
        names: K findings.
    """
    tables = np.asarray(tables)
    shares = np.stack([_shares(table) for table in tables])
    order = [(1, 1), (1, 0), (0, 1), (0, 0)]
    columns = ("found", "missed", "false alarm", "rightly absent")
    counts, parts = (np.stack([x[:, i, j] for i, j in order], axis=1) for x in (tables, shares))
    return _fields(counts, parts, rows=names, columns=columns, title="Findings at probability .5", up="", across="")


def _shares(counts: Array) -> Array:
    total = np.asarray(counts).sum(1, keepdims=True)
    shares: Array = np.divide(counts, total, out=np.zeros(np.shape(counts)), where=total > 0)
    return shares


def _fields(
    counts: Array, shares: Array, *, rows: Sequence[str], columns: Sequence[str], title: str, up: str, across: str
) -> Figure:
    with mpl.rc_context({**RC, "axes.grid": False}):
        rows, columns = [drawn(name) for name in rows], [drawn(name) for name in columns]
        wide, high = 1.15 * len(columns), (0.75 if len(rows) < 8 else 0.42) * len(rows)
        figure = Figure(figsize=(wide + 0.085 * max(map(len, rows)) + 1.3, high + 1.25), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i in range(len(rows)):
            for j in range(len(columns)):
                color = "white" if shares[i, j] > 0.55 else INK
                gap = "\n" if len(rows) < 8 else "   "
                text = f"{counts[i, j]}{gap}{100 * shares[i, j]:.0f} %"
                axes.text(j, i, text, ha="center", va="center", color=color, fontsize=9)
        axes.set_xticks(range(len(columns)), columns, rotation=0 if max(map(len, columns)) < 15 else 20)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        for between in range(1, len(rows)):
            axes.axhline(between - 0.5, color="white", linewidth=2)
        for between in range(1, len(columns)):
            axes.axvline(between - 0.5, color="white", linewidth=2)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_title(title, pad=9)
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=18)
        bar.set_label("share of the truth", color=INK)
        bar.outline.set_visible(False)
        return figure


def reliability(probability: Array, frequency: Array, count: Array, *, ece: float, of: str, bins: str) -> Figure:
    """Stated probability against observed frequency, and how many cases stated it.

    Args:
        probability: mean stated probability of each bin that is not empty.
        frequency: share of cases in which it came true.
        count: number of cases.
        ece: expected calibration error.
        of: what the probability is of.
        bins: how they were made.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(4.6, 5.4), layout="constrained")
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        axes.plot((0, 1), (0, 1), color=FAINT, linestyle=":", linewidth=1, label="perfect")
        axes.plot(probability, frequency, color=COLORS[0], marker="o", markersize=4.5, linewidth=1.6, label="observed")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("observed frequency")
        axes.set_title(f"Calibration: ECE {ece:.3f}", pad=9)
        axes.legend(loc="upper left", fontsize=8.5)
        below.bar(probability, count, width=0.035, color=COLORS[0])
        below.set_yscale("log")
        below.set_ylim(bottom=0.7)
        below.yaxis.set_minor_locator(NullLocator())
        below.set_ylabel("number")
        below.set_xlabel(f"{of}\n({bins})")
        return figure


def case_values(values: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Every case as a point, with median and quartiles: one panel a metric, one row a region.

    Args:
        values: metric with its unit -> region -> values of the cases, 0 or more.
    """
    with mpl.rc_context({**RC, "axes.grid.axis": "x"}):
        regions = max(len(panel) for panel in values.values())
        figure = Figure(figsize=(3.5 * len(values) + 0.6, 0.62 * regions + 1.25), layout="constrained")
        panels = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
        rng = np.random.default_rng(0)
        for panel, (metric, rows) in zip(panels, values.items(), strict=True):
            for k, line in enumerate(rows.values()):
                line = np.asarray(line, float)
                panel.plot(line, k + rng.uniform(-0.22, 0.22, len(line)), ".", color=COLORS[0], alpha=0.5, markersize=5)
                low, middle, high = np.percentile(line, (25, 50, 75))
                panel.plot((low, high), (k, k), color=INK, linewidth=1.6, zorder=1)
                panel.plot((middle, middle), (k - 0.28, k + 0.28), color=COLORS[1], linewidth=2.4, zorder=1)
            panel.set_yticks(range(len(rows)), [drawn(row) for row in rows])
            panel.set_ylim(len(rows) - 0.45, -0.55)
            panel.set_xlabel(metric)
            highest = max(float(np.max(line)) for line in rows.values())
            panel.set_xlim(-0.03 * (highest or 1), 1.03 if highest <= 1 else 1.05 * highest)
        count = len(next(iter(next(iter(values.values())).values())))
        figure.suptitle(
            f"{count} test cases: points; bar: quartiles; upright: median", x=0.01, ha="left", fontsize=9.5, color=INK
        )
        return figure
